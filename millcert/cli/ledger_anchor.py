"""`millcert ledger anchor`: have a timestamp authority say since when a checkpoint is there (RFC 3161)."""

from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.cli.files import read_bounded, write_new
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import StoreError, UsageError

if TYPE_CHECKING:
    from millcert.provenance.anchor import Anchor, AnchorAuthority
    from millcert.provenance.checkpoint import VerifierKey


@click.command("anchor", epilog="Exit codes: 0 anchored, 3 the authority's answer does not verify, 5 it gave none.")
@click.option("--tsa", "url", required=True, help="The timestamp authority's URL.")
@click.option(
    "--tsa-chain",
    "chain",
    type=click.Path(path_type=Path),
    required=True,
    help="Its certificates (PEM): the root, and the rest of the chain.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Write the anchor to a new file.")
@state_option
@json_option
def anchor(url: str, chain: Path, out: Path, state: Path | None, as_json: bool) -> None:
    """Have the newest checkpoint timestamped, and write the anchor that shows it.

    Whoever has the anchor can show, without the ledger's keeper and without a network, that all entries under it were
    logged before that time. Keep it where the keeper cannot write.
    """
    from millcert.provenance.anchor import MAX_TOKEN_BYTES, make_anchor, timestamp_request
    from millcert.provenance.bounded_post import PostFailedError, is_service_url, post

    if not is_service_url(url):
        raise UsageError(f"Expected an http or https URL, got {url!r}.", hint="Check --tsa.")
    authority = _authority(chain)
    with opened(state)[1] as held:
        note, vkeys = held.checkpoint(), list(held.vkeys)
    try:
        status, token = post(
            url,
            timestamp_request(note),
            content_type="application/timestamp-query",
            max_answer_bytes=MAX_TOKEN_BYTES,
        )
    except PostFailedError as error:
        raise _failed(url, str(error)) from error
    if status != HTTPStatus.OK:
        raise _failed(url, f"answered {status}")
    data = make_anchor(note, token, vkeys, authority)
    write_new(out, data)
    shown = read_anchor(out, chain, vkeys)
    at = shown.anchored_at.isoformat()
    text = (
        f"anchored  {shown.checkpoint.origin}  {shown.checkpoint.size:,} entries at {at}: {out}\n"
        f"  next: keep it elsewhere; later: millcert ledger verify --anchor {out} --tsa-chain {chain}"
    )
    payload = {
        "version": 1,
        "origin": shown.checkpoint.origin,
        "size": shown.checkpoint.size,
        "root": shown.checkpoint.root.hex(),
        "anchored_at": at,
        "path": str(out),
    }
    emit(payload, text, as_json=as_json)


def read_anchor(path: Path, chain: Path, vkeys: "list[VerifierKey]") -> "Anchor":
    """Return the anchor in a file, verified with the pinned certificates in another.

    Raises:
        UsageError: a file is missing, or `chain` pins no authority.
        LedgerError, SignatureError: the anchor does not verify.
    """
    from millcert.provenance.anchor import MAX_ANCHOR_BYTES, verify_anchor

    data = read_bounded(path, MAX_ANCHOR_BYTES, what="anchor", hint="Check --anchor.")
    return verify_anchor(data, vkeys, _authority(chain))


def anchored_line(shown: "Anchor") -> str:
    """Return the line of an answer that says since when entries are there."""
    return (
        f"  its first {shown.checkpoint.size:,} entries are there since {shown.anchored_at.isoformat()} at the latest"
    )


def _authority(chain: Path) -> "AnchorAuthority":
    from millcert.provenance.anchor import MAX_CHAIN_BYTES, load_authority

    pem = read_bounded(chain, MAX_CHAIN_BYTES, what="certificate chain", hint="Check --tsa-chain.")
    return load_authority(pem[:MAX_CHAIN_BYTES])


def _failed(url: str, reason: str) -> StoreError:
    return StoreError(
        f"The timestamp authority {url} {reason}.", hint="Nothing was written. Try again, or ask another one.", url=url
    )
