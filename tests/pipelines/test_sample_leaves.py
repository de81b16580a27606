"""What a run keeps of its rows depends on the data and the secret alone, and is the same as from the formulas."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import InternalError, StoreError
from millcert.pipelines import index_merge, part_files, sample_leaves
from millcert.pipelines.index_merge import PART, SortedRun, merged
from millcert.pipelines.sample_leaves import LeafWriter, new_secret, read_leaves, read_secret
from millcert.pipelines.sample_set import SampleSet, settle_samples
from millcert.provenance.ledger import open_ledger
from millcert.provenance.lookup import SampleRun, list_runs
from millcert.provenance.merkle import root_of
from millcert.provenance.sample_leaf import (
    NO_SAMPLE,
    RunSecret,
    index_key,
    index_leaf_hash,
    row_salt,
    sample_leaf_hash,
)
from millcert.provenance.state import StateFolder, load_ledger_vkeys
from millcert.testing.sample_runs import digests_of, write_leaves

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

SECRET = RunSecret(b"s" * 32)
FILES: dict[str, Sequence[bytes | None]] = {
    "b.parquet": [one.tobytes() for one in digests_of(300, seed=1)],
    "a.jsonl": [None, *[one.tobytes() for one in digests_of(20, seed=2)], None, None, bytes(32), bytes(32)],
    "empty.csv": [],
}


def settle(top: Path, *, batch: int = 8192, order: int = 1) -> tuple[SampleSet, dict[str, bytes]]:
    """Write and settle FILES; return what was settled, and the bytes of every file that was kept."""
    staging, state = top / "staging", top / "state"
    for name in list(FILES)[::order]:
        write_leaves(str(staging), name, FILES[name], SECRET, batch=batch)
    described = [(name, "north", hashlib.sha256(name.encode()).hexdigest()) for name in list(FILES)[::order]]
    settled = settle_samples(str(staging), StateFolder(state), SECRET, described)
    return settled, {
        path.relative_to(state).as_posix(): path.read_bytes() for path in state.rglob("*") if path.is_file()
    }


def salt_of(file: str, row: int) -> bytes:
    return row_salt(SECRET.block_seed(file, row // 256), row % 256)


def test_the_leaves_are_those_of_the_formulas_and_gaps_are_no_samples(tmp_path: Path) -> None:
    settled, _ = settle(tmp_path)

    for shard in settled.shards:
        rows = FILES[shard.file]
        leaves = [
            NO_SAMPLE if digest is None else sample_leaf_hash(salt_of(shard.file, row), digest)
            for row, digest in enumerate(rows)
        ]
        assert shard.root == root_of(leaves).hex()
        assert (shard.records, shard.samples) == (len(rows), sum(digest is not None for digest in rows))


def test_the_index_is_sorted_and_its_root_is_over_all_of_it(tmp_path: Path) -> None:
    settled, _ = settle(tmp_path)
    entries = sorted(
        (index_key(SECRET.index_salt, digest), number, row, salt_of(shard.file, row))
        for number, shard in enumerate(settled.shards)
        for row, digest in enumerate(FILES[shard.file])
        if digest is not None
    )

    assert settled.index_root == root_of(index_leaf_hash(salt, key) for key, _, _, salt in entries).hex()
    assert settled.samples == len(entries)


@pytest.mark.parametrize(
    ("batch", "order", "run_records", "merge_records", "together_bytes", "small", "pool"),
    [
        (7, -1, 50, 16, 0, 0, 30),
        (1, 1, 11, 4, 0, 25, 25),
        (1, 1, 11, 4, 5000, 1000, 60),
        (300, 1, 1000, 64, 1 << 20, 1000, 60),
        (300, -1, 1000, 64, 1 << 20, 0, 1000),
    ],
)
def test_batches_order_and_memory_change_no_byte(
    batch: int,
    order: int,
    run_records: int,
    merge_records: int,
    together_bytes: int,
    small: int,
    pool: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = settle(tmp_path / "plain")
    monkeypatch.setattr(sample_leaves, "RUN_RECORDS", run_records)
    monkeypatch.setattr(index_merge, "MERGE_RECORDS", merge_records)
    monkeypatch.setattr(index_merge, "SMALL_RECORDS", small)
    monkeypatch.setattr(index_merge, "POOL_RECORDS", pool)
    monkeypatch.setattr(part_files, "TOGETHER_BYTES", together_bytes)

    assert settle(tmp_path / "other", batch=batch, order=order) == expected


def test_a_retry_of_a_file_overwrites_the_same_bytes(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    for _ in range(2):
        write_leaves(str(staging), "b.parquet", FILES["b.parquet"], SECRET)
        before = {path.name: path.read_bytes() for path in (staging / "parts" / "leaves").iterdir()}
        write_leaves(str(staging), "b.parquet", FILES["b.parquet"], SECRET, batch=100)
    assert {path.name: path.read_bytes() for path in (staging / "parts" / "leaves").iterdir()} == before


@pytest.mark.parametrize("small", [0, 1000])
def test_a_missing_or_short_part_keeps_nothing(small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "TOGETHER_BYTES", 0)
    monkeypatch.setattr(index_merge, "SMALL_RECORDS", small)
    staging, state = tmp_path / "staging", tmp_path / "state"
    write_leaves(str(staging), "b.parquet", FILES["b.parquet"], SECRET)
    (path,) = (staging / "parts" / "leaves").glob("*.run.0")
    path.write_bytes(path.read_bytes()[:-72])

    with pytest.raises(StoreError, match="shorter than was written"):
        settle_samples(str(staging), StateFolder(state), SECRET, [("b.parquet", "north", "ab" * 32)])
    (leaves,) = path.parent.glob("*.rows.0")
    leaves.unlink()
    with pytest.raises(StoreError, match="missing from the run"):
        settle_samples(str(staging), StateFolder(state), SECRET, [("b.parquet", "north", "ab" * 32)])
    with pytest.raises(StoreError, match="missing from the run"):
        settle_samples(str(staging), StateFolder(state), SECRET, [("c.parquet", "north", "ab" * 32)])
    assert [path for path in state.rglob("*") if path.is_file()] == []


def test_parts_that_were_written_together_and_cut_off_keep_nothing(tmp_path: Path) -> None:
    staging, state = tmp_path / "staging", tmp_path / "state"
    write_leaves(str(staging), "b.parquet", FILES["b.parquet"], SECRET)
    (path,) = (staging / "parts" / "leaves").iterdir()
    path.write_bytes(path.read_bytes()[:-72])

    with pytest.raises(StoreError, match="missing from the run"):
        settle_samples(str(staging), StateFolder(state), SECRET, [("b.parquet", "north", "ab" * 32)])
    assert [path for path in state.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("rows", "records"), [([1, 1], 5), ([2, 1], 5), ([4, 5], 5)])
def test_rows_out_of_order_or_behind_the_end_are_our_bug(rows: list[int], records: int, tmp_path: Path) -> None:
    def write() -> None:
        with LeafWriter(str(tmp_path), "a", SECRET) as writer:
            writer.add(np.array(rows), np.zeros((2, 32), np.uint8))
            writer.end(records)

    with pytest.raises(InternalError):
        write()


def test_a_secret_is_random_and_read_back_from_the_staging_folder(tmp_path: Path) -> None:
    first, second = new_secret(str(tmp_path / "1")), new_secret(str(tmp_path / "2"))

    assert first != second
    assert read_secret(str(tmp_path / "1")) == first
    with pytest.raises(StoreError):
        read_secret(str(tmp_path / "3"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 255, 256, 2**56, 2**64 - 1]), max_size=40), min_size=1, max_size=4),
    st.integers(1, 30),
)
def test_the_merge_yields_what_sorting_everything_yields(columns: list[list[int]], records: int) -> None:
    """Any runs, with any repetition of keys, in any memory: the order of (key, shard, row)."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        runs, expected = [], []
        for shard, words in enumerate(columns):
            part = np.zeros(len(words), PART)
            part["key"][:, 3] = part["key"][:, 0] = sorted(words)
            part["row"] = np.arange(len(words))
            Path(f"{folder}/{shard}").write_bytes(part.tobytes())
            runs.append(SortedRun(f"{folder}/{shard}", shard, len(words)))
            expected += [(word, shard, row) for row, word in enumerate(sorted(words))]

        chunks = list(merged(runs, records=records))

    found = [(int(one["key"][0]), int(one["shard"]), int(one["row"])) for chunk in chunks for one in chunk]
    assert found == sorted(expected)


