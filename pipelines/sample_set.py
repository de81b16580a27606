"""A run's samples in the state folder: what the workers wrote, joined, and what the ledger says of it.

The driver joins the files' parts in the order of their names and merges the sorted runs into the 256 index files
(index_merge.py), so the result depends on the data and the run's secret, and on neither workers nor bundles.
"""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from millcert.errors import InternalError, StoreError
from millcert.pipelines.index_merge import PooledRuns, SortedRun, merge_index
from millcert.pipelines.part_files import open_part
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.ruling import RunResult
from millcert.pipelines.sample_leaves import LeafFacts, part_stem, read_leaves
from millcert.provenance.finding_store import write_findings
from millcert.provenance.keys import sync_folder
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.lookup import INDEX_FOLDER, LIST_FILE, SEALED_FILE, files_folder, salts_folder
from millcert.provenance.salt_store import drop_salts, write_salts
from millcert.provenance.sample_leaf import RunSecret
from millcert.provenance.sample_run import RunRoots, Shard, format_shards, shards_root
from millcert.provenance.shard_tree import TreeWriter, list_leaf
from millcert.provenance.state import StateFolder

_COPY_BYTES = 1 << 20


class SampleSet(NamedTuple):
    """What the driver settled: the state's folders are whole. roots in hex; to be logged.

    flagged, findings_root: of the findings of single samples; -1 and "" where none are kept.
    """

    shards: tuple[Shard, ...]
    shards_root: str
    shards_sha256: str
    index_root: str
    flagged: int = -1
    findings_root: str = ""

    @property
    def records(self) -> int:
        """All records of all files."""
        return sum(shard.records for shard in self.shards)

    @property
    def samples(self) -> int:
        """Those that decode."""
        return sum(shard.samples for shard in self.shards)


