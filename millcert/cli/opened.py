"""The state folder and ledger that a command works on: one option, one way to open them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.ledger import Ledger
    from millcert.provenance.state import StateFolder

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of keys and ledger.  [default: $MILLCERT_HOME or .millcert]",
)


def opened(state: Path | None, *, for_appending: bool = False) -> tuple["StateFolder", "Ledger"]:
    """Return the state folder and its ledger, verified with the public key beside it; close it after use.

    Raises:
        UsageError: there is no ledger, or no private key where one is needed.
        LedgerError, SignatureError, StoreError: as `open_ledger`.
    """
    from millcert.provenance.keys import load_key
    from millcert.provenance.ledger import open_ledger
    from millcert.provenance.state import load_ledger_vkeys, state_folder

    folder = state_folder(state)
    if not folder.ledger.exists():
        raise UsageError(
            f"There is no ledger at {folder.ledger}.",
            hint="Give --state DIR; the first `millcert vet` makes a ledger.",
            path=str(folder.ledger),
        )
    vkeys = load_ledger_vkeys([folder.ledger_vkey])
    key = load_key(folder.path / "keys" / "ledger.key") if for_appending else None
    return folder, open_ledger(folder.ledger, origin=vkeys[0].name, vkeys=vkeys, key=key)
