"""What starting a command loads: people wait for it, and what is not loaded cannot fail or be attacked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import millcert
from millcert.cli.main import COMMANDS

REPOSITORY = Path(millcert.__file__).parents[1]
HEAVY = ("apache_beam", "great_expectations", "cleanlab", "sklearn", "pandas", "torch")
NUMERIC = ("numpy", "pyarrow", "scipy")

#: Counts of modules on CPython 3.11, with room for other versions: 131 measured for the list of commands.
LIGHT = 200

PROBE = """
import json, sys
{code}
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""

CALL = """
import contextlib, io
from millcert.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main({arguments!r}) == 0
"""


def modules_after(code: str) -> set[str]:
    # Coverage starts itself in every process that inherits its variables; its modules are not ours to count.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    probe = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded: list[str] = json.loads(probe.stderr.splitlines()[-1])
    return set(loaded)


def loaded_of(modules: set[str], names: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if name in modules)


def test_the_list_of_commands_loads_none_of_them() -> None:
    modules = modules_after(CALL.format(arguments=["--help"]))

    commands = {command.target.partition(":")[0] for command in COMMANDS.values()}
    assert not modules & commands
    assert not loaded_of(modules, (*HEAVY, *NUMERIC, "pydantic", "yaml", "sqlalchemy", "sigstore", "cryptography"))
    assert len(modules) < LIGHT, len(modules)


@pytest.mark.parametrize("name", ["admit", "ledger", "evidence", "source", "policy", "check", "selftest"])
def test_the_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    modules = modules_after(CALL.format(arguments=[name, "--help"]))

    assert not loaded_of(modules, (*HEAVY, *NUMERIC, "sqlalchemy", "sigstore"))
    assert len(modules) < LIGHT, len(modules)


@pytest.mark.parametrize("name", ["admit", "ledger", "evidence", "witness"])
def test_a_light_command_s_module_loads_nothing_heavy(name: str) -> None:
    modules = modules_after(f"import millcert.cli.{name}")

    assert not loaded_of(modules, HEAVY)
    assert len(modules) < LIGHT, len(modules)


def test_admission_needs_no_numbers_no_database_and_no_sigstore() -> None:
    modules = modules_after("import millcert.cli.admit, millcert.provenance.certificate")

    assert not loaded_of(modules, (*HEAVY, *NUMERIC, "sqlalchemy", "sigstore"))


def test_the_package_itself_loads_nothing() -> None:
    modules = modules_after("import millcert")

    assert {name for name in modules if name.startswith("millcert")} == {"millcert"}


def test_reading_a_policy_needs_no_engine() -> None:
    modules = modules_after("import millcert.policy")

    assert not loaded_of(modules, (*HEAVY, *NUMERIC, "sqlalchemy", "sigstore"))


def test_every_public_name_is_there() -> None:
    for name in millcert.__all__:
        assert getattr(millcert, name) is not None


def test_a_public_name_is_looked_up_once() -> None:
    assert millcert.Policy is millcert.Policy
    assert "Policy" in vars(millcert)


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'zz'"):
        millcert.zz  # noqa: B018 - the access is the test
    assert set(dir(millcert)) == set(millcert.__all__)