def test_a_run_of_the_gate_answers_for_every_row_that_it_read(bench: Workbench) -> None:
    result = bench.vet()
    state = StateFolder(bench.top / "state")
    vkeys = load_ledger_vkeys([state.ledger_vkey])
    with open_ledger(state.ledger, origin=vkeys[0].name, vkeys=vkeys) as ledger:
        (logged,) = list_runs(ledger)
        verdict = ledger.get(result.recorded.index).entry
    with SampleRun(state, logged) as run:
        assert (run.roots.records, run.roots.samples) == (360, 360)
        assert (run.roots.verdict, run.roots.input_root) == (result.recorded.index, verdict.subject)
        assert [(shard.file, shard.records, shard.source) for shard in run.shards] == [
            ("north/a.parquet", 150, "north"),
            ("north/deep/b.jsonl", 90, "north"),
            ("south/c.arrow", 120, "south"),
        ]
        for shard in run.shards:
            digest = run.at(shard.file, shard.records - 1).digest
            assert (shard.file, shard.records - 1) in [(one.shard.file, one.row) for one in run.find(digest)]
            # The certified row tree has the same digests, unsalted.
            leaves = [hashlib.sha256(b"\x00" + run.at(shard.file, row).digest).digest() for row in range(shard.records)]
            entry = next(one for one in manifest_entries(bench) if one["path"] == shard.file)
            assert root_of(leaves).hex() == entry["row_tree_root"]


