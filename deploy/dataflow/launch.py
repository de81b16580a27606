"""Start `millcert vet` on Dataflow from the parameters of metadata.json, given as schedulers do: --name=value.

    python deploy/dataflow/launch.py --data=gs://bucket/data --policy=/etc/millcert/policy.yaml ...

It runs where the keys and the ledger are, waits for the job, and ends with millcert's exit code. A Flex Template's own
launcher cannot do that: it ends when the job is submitted, and its machine is thrown away, so that nothing would be
recorded, signed or published. It is known by the option that it adds, and refused.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

METADATA = Path(__file__).with_name("metadata.json")
#: Parameters that millcert itself takes; the others are Beam's.
_OURS = ("policy", "out", "state", "views", "selftest")


def command_of(arguments: Sequence[str], metadata: dict[str, Any]) -> list[str]:
    """Return the words behind `millcert` for a list of --name=value.

    Raises:
        SystemExit: a parameter is unknown, missing, given twice, or not of its form (exit code 2).
    """
    known = {parameter["name"]: parameter for parameter in metadata["parameters"]}
    given: dict[str, str] = {}
    for argument in arguments:
        name, separator, value = argument.removeprefix("--").partition("=")
        if name == "template_location":
            _refuse("A Flex Template's launcher ends before the job does: nothing would be recorded or published.")
        if not argument.startswith("--") or not separator or name not in known or name in given:
            _refuse(f"Expected --name=value once for each of {', '.join(known)}; got {argument!r}.")
        if not all(re.fullmatch(pattern, value) for pattern in known[name]["regexes"]):
            _refuse(f"--{name}: {value!r} is not of the form {known[name]['regexes'][0]}.")
        given[name] = value
    missing = [name for name, parameter in known.items() if not parameter.get("isOptional") and name not in given]
    if missing:
        _refuse(f"--{missing[0]} is missing: {known[missing[0]]['helpText']}")
    words = ["vet", given.pop("data")]
    words += ["--replace"] if given.pop("replace", "false") == "true" else []
    for name in _OURS:
        words += [f"--{name}", given.pop(name)] if name in given else []
    return [
        *words,
        "--runner=DataflowRunner",
        "--sdk_location=container",
        *(f"--{name}={given[name]}" for name in given),
    ]


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(2)


def main() -> int:
    """Run millcert in this process; return its exit code."""
    words = command_of(sys.argv[1:], json.loads(METADATA.read_text()))
    from millcert.cli.main import main as millcert

    return millcert(words)


if __name__ == "__main__":
    sys.exit(main())
