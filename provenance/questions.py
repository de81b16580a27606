"""What auditors ask of a whole ledger: what something touched, what was in force when, what changed, what is unsigned.

A run is what its `shard_roots` entry ties together: verdict, checks, sources, certificates, erasures, by their indexes.
Every answer is a list of entries, so each can be proved (`Ledger.prove`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from millcert.errors import IntegrityError, UsageError
from millcert.provenance.erasure import tombstone_from
from millcert.provenance.ledger import Ledger, LoggedEntry
from millcert.provenance.lookup import SampleRun, list_runs
from millcert.provenance.sample_run import RunRoots, roots_from
from millcert.provenance.state import StateFolder
from millcert.provenance.timestamp import is_timestamp

_MANY = 1_000_000


@dataclass(frozen=True)
class RunRecord:
    """One run. certificates: of its output, if it was admitted. erasures: of its samples."""

    roots: RunRoots
    logged: LoggedEntry
    verdict: LoggedEntry
    sources: tuple[LoggedEntry, ...]
    checks: tuple[LoggedEntry, ...]
    certificates: tuple[LoggedEntry, ...]
    erasures: tuple[LoggedEntry, ...]

    @property
    def entries(self) -> tuple[LoggedEntry, ...]:
        """Every entry of the run, by index."""
        all_of_it = (self.logged, self.verdict, *self.sources, *self.checks, *self.certificates, *self.erasures)
        return tuple(sorted(all_of_it, key=lambda logged: logged.index))


@dataclass(frozen=True)
class Suspect:
    """What may have gone wrong; everything that is given must hold of a run. None is not asked.

    source: name in the policy. identity: who signed a source. file: name in the manifest. sha256: of a file, hex.
    check: name, or name@version.

    Raises:
        UsageError: nothing is given.
    """

    source: str | None = None
    identity: str | None = None
    file: str | None = None
    sha256: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise UsageError("Nothing was named.", hint="Give a source, an identity, a file, a digest or a check.")


@dataclass(frozen=True)
class Changes:
    """What a ledger of `new` entries has that one of `old` had not. consistency: proof that nothing else changed."""

    old: int
    new: int
    entries: tuple[LoggedEntry, ...]
    kinds: tuple[tuple[str, int], ...]
    consistency: tuple[bytes, ...]


def list_records(ledger: Ledger) -> Iterator[RunRecord]:
    """Yield the ledger's runs, oldest first. Verdicts without a `shard_roots` entry are of no run (`unresolved`).

    Raises:
        LedgerError: an entry is not what the tree says.
    """
    certificates = ledger.find(kind="certificate", limit=_MANY)
    erasures = ledger.find(kind="erasure", limit=_MANY)
    for logged in list_runs(ledger):
        roots = roots_from(logged.entry)
        verdict = ledger.get(roots.verdict)
        digest = verdict.entry.body.get("verdict_digest")
        yield RunRecord(
            roots=roots,
            logged=logged,
            verdict=verdict,
            sources=tuple(map(ledger.get, roots.sources)),
            checks=tuple(map(ledger.get, roots.checks)),
            certificates=tuple(
                one
                for one in certificates
                if one.entry.body.get("verdict_digest") == digest and one.entry.recorded_at == verdict.entry.recorded_at
            ),
            erasures=tuple(one for one in erasures if _erases(one, roots.run_id)),
        )


def unresolved(ledger: Ledger) -> list[LoggedEntry]:
    """Return the verdicts that no `shard_roots` entry names: of runs before there were any, or that were cut short."""
    named = {roots_from(logged.entry).verdict for logged in list_runs(ledger)}
    return [logged for logged in ledger.find(kind="verdict", limit=_MANY) if logged.index not in named]


def runs_touched(ledger: Ledger, state: StateFolder, suspect: Suspect) -> list[RunRecord]:
    """Return the runs that a source, signer, file or check had a part in: the blast radius.

    Raises:
        StoreError: a file was named, and a run's shard list is not in the state folder.
        LedgerError: an entry or a list is not what the ledger says.
    """
    return [record for record in list_records(ledger) if _is_touched(record, state, suspect)]


def in_force(ledger: Ledger, time: str) -> dict[str, RunRecord]:
    """Return, for each data set, the newest run whose verdict was recorded at or before `time`.

    Raises:
        UsageError: the time is not RFC 3339 in UTC.
        LedgerError: an entry is not what the tree says.
    """
    if not is_timestamp(time):
        raise UsageError(f"Expected a time such as 2026-11-23T02:38:55Z, got {time[:80]!r}.")
    newest: dict[str, RunRecord] = {}
    for record in list_records(ledger):
        if _instant(record.verdict.entry.recorded_at) <= _instant(time):
            newest[record.roots.dataset] = record
    return dict(sorted(newest.items()))


def changes_between(ledger: Ledger, old: int, new: int) -> Changes:
    """Return what was added between two sizes of the ledger, and the proof that the newer extends the older.

    Raises:
        UsageError: the sizes are not 0 < old <= new <= the ledger's size.
        LedgerError: an entry is not what the tree says.
    """
    consistency = ledger.prove_consistency(old, new)
    entries = tuple(map(ledger.get, range(old, new)))
    kinds = tuple(sorted(Counter(logged.entry.kind for logged in entries).items()))
    return Changes(old, new, entries, kinds, consistency)


def without_provenance(ledger: Ledger) -> list[tuple[RunRecord, LoggedEntry]]:
    """Return (run, source) for each source that went into a run without a verified signature.

    Raises:
        LedgerError: an entry is not what the tree says.
    """
    return [
        (record, source)
        for record in list_records(ledger)
        for source in record.sources
        if source.entry.body.get("status") != "verified"
    ]


def _erases(logged: LoggedEntry, run_id: str) -> bool:
    """Say whether an erasure is of this run; one that no reader understands is of none (`erased` lists it)."""
    try:
        return tombstone_from(logged.entry).run == run_id
    except IntegrityError:
        return False


def _is_touched(record: RunRecord, state: StateFolder, suspect: Suspect) -> bool:
    bodies = [source.entry.body for source in record.sources]
    names = {
        body.get("source")
        for body in bodies
        if suspect.source in (None, body.get("source")) and suspect.identity in (None, body.get("identity"))
    }
    asks_source = (suspect.source, suspect.identity) != (None, None)
    if (asks_source and not names) or (suspect.check is not None and not _ran(record.checks, suspect.check)):
        return False
    if (suspect.file, suspect.sha256) == (None, None):
        return True
    with SampleRun(state, record.logged) as run:
        return any(
            suspect.file in (None, shard.file)
            and suspect.sha256 in (None, shard.sha256)
            and (shard.source in names or not asks_source)
            for shard in run.shards
        )


def _ran(checks: Sequence[LoggedEntry], wanted: str) -> bool:
    name, _, version = wanted.partition("@")
    bodies = [check.entry.body for check in checks]
    return any(body.get("name") == name and version in ("", str(body.get("version"))) for body in bodies)


def _instant(time: str) -> str:
    """Return a time as text whose order is that of time: fractions of a second made equally long."""
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<6}"
