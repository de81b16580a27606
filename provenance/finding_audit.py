"""A run's findings recomputed: that its tree is sorted and complete, so that "nothing was said of it" means that.

Steps of `FindingAudit`:
  1. Place keys ascend strictly, and the leaves have the logged root, as many as the ledger says.
  2. Each record is that of a sample of the run: its salt opens it, and its commitment is the leaf's.
  3. No record is left that no sample has, except for samples that were erased.
  4. Each check has as many findings as its own entry in the ledger says, less those of samples that were erased.
Step 4 is what the tree cannot show by itself: a gate that keeps a finding back and sorts the rest has a sound tree.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from millcert.errors import IntegrityError, LedgerError
from millcert.provenance.finding_leaf import finding_leaf_hash, parse_record
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.lookup import SampleRun
from millcert.provenance.merkle import TreeBuilder


class FindingAudit:
    """The findings of a run that keeps some, recomputed: `add` each sample, then `end`.

    Raises:
        LedgerError: the tree is not what the ledger says (1).
    """

    def __init__(self, run: SampleRun) -> None:
        if run.finding_store is None:
            raise LedgerError(f"Run {run.roots.run_id[:16]} keeps no findings.")
        self._run = run
        self._store = run.finding_store
        self._found = 0
        self._by_check: Counter[str] = Counter()
        builder, last = TreeBuilder(), b""
        for position in range(run.roots.flagged):  # 1
            key, commitment = self._store.leaf(position)
            if key <= last:
                raise damaged(run, f"finding {position} is out of order")
            last = key
            builder.append(finding_leaf_hash(key, commitment))
        if builder.root().hex() != run.roots.findings_root:
            raise damaged(run, "the findings have another root than the ledger says")

    def add(self, salt: bytes) -> None:
        """Look at what the checks said of the sample with this salt.

        Raises:
            LedgerError: its record is another than its leaf says, or none that can be read (2).
        """
        record = self._store.record(salt)
        if record is None:
            return
        try:
            said = parse_record(record.decode())
        except (IntegrityError, UnicodeDecodeError) as error:
            raise damaged(self._run, "the findings of a sample are none") from error
        self._found += 1
        self._by_check.update(str(one["check"]) for one in said)

    def end(self, checks: Iterable[Entry], *, erased: int) -> int:
        """Return how many samples have findings, after every sample was added (3, 4).

        Args:
            checks: the run's `check_summary` entries.
            erased: samples of the run whose salts are gone.

        Raises:
            LedgerError: findings are missing, or there are some of no sample.
        """
        if not 0 <= self._run.roots.flagged - self._found <= erased:
            missing = self._run.roots.flagged - self._found
            raise damaged(self._run, f"{missing} findings are of no sample, and {erased} samples were erased")
        for name, count in sorted(_flagged(checks).items()):
            kept = self._by_check[name]
            if not 0 <= count - kept <= erased:
                what = f"there are findings of {name} of {kept} samples, and by the ledger it flagged {count}"
                raise damaged(self._run, f"{what}; {erased} samples were erased")
        return self._found


def compare_published(run: SampleRun, published: Iterable[tuple[str, int, bytes]]) -> int:
    """Compare published findings with those of the run; return of how many samples there are some.

    Args:
        run: open, of the run that published them.
        published: (file, row, record) of each flagged sample, each once.

    Raises:
        LedgerError: the run has other findings of a sample, or there are more or fewer of them than the run has.
        UsageError: a file or row is not in the run.
    """
    if run.finding_store is None:
        raise LedgerError(f"Run {run.roots.run_id[:16]} keeps no findings, so there is nothing to compare.")
    numbers = {shard.file: number for number, shard in enumerate(run.shards)}
    count = 0
    for file, row, record in published:
        count += 1
        if file not in numbers or not 0 <= row < run.shards[numbers[file]].records:
            raise _differs(run, f"it has no row {row} of {file!r}")
        opened = run.open_row(numbers[file], row)
        if opened is not None and run.finding_store.record(opened[0]) != record:
            raise _differs(run, f"the checks said something else of row {row} of {file!r}")
    if count != run.roots.flagged:
        raise _differs(run, f"{count} samples have published findings, {run.roots.flagged} by the ledger")
    return count


def damaged(run: SampleRun, what: str) -> LedgerError:
    """Return the error that a run's files are not what the ledger says."""
    return LedgerError(
        f"Run {run.roots.run_id[:16]}: {what}.",
        hint="Restore the run's folder in the state folder from a copy; what was proved before stays proved.",
    )


def _differs(run: SampleRun, what: str) -> LedgerError:
    return LedgerError(
        f"The published findings are not those of run {run.roots.run_id[:16]}: {what}.",
        hint="Give the output folder as the gate published it, of this very run.",
    )


def _flagged(checks: Iterable[Entry]) -> Mapping[str, int]:
    """Return check -> how many samples it flagged; without entries that say no number (expectations)."""
    flagged = ((one.body.get("name"), one.body.get("flagged")) for one in checks)
    return {str(name): count for name, count in flagged if type(count) is int}
