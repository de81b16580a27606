"""A list of web addresses, asked again later: what is still there, what is not, and what looks taken over.

What each word means:
  same           the bytes are those of the list.
  changed        something else is served, or the address now leads where no fetch may follow.
  gone           server or name service say that there is nothing (HTTP 4xx, no such host).
  unreachable    nobody can tell now; a later run may (time-outs, TLS failures, HTTP 5xx, 408, 425, 429).
  re_registered  changed or gone, and the host looks like another one's: its certificate has another public key, and
                 besides another issuer, or no address in common with before.
Re-registered is an inference, never a proof. No registry is asked. A new owner cannot have the old private key, so the
key must differ; but keys are renewed (every 60 to 90 days is common) and services move, so for bytes that did not
change the signs are only listed. Without the result file of a fetch there is no "before", and the word is never used.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from millcert.provenance.url_fetch import Budget, Metered, in_parallel, judge
from millcert.provenance.url_list import MAX_URL_CHARACTERS, UrlRow
from millcert.provenance.url_results import UrlResult
from millcert.provenance.url_transport import Transport

#: Every word of a recheck, in the order of reports.
WORDS = ("same", "changed", "re_registered", "gone", "unreachable", "no_hash", "refused")
_EXIT_CODES = (("changed", 3), ("re_registered", 3), ("no_hash", 3), ("refused", 3), ("unreachable", 5), ("gone", 4))


class _Digest:
    """A sink that keeps nothing but the digest."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def restart(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, chunk: bytes) -> bool:
        self._hash.update(chunk)
        return True

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def recheck_rows(
    rows: Sequence[UrlRow],
    transport: Transport,
    *,
    before: Mapping[int, UrlResult],
    budget: Budget,
    max_bytes: int,
    workers: int,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int, int], None] = lambda _done, _rows: None,
) -> tuple[UrlResult, ...]:
    """Ask every address of a list again; stores nothing.

    Args:
        rows: of the list.
        transport: what fetches.
        before: row -> what a fetch of the same list saw; empty where there was none.
        budget: of all addresses.
        max_bytes: of one body.
        workers: how many are asked at once.
        now: the clock, for the results' own times.
        progress: told how many rows of how many are done.

    Returns:
        A result for each row, in the list's order; `outcome` is one of WORDS. A row that may not be fetched by its own
        fault is "refused", one without a digest "no_hash".
    """

    def ask(group: Sequence[UrlRow]) -> list[UrlResult]:
        return [_ask(row, transport, before.get(row.number), budget, max_bytes, now) for row in group]

    found: dict[int, UrlResult] = {}
    for some in in_parallel(ask, ([row] for row in rows), workers, abort=transport.abort):
        found |= {one.row: one for one in some}
        progress(len(found), len(rows))
    return tuple(found[row.number] for row in rows)


def exit_code(results: Sequence[UrlResult]) -> int:
    """Return the exit code of a recheck: 3 where bytes changed, else 5 where a retry may tell more, else 4, else 0."""
    seen = {result.outcome for result in results}
    return next((code for outcome, code in _EXIT_CODES if outcome in seen), 0)


def counts(results: Sequence[UrlResult]) -> dict[str, int]:
    """Return how many rows came to each word."""
    found = Counter(result.outcome for result in results)
    return {word: found[word] for word in WORDS}


def _ask(
    row: UrlRow,
    transport: Transport,
    before: UrlResult | None,
    budget: Budget,
    max_bytes: int,
    now: Callable[[], datetime],
) -> UrlResult:
    stamp = now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    url = row.url[:MAX_URL_CHARACTERS]  # a longer one is never asked
    result = UrlResult(row.number, url, "refused", "row", row.fault, expected_sha256=row.sha256, checked_at=stamp)
    if row.fault:
        return result
    if not row.sha256:
        return replace(result, outcome="no_hash", reason="", detail="the list has no SHA-256 for it")
    seconds = budget.seconds()
    if not seconds:
        words = "the time for all addresses is over"
        return replace(result, outcome="unreachable", reason="total_seconds", detail=words)
    sink = _Digest()
    allowed = max_bytes if row.size_bytes is None else min(row.size_bytes, max_bytes)
    answer = transport.get(row.url, Metered(sink, budget), max_bytes=allowed, seconds=seconds)
    return classify(judge(row, answer, sink.sha256, stamp), before)


def classify(seen: UrlResult, before: UrlResult | None) -> UrlResult:
    """Return the result of a recheck from what was seen now and at the fetch.

    Args:
        seen: as `judge` gave it.
        before: of the same row; None where nobody saw it.
    """
    if seen.reason == "total_bytes":
        return replace(seen, outcome="unreachable")
    words = {"verified": "same", "split_view": "changed", "refused": "changed"}
    # A body above the caller's own bound may well be the same.
    outcome = "refused" if seen.reason == "too_large" else words.get(seen.outcome, seen.outcome)
    signs = _signs(seen, before)
    if outcome in {"changed", "gone"} and "key" in signs and len(signs) > 1:
        outcome = "re_registered"
    return replace(seen, outcome=outcome, signs=signs, path="")


def _signs(seen: UrlResult, before: UrlResult | None) -> tuple[str, ...]:
    """Return what of the host is not as it was; only what was seen both times can differ."""
    if before is None or before.host != seen.host:
        return ()
    found = []
    if before.key_sha256 and seen.key_sha256 and before.key_sha256 != seen.key_sha256:
        found.append("key")
        if before.issuer != seen.issuer:
            found.append("issuer")
    if before.addresses and seen.addresses and not set(before.addresses) & set(seen.addresses):
        found.append("addresses")
    return tuple(found)
