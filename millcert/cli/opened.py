"""The state folder and ledger that a command works on: one option, one way to open them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.ledger import Ledger
    from millcert.provenance.state import StateFolder

F = TypeVar("F", bound=Callable[..., Any])

_LEDGER = "millcert.ledger"


def state_option(command: F) -> F:
    """Add `--state`, which the function gets as `state`, and `--ledger`, which `opened` and `chosen_ledger` read."""
    command = click.option(
        "--ledger",
        metavar="URL",
        envvar="MILLCERT_LEDGER",
        default=None,
        expose_value=False,
        callback=_keep_ledger,
        help="Database of the ledger: postgresql://USER@HOST/DATABASE, sqlite:///FILE or a file.  "
        "[default: $MILLCERT_LEDGER or ledger.db in the state folder]",
    )(command)
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        default=None,
        help="Folder of keys and ledger.  [default: $MILLCERT_HOME or .millcert]",
    )(command)


def chosen_ledger() -> str | None:
    """Return what `--ledger` of this call names; None means the file in the state folder. It may hold a password."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_LEDGER)


def _keep_ledger(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    del parameter
    context.meta[_LEDGER] = value or None


def opened(state: Path | None, *, for_appending: bool = False) -> tuple["StateFolder", "Ledger"]:
    """Return the state folder and its ledger, verified with the public key beside it; close it after use.

    The command that asks leaves a line in the access log first (`millcert ledger access list`).

    Raises:
        UsageError: there is no ledger, or no private key where one is needed.
        LedgerError, SignatureError, StoreError: as `open_ledger`.
    """
    from millcert.provenance.keys import load_key
    from millcert.provenance.ledger import open_ledger
    from millcert.provenance.state import load_ledger_vkeys, state_folder

    folder = state_folder(state)
    url = chosen_ledger()
    if url is None and not folder.ledger.exists():
        raise UsageError(
            f"There is no ledger at {folder.ledger}.",
            hint="Give --state DIR or --ledger URL; the first `millcert vet` makes a ledger.",
            path=str(folder.ledger),
        )
    from millcert.cli.questioned import log_question

    log_question(folder.path)
    vkeys = load_ledger_vkeys([folder.ledger_vkey])
    key = load_key(folder.path / "keys" / "ledger.key") if for_appending else None
    return folder, open_ledger(folder.ledger, origin=vkeys[0].name, vkeys=vkeys, key=key, url=url)