@pytest.mark.slow
def test_workers_and_runner_change_no_byte_of_what_is_kept(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the run's secret given, two processes of Beam's runner keep what the plain engine keeps."""
    monkeypatch.setattr("millcert.pipelines.sample_leaves.secrets.token_bytes", lambda count: b"t" * count)
    kept: list[dict[str, bytes]] = []
    for on_beam in (False, True):
        bench.vet(out=bench.top / f"out-{len(kept)}", on_beam=on_beam, workers=2 if on_beam else 1)
        folders = [bench.top / "state" / name for name in ("provenance", "salts")]
        kept.append({p.name: p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()})
        for folder in folders:
            shutil.rmtree(folder)
    assert kept[0] == kept[1]
    assert len(kept[0]) > 6


def manifest_entries(bench: Workbench) -> list[dict[str, Any]]:
    import json

    entries: list[dict[str, Any]] = json.loads((bench.out / "manifest.json").read_text())["files"]
    return entries


def test_facts_say_how_much_a_worker_wrote(tmp_path: Path) -> None:
    write_leaves(str(tmp_path), "a.jsonl", FILES["a.jsonl"], SECRET)

    facts = read_leaves(str(tmp_path), "a.jsonl")[0]

    assert (facts.records, facts.samples, facts.levels, facts.runs) == (25, 22, 1, (22,))


def test_a_file_of_nothing_but_malformed_records_has_a_tree_without_samples(tmp_path: Path) -> None:
    with LeafWriter(str(tmp_path), "a", SECRET) as writer:
        writer.end(300)

    facts = read_leaves(str(tmp_path), "a")[0]
    assert (facts.records, facts.samples, facts.root) == (300, 0, root_of([NO_SAMPLE] * 300).hex())
