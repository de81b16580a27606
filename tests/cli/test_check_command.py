"""`millcert check`: list, describe, conform."""

import json
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from millcert.checks import conformance, registry
from millcert.checks.detectors.spectral_signatures import SpectralSignatures
from millcert.cli.check import check
from millcert.errors import PolicyError, UnknownCheckError, UsageError


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(check, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_list_names_every_check_and_what_to_do_next() -> None:
    code, out = run("list")

    assert code == 0
    assert "robust_spectral" in out
    assert out.splitlines()[-1].startswith("next: ")


def test_the_list_as_json_has_the_facts_of_each() -> None:
    _, out = run("list", "--json")

    checks = {item["name"]: item for item in json.loads(out)["checks"]}
    assert checks["robust_spectral"]["severity"] == "reject"
    assert checks["robust_spectral"]["columns"] == ["embedding_self", "label", "source"]


def test_a_description_has_the_configuration() -> None:
    _, text = run("describe", "spectral_signatures")
    _, out = run("describe", "spectral_signatures", "--json")

    assert "epsilon (float, required)" in text
    assert json.loads(out)["config"] == [{"name": "epsilon", "type": "float", "required": True, "default": None}]


def test_a_sound_check_conforms() -> None:
    code, out = run("conform", "spectral_signatures", "--set", "epsilon=0.2")

    assert code == 0
    assert "keeps all 11 rules" in out


def test_a_broken_check_exits_1_and_says_what_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Local(SpectralSignatures):
        """Cannot be pickled: no other process could find its class."""

    monkeypatch.setattr(registry, "check_class", lambda _: Local)

    code, text = run("conform", "spectral_signatures", "--set", "epsilon=0.2")
    _, out = run("conform", "spectral_signatures", "--set", "epsilon=0.2", "--json")

    assert code == conformance.ConformanceError.exit_code
    assert "BROKEN  pickling_changes_nothing" in text
    assert json.loads(out)["conforms"] is False


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("describe", "nothing"), UnknownCheckError),
        (("conform", "spectral_signatures"), PolicyError),
        (("conform", "spectral_signatures", "--set", "epsilon=big"), PolicyError),
        (("conform", "spectral_signatures", "--set", "epsilon"), UsageError),
    ],
)
def test_a_wrong_call_is_refused(arguments: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        run(*arguments)
