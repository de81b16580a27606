"""What a command prints: the answer on standard output, as text or as JSON; never anything else there."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Add `--json` to a command; the function gets it as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON on standard output.")(command)


def emit(payload: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's answer: `payload` as JSON with sorted keys if `as_json`, else `text`."""
    answer = json.dumps(payload, indent=2, sort_keys=True, allow_nan=False) if as_json else text
    # A terminal that cannot show a character is no reason to fail: names come from others.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(answer.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding) + "\n")
