"""What every run of a ledger says of one sample: where it was, that it was not there, or that nobody can tell."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from millcert.errors import InconclusiveError, UsageError
from millcert.provenance.ledger import LoggedEntry
from millcert.provenance.lookup import FoundSample, SampleRun
from millcert.provenance.sample_run import RunRoots, roots_from
from millcert.provenance.state import StateFolder


@dataclass(frozen=True)
class RunAnswer:
    """What one run says of a sample.

    logged, roots: the run's `shard_roots` entry. found: its places. unknown: why nobody can tell, or "". A sample that
    was not found, in a run that can tell, was not in it, and `SampleRun.absence` proves that.
    """

    logged: LoggedEntry
    roots: RunRoots
    found: tuple[FoundSample, ...]
    unknown: str

    @property
    def is_absent(self) -> bool:
        """Whether the sample was provably not in the run."""
        return not self.found and not self.unknown


def ask_runs(state: StateFolder, runs: Iterable[LoggedEntry], digest: bytes) -> Iterator[RunAnswer]:
    """Yield the answer of each run, in their order.

    Raises:
        UsageError: the digest is not 32 bytes.
        StoreError: a run's files are not in the state folder.
        LedgerError: they are not what the ledger says.
    """
    for logged in runs:
        with SampleRun(state, logged) as run:
            yield ask_run(run, digest)


def ask_run(run: SampleRun, digest: bytes) -> RunAnswer:
    """Return the answer of one run that is open."""
    try:
        found = tuple(run.find(digest))
        if not found:
            run.absence(digest)  # tells erased neighbours from a gap
    except InconclusiveError as error:
        return RunAnswer(run.logged, run.roots, (), error.message)
    return RunAnswer(run.logged, run.roots, found, "")


def parse_digest(text: str) -> bytes:
    """Return the sample digest that a text says in hex.

    Raises:
        UsageError: it is not 64 hex digits.
    """
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32 or len(text) != 64:
        raise UsageError(
            f"A sample digest is 64 hex digits, got {text[:80]!r}.",
            hint="Findings and quarantine files name samples by it; docs/formats/sample-digest.md says how it is made.",
        )
    return digest


def newest_with(state: StateFolder, runs: Iterable[LoggedEntry], file: str) -> LoggedEntry:
    """Return the newest run that has a file of this name.

    Raises:
        UsageError: no run has it.
        StoreError, LedgerError: as `SampleRun`.
    """
    for logged in reversed(list(runs)):
        with SampleRun(state, logged) as run:
            if any(shard.file == file for shard in run.shards):
                return logged
    raise UsageError(f"No run has a file {file!r}.", hint="Files are named as in the run's manifest.json.")


def run_id_of(logged: LoggedEntry) -> str:
    """Return the name of the run that a `shard_roots` entry is about."""
    return roots_from(logged.entry).run_id
