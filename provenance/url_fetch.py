"""A list of web addresses, fetched: every byte is what the list's digest says, or nothing is published.

The proof, step by step; each block below repeats its number:
  1. A row without a SHA-256 refuses the list before anything is fetched.
  2. Bytes count only if their SHA-256 is the row's: others are `split_view`, whatever the server said about them.
  3. Bytes that are here from an earlier run are hashed again; those that are right are not fetched again.
  4. A row that did not come out well refuses the whole fetch, unless the caller said that rows of this outcome are left
     out; each of those is listed.
  5. The output appears whole, with a manifest of exactly what was verified.
The caller owes: the list's bytes were verified against its signer, or that nobody signed it was accepted knowingly.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from millcert.errors import (
    DigestMismatchError,
    HostileDataError,
    InconclusiveError,
    ManifestError,
    MillcertError,
    StoreError,
    UntrustedSourceError,
    UsageError,
)
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.url_list import MAX_URL_CHARACTERS, UrlRow, by_digest
from millcert.provenance.url_results import UrlResult
from millcert.provenance.url_store import OWN_NAMES, FetchStore, ObjectSink
from millcert.provenance.url_transport import Answer, Sink, Transport

#: What may become of a row besides "verified", gravest first, and the error that stands for it.
OUTCOMES: Mapping[str, tuple[type[MillcertError], str, str]] = {
    "split_view": (
        DigestMismatchError,
        "serve other bytes than the list says (split view)",
        "What the curator saw is not what is served now. Leave them out knowingly (--drop split_view), or find a copy.",
    ),
    "no_hash": (
        UntrustedSourceError,
        "have no SHA-256 in the list",
        "Nobody can say what their bytes should be. Ask the curator, or leave them out (--drop no_hash).",
    ),
    "refused": (
        HostileDataError,
        "break a rule or bound of fetching",
        "Raise the bound if it is meant, or leave them out (--drop refused).",
    ),
    "unreachable": (
        StoreError,
        "cannot be reached now",
        "Run again: what is verified already is kept. Or leave them out (--drop unreachable).",
    ),
    "gone": (
        InconclusiveError,
        "are gone",
        "Their bytes cannot be had there any more. Find a copy, or leave them out (--drop gone).",
    ),
}
_SHOWN = 20


@dataclass(frozen=True)
class FetchPlan:
    """How a list is fetched. Our choice, all bounds.

    drop: outcomes whose rows are left out. max_dropped_fraction: of all rows, in [0, 1]; more refuse the fetch.
    max_total_bytes, max_total_seconds: over all addresses. workers: how many are fetched at once.
    now: the clock, for the result file alone.
    """

    drop: frozenset[str] = frozenset()
    max_dropped_fraction: float = 1.0
    max_total_bytes: int = 1 << 40
    max_total_seconds: float = 24 * 3600.0
    workers: int = 16
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        unknown = sorted(self.drop - set(OUTCOMES))
        if unknown:
            raise UsageError(f"There is no outcome {unknown[0]!r}; known are {', '.join(OUTCOMES)}.")
        if not 0 <= self.max_dropped_fraction <= 1:
            raise UsageError(f"max_dropped_fraction must be in [0, 1], got {self.max_dropped_fraction}.")


@dataclass(frozen=True)
class Fetched:
    """What a fetch came to.

    results: of every row, in the list's order. manifest: of what was verified. error: why nothing may be published;
    None where it may. fetched: addresses that were asked; reused: rows whose bytes were here.
    """

    results: tuple[UrlResult, ...]
    manifest: Manifest | None
    error: MillcertError | None
    fetched: int
    reused: int


class Budget:
    """What is left of the bytes and the time of all addresses; several threads take from it.

    Bytes count as they come, those of attempts that failed included.
    """

    def __init__(self, total_bytes: int, total_seconds: float) -> None:
        self._left_bytes = total_bytes
        self._deadline = time.monotonic() + total_seconds
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """Return how much time is left."""
        return max(self._deadline - time.monotonic(), 0.0)

    def spend(self, size_bytes: int) -> bool:
        """Take so many bytes; False where there are not so many left."""
        with self._lock:
            self._left_bytes -= size_bytes
            return self._left_bytes >= 0


class Metered:
    """A sink that stops where the budget of all addresses ends."""

    def __init__(self, sink: Sink, budget: Budget) -> None:
        self._sink = sink
        self._budget = budget

    def restart(self) -> None:
        """Forget what was written; it was spent all the same."""
        self._sink.restart()

    def write(self, chunk: bytes) -> bool:
        """Take the next piece; False where the budget is spent."""
        return self._budget.spend(len(chunk)) and self._sink.write(chunk)


def fetch_rows(
    rows: Sequence[UrlRow],
    *,
    name: str,
    store: FetchStore,
    transport: Callable[[], Transport],
    plan: FetchPlan,
    max_bytes: int,
    is_complete_expected: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _rows: None,
) -> Fetched:
    """Fetch a list into a store; publishes nothing.

    Args:
        rows: of the list.
        name: of the manifest.
        store: keeps what is verified.
        transport: makes what fetches; not called where everything is here already.
        plan: bounds, and what is left out.
        max_bytes: of one body.
        is_complete_expected: there is an output that may not be replaced, so nothing is fetched beside it.
        progress: told how many rows of how many are done, from any thread.

    Raises:
        ManifestError: a row wants the manifest's own path, or no manifest may have the name.
        UsageError: something would have to be fetched though all was expected to be there.
        StoreError: the disk does not take the bytes.

    Memory: some hundred bytes a row, and a chunk for each worker.
    """
    Manifest(name, ())  # a name that no manifest may have is told before anything is fetched
    own = [row for row in rows if row.path.partition("/")[0].lower() in OWN_NAMES]
    if own:
        raise ManifestError(
            f"Row {own[0].number} wants the path {own[0].path!r}, which is that of the manifest or its bundle.",
            hint="Give the file another path.",
            row=own[0].number,
        )
    unhashed = [row for row in rows if not row.sha256 and not row.fault]
    if unhashed and "no_hash" not in plan.drop:  # 1
        return _settle(rows, {row.number: _result(row, "no_hash") for row in unhashed}, name, plan, (0, 0))
    results: dict[int, UrlResult] = {}
    todo: list[list[UrlRow]] = []
    for group in by_digest(rows):
        known, asked = _known(group, store, plan)
        results |= known
        todo += [asked] if asked else []
    reused = sum(result.outcome == "verified" for result in results.values())
    if todo and is_complete_expected:
        raise UsageError(
            f"{store.out} holds an earlier fetch that lacks {len(todo)} of the list's files, or has them changed.",
            hint="Use --replace to fetch what is missing and replace it; what is right is not fetched again.",
        )
    if todo:
        with transport() as ready:
            work = _Work(ready, store, plan, Budget(plan.max_total_bytes, plan.max_total_seconds), max_bytes)
            for some in in_parallel(work.fetch_group, todo, plan.workers, abort=ready.abort):
                results |= {result.row: result for result in some}
                progress(len(results), len(rows))
    return _settle(rows, results, name, plan, (sum(map(len, todo)), reused))


def _known(group: Sequence[UrlRow], store: FetchStore, plan: FetchPlan) -> tuple[dict[int, UrlResult], list[UrlRow]]:
    """Return the results of rows of one digest that need no fetch, and the rows that do."""
    results: dict[int, UrlResult] = {}
    asked: list[UrlRow] = []
    for row in group:
        if row.fault:
            results[row.number] = _result(row, "refused", "row", row.fault)
        elif not row.sha256:
            results[row.number] = _result(row, "no_hash")
        else:
            asked.append(row)
    size_bytes = store.size_of(asked[0].sha256, asked[0].path) if asked else None  # 3
    if size_bytes is None:
        return results, asked
    return results | {row.number: _kept(row, size_bytes, plan) for row in asked}, []


@dataclass(frozen=True)
class _Work:
    transport: Transport
    store: FetchStore
    plan: FetchPlan
    budget: Budget
    max_bytes: int

    def fetch_group(self, group: Sequence[UrlRow]) -> list[UrlResult]:
        """Return the results of the rows that ask for the same bytes: the first address that has them is enough."""
        results: list[UrlResult] = []
        size_bytes: int | None = None
        for row in group:
            if size_bytes is not None:
                results.append(_kept(row, size_bytes, self.plan))
                continue
            with self.store.sink() as sink:
                result = self._fetch(row, sink)
                if result.outcome == "verified":
                    self.store.keep(sink)
                    size_bytes = sink.size_bytes
            results.append(result)
        return results

    def _fetch(self, row: UrlRow, sink: ObjectSink) -> UrlResult:
        stamp = _stamp(self.plan)
        seconds = self.budget.seconds()
        if not seconds:
            words = "the time for all addresses is over"
            return _result(row, "unreachable", "total_seconds", words, checked_at=stamp)
        allowed = self.max_bytes if row.size_bytes is None else row.size_bytes
        if allowed > self.max_bytes:
            words = f"the list says {allowed} bytes; at most {self.max_bytes} are taken"
            return _result(row, "refused", "too_large", words, checked_at=stamp)
        answer = self.transport.get(row.url, Metered(sink, self.budget), max_bytes=allowed, seconds=seconds)
        return judge(row, answer, sink.sha256, stamp)


def judge(row: UrlRow, answer: Answer, sha256: str, stamp: str) -> UrlResult:
    """Return what an answer means for a row (step 2).

    Args:
        row: with a digest.
        answer: of its address.
        sha256: of the bytes that were served, where they were.
        stamp: when, RFC 3339.
    """
    result = replace(
        _result(row, answer.outcome, answer.reason, answer.detail, checked_at=stamp),
        size_bytes=answer.size_bytes,
        status=answer.status,
        host=answer.host,
        addresses=answer.addresses,
        key_sha256=answer.key_sha256,
        issuer=answer.issuer,
    )
    if answer.outcome == "served":
        encoding = f", as {answer.encoding}" if answer.encoding else ""
        if sha256 == row.sha256 and row.size_bytes in (None, answer.size_bytes):
            return replace(result, outcome="verified", sha256=sha256, path=row.path)
        if sha256 == row.sha256:
            return replace(result, outcome="refused", reason="row", detail=_other_size(row, answer.size_bytes))
        words = f"the list says {row.sha256}, served were {answer.size_bytes} bytes{encoding} of {sha256}"
        return replace(result, outcome="split_view", reason="digest", detail=words, sha256=sha256)
    if answer.reason == "too_large" and row.size_bytes is not None:
        words = f"the list says {row.size_bytes} bytes, more are served"
        return replace(result, outcome="split_view", reason="size", detail=words)
    return result


def in_parallel(
    work: Callable[[Sequence[UrlRow]], list[UrlResult]],
    groups: Iterable[Sequence[UrlRow]],
    workers: int,
    *,
    abort: Callable[[], None],
) -> Iterator[list[UrlResult]]:
    """Yield what `work` makes of each group, in any order; no more than some groups a worker are in flight.

    Where that ends early (a full disk, an interrupt), `abort` makes those that run end, too.
    """
    from concurrent.futures import FIRST_COMPLETED, Future, wait

    pending: set[Future[list[UrlResult]]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="millcert-fetch") as pool:
        try:
            for group in groups:
                pending.add(pool.submit(work, group))
                if len(pending) >= 4 * workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (one.result() for one in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        except BaseException:
            for one in pending:
                one.cancel()
            abort()
            raise


def _settle(
    rows: Sequence[UrlRow], found: Mapping[int, UrlResult], name: str, plan: FetchPlan, counts: tuple[int, int]
) -> Fetched:
    results = tuple(
        replace(found[row.number], is_dropped=found[row.number].outcome in plan.drop)
        for row in rows
        if row.number in found
    )
    error = _error(results, len(rows), plan)  # 4
    if error is not None:
        return Fetched(results, None, error, *counts)
    entries = {
        result.path: FileEntry(result.path, result.size_bytes, result.sha256)
        for result in results
        if result.outcome == "verified"
    }
    if not entries:
        nothing = UsageError(
            "Nothing is left of the list: every row was left out.", hint="Look at the result file, and drop less."
        )
        return Fetched(results, None, nothing, *counts)
    return Fetched(results, Manifest(name, tuple(entries.values())), None, *counts)  # 5


def _error(results: Sequence[UrlResult], rows: int, plan: FetchPlan) -> MillcertError | None:
    bad = Counter(result.outcome for result in results if result.outcome in OUTCOMES and not result.is_dropped)
    for outcome, (kind, words, hint) in OUTCOMES.items():
        if not bad[outcome]:
            continue
        mine = [result for result in results if result.outcome == outcome]
        shown = "; ".join(f"row {one.row}: {_about(one)}" for one in mine[:_SHOWN])
        others = ", ".join(f"{count} {other}" for other, count in sorted(bad.items()) if other != outcome)
        return kind(
            f"{bad[outcome]} of {rows} rows {words}{f' (besides: {others})' if others else ''}. {shown}",
            hint=hint,
            reason=outcome,
            rows=tuple(one.row for one in mine),
        )
    dropped = sum(result.is_dropped for result in results)
    if dropped > plan.max_dropped_fraction * rows:
        return InconclusiveError(
            f"{dropped} of {rows} rows would be left out; at most {plan.max_dropped_fraction:g} of them may be.",
            hint="Look at the result file; raise --max-dropped-fraction if that is meant.",
            reason="too_many_dropped",
        )
    return None


def _about(result: UrlResult) -> str:
    reason = f" ({result.reason})" if result.reason else ""
    text = f"{result.url[:200]}{reason}{': ' if result.detail else ''}{result.detail}"
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)  # no line of its own


def _result(row: UrlRow, outcome: str, reason: str = "", detail: str = "", *, checked_at: str = "") -> UrlResult:
    if outcome == "no_hash":
        detail = "the list has no SHA-256 for it"
    url = row.url[:MAX_URL_CHARACTERS]  # a longer one was never asked
    return UrlResult(row.number, url, outcome, reason, detail, expected_sha256=row.sha256, checked_at=checked_at)


def _kept(row: UrlRow, size_bytes: int, plan: FetchPlan) -> UrlResult:
    """Return the result of a row whose bytes are here already."""
    if row.size_bytes is not None and row.size_bytes != size_bytes:
        return _result(row, "refused", "row", _other_size(row, size_bytes), checked_at=_stamp(plan))
    result = _result(row, "verified", "here_already", checked_at=_stamp(plan))
    return replace(result, path=row.path, sha256=row.sha256, size_bytes=size_bytes)


def _other_size(row: UrlRow, size_bytes: int) -> str:
    return f"the list says {row.size_bytes} bytes, those of its digest are {size_bytes}"


def _stamp(plan: FetchPlan) -> str:
    return plan.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