def settle_samples(
    staging: str,
    state: StateFolder,
    secret: RunSecret,
    files: Sequence[tuple[str, str, str]],
    findings: Iterable[tuple[bytes, bytes]] | None = None,
) -> SampleSet:
    """Join what the workers wrote into the state folder, durably; nothing is logged yet.

    Args:
        staging: of the run.
        state: gets `provenance/<shards root>/` and `salts/<shards root>/`.
        secret: of the run.
        files: (name, source, SHA-256 of the bytes in hex) of every data file.
        findings: (row salt, record) of every flagged sample; None keeps no findings of single samples.

    Raises:
        StoreError: a part is missing, or the state folder cannot be written. A later run is not disturbed by what is
            left of this one.

    Cost: about 2 microseconds a row, one process; memory bounded, see index_merge.py.
    """
    ordered = sorted(files, key=lambda file: file[0].encode())
    temporary = state.path / "provenance" / f".new-{secrets.token_hex(8)}"
    try:
        temporary.mkdir(parents=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".runs-", dir=temporary.parent) as joined:
            facts, runs = _join(staging, [name for name, _, _ in ordered], temporary, Path(joined))
            index_root = merge_index(runs, temporary)
        shards = tuple(
            Shard(name, fact.records, fact.samples, fact.root, sha256, source)
            for (name, source, sha256), fact in zip(ordered, facts, strict=True)
        )
        listed = format_shards(shards)
        _write_durably(temporary / LIST_FILE, listed)
        with TreeWriter(lambda level: (temporary / f"shards.{level}").open("wb")) as tree:
            tree.extend(b"".join(list_leaf(shard.line()) for shard in shards))
        settled = SampleSet(shards, shards_root(shards).hex(), hashlib.sha256(listed).hexdigest(), index_root.hex())
        if findings is not None:
            flagged, findings_root = write_findings(temporary, findings)
            settled = settled._replace(flagged=flagged, findings_root=findings_root.hex())
        _sync_files(temporary)
        _move_in(temporary, state, secret, settled)
    except OSError as error:
        raise StoreError(
            f"The run's samples cannot be kept in {state.path}: {error}",
            hint="Free space (about 140 bytes a row) or rights, then run again; nothing was published.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return settled


def samples_entry(samples: SampleSet, entries: Sequence[Entry], indexes: Sequence[int]) -> Entry:
    """Return the `shard_roots` entry of a run.

    Args:
        samples: what was settled.
        entries: the run's other entries; the last one is its verdict.
        indexes: where they are in the ledger.
    """
    verdict = entries[-1]
    placed = list(zip(entries, indexes, strict=True))
    return RunRoots(
        dataset=str(verdict.body["dataset"]),
        input_root=verdict.subject,
        records=samples.records,
        samples=samples.samples,
        shards=len(samples.shards),
        shards_root=samples.shards_root,
        shards_sha256=samples.shards_sha256,
        index_root=samples.index_root,
        flagged=samples.flagged,
        findings_root=samples.findings_root,
        verdict=indexes[-1],
        checks=tuple(index for entry, index in placed if entry.kind == "check_summary"),
        sources=tuple(index for entry, index in placed if entry.kind == "manifest" and "source" in entry.body),
    ).entry(verdict.recorded_at)


def data_files(plan: VetPlan, result: RunResult) -> list[tuple[str, str, str]]:
    """Return (name, source, SHA-256 in hex) of every data file of a run, for `settle_samples`.

    Raises:
        InternalError: the run has no manifest, so it has no verdict.
    """
    if result.input_manifest is None:
        raise InternalError("A run without a manifest has no samples to keep.")
    digests = {entry.path: entry.sha256 for entry in result.input_manifest.files}
    return [(item.name, item.source, digests[item.name]) for item in plan.items]


def _move_in(temporary: Path, state: StateFolder, secret: RunSecret, settled: SampleSet) -> None:
    """Put salts, then files, under the run's name. An empty run's name may be there already, with the same content."""
    salts, target = salts_folder(state, settled.shards_root), files_folder(state, settled.shards_root)
    if not target.exists():
        drop_salts(salts)  # of an equally empty run that crashed between the two
        write_salts(salts, secret, ((shard.file, shard.records) for shard in settled.shards))
        temporary.rename(target)
        sync_folder(target.parent)


def _join(staging: str, names: Sequence[str], temporary: Path, joined: Path) -> tuple[list[LeafFacts], list[SortedRun]]:
    """Join what the workers wrote of every file: its tree level by level, its sealed digests, its index records."""
    every, pool = [], PooledRuns(joined)
    with ExitStack() as stack:
        targets: dict[str, BinaryIO] = {}
        for shard, name in enumerate(names):
            facts, together = read_leaves(staging, name)
            every.append(facts)
            levels = [f"rows.{level}" for level in range(facts.levels)]
            pieces = [(name, facts, together)]
            if facts.spans:  # the spans hold the leaves, the file the levels above them
                units = [f"{name}\0{number}" for number in range(facts.spans)]
                pieces = [(unit, *read_leaves(staging, unit)) for unit in units]
            for part in (SEALED_FILE, *levels):
                if part not in targets:
                    targets[part] = stack.enter_context((temporary / part).open("wb"))
                for unit, _, held in pieces if part in {SEALED_FILE, "rows.0"} else [(name, facts, together)]:
                    _append_part(targets[part], part_stem(staging, unit), part, held)
            for unit, piece, held in pieces:
                for number, size in enumerate(piece.runs):
                    pool.add(shard, size, f"{part_stem(staging, unit)}.run.{number}", held.get(f"run.{number}"))
        runs = pool.end()
    return every, runs


def _append_part(target: BinaryIO, stem: str, part: str, together: Mapping[str, bytes]) -> None:
    if part in together:
        target.write(together[part])
        return
    with open_part(stem, part) as source:
        shutil.copyfileobj(source, target, _COPY_BYTES)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        with suppress(IsADirectoryError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(folder / INDEX_FOLDER)
    sync_folder(folder)
