"""The line that every question to the ledger leaves in the access log, before it is answered."""

import getpass
from datetime import UTC, datetime
from pathlib import Path

import click

#: Not what was asked, but how it is answered and with what.
_NOT_ASKED = frozenset({"as_json", "state", "key_path", "out"})


def log_question(state: Path) -> None:
    """Leave the line of the command that is running now, before it is answered.

    Raises:
        StoreError, IntegrityError: it could not be left.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    from millcert.provenance.access_log import AccessLog
    from millcert.provenance.timestamp import stamp

    asked = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in context.params.items()
        if name not in _NOT_ASKED and value not in (None, (), False)
    }
    AccessLog(state).record(at=stamp(datetime.now(UTC)), by=_account(), command=context.command_path, asked=asked)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
