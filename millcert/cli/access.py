"""`millcert ledger access`: who asked the ledger what, and when."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError


@click.group()
def access() -> None:
    """Say who asked the ledger what, and when. Words that were asked for are kept as keyed digests."""


@access.command(name="list")
@click.option("--asked", default=None, metavar="OPTION=VALUE", help="Only who asked for exactly this.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The newest lines.")
@state_option
@json_option
def list_command(asked: str | None, limit: int, state: Path | None, as_json: bool) -> None:
    """List the questions, newest last, with the chain checked from its beginning."""
    from millcert.provenance.access_log import AccessLog

    folder, ledger = opened(state)
    ledger.close()
    log = AccessLog(folder.path)
    wanted: tuple[str, str] | None = None
    if asked is not None:
        name, separator, value = asked.partition("=")
        if not separator:
            raise UsageError(f"Expected OPTION=VALUE, got {asked!r}.", hint="For example --asked sample=9c1f...")
        wanted = name, log.keyed(name, value)
    lines = list(log.lines())
    found = [one for one in lines if wanted is None or _has(one.asked.get(wanted[0]), wanted[1])]
    rows = [f"{one.number:>6}  {one.at}  {one.by}  {one.command}  {', '.join(sorted(one.asked))}" for one in found]
    rows = [*rows[-limit:], f"{len(found)} of {len(lines)} questions", "next: millcert ledger access anchor"]
    listed = [
        {
            "number": one.number,
            "at": one.at,
            "by": one.by,
            "command": one.command,
            "asked": dict(one.asked),
            "sha256": one.sha256,
        }
        for one in found[-limit:]
    ]
    payload = {"version": 1, "questions": len(lines), "matching": len(found), "lines": listed}
    emit(payload, "\n".join(rows), as_json=as_json)


@access.command()
@state_option
@json_option
def anchor(state: Path | None, as_json: bool) -> None:
    """Put the end of the log into the ledger: cutting the log is noticed from then on. Needs the private key."""
    from millcert.provenance.access_log import AccessLog, anchor_entry
    from millcert.provenance.timestamp import stamp

    folder, ledger = opened(state, for_appending=True)
    with ledger:
        head = AccessLog(folder.path).head()
        index = ledger.append([anchor_entry(head, stamp(datetime.now(UTC)))]).indexes[0]
        origin = ledger.origin
    text = f"anchored  {head.lines} questions in {origin} #{index}\nnext: millcert ledger access verify"
    payload = {"version": 1, "origin": origin, "index": index, "lines": head.lines, "sha256": head.sha256}
    emit(payload, text, as_json=as_json)


@access.command()
@state_option
@json_option
def verify(state: Path | None, as_json: bool) -> None:
    """Check the chain, and that it still begins with everything that was anchored in the ledger."""
    from millcert.provenance.access_log import KIND, AccessLog

    folder, ledger = opened(state)
    log = AccessLog(folder.path)
    with ledger:
        anchors = ledger.find(kind=KIND, limit=ledger.size + 1)
    head = log.head()
    for one in anchors:
        lines, sha256 = one.entry.body.get("lines"), one.entry.body.get("sha256")
        if isinstance(lines, int) and isinstance(sha256, str):
            log.require_holds(lines, sha256)
    text = f"whole  {head.lines} questions, {len(anchors)} anchors in the ledger\nnext: millcert ledger access anchor"
    payload = {"version": 1, "lines": head.lines, "sha256": head.sha256, "anchors": [one.index for one in anchors]}
    emit(payload, text, as_json=as_json)


def _has(value: Any, wanted: str) -> bool:
    return wanted in value if isinstance(value, list) else value == wanted
