"""Two options of every command that verifies: which witnesses must have cosigned, and how many of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.cosignature import WitnessRule

F = TypeVar("F", bound=Callable[..., Any])


def witness_options(command: F) -> F:
    """Add `--witness-key` and `--witnesses-required`; `witness_rule` reads both."""
    command = click.option(
        "--witnesses-required",
        type=click.IntRange(min=1),
        default=None,
        help="Refuse a checkpoint that fewer distinct witnesses of --witness-key cosigned.",
    )(command)
    return click.option(
        "--witness-key",
        "witness_keys",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Public keys of witnesses (name+hash+key), one a line; may be repeated.",
    )(command)


def witness_rule(witness_keys: tuple[Path, ...], required: int | None) -> "WitnessRule | None":
    """Return the rule that the two options give; None where neither is there.

    Raises:
        UsageError: one of them is missing, a file holds something else, or the number cannot be reached.
    """
    if bool(witness_keys) != (required is not None):
        missing = "--witnesses-required" if witness_keys else "--witness-key"
        raise UsageError(f"{missing} is missing.", hint="Give --witness-key FILE and --witnesses-required K together.")
    if required is None:
        return None
    from millcert.provenance.cosignature import WitnessRule
    from millcert.provenance.witness_folder import read_witness_vkeys

    return WitnessRule(tuple(key for path in witness_keys for key in read_witness_vkeys(path)), required)
