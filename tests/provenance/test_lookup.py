"""Every sample of a run is found at all its places, and every other one is provably not there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.absence import verify_absence
from millcert.provenance.ledger import LoggedEntry
from millcert.provenance.lookup import SampleRun, list_runs, run_of, salts_folder
from millcert.provenance.merkle import leaf_hash, verify_inclusion
from millcert.provenance.sample_leaf import sample_leaf_hash
from millcert.provenance.sample_query import ask_runs, newest_with, parse_digest, run_id_of
from millcert.provenance.state import StateFolder
from millcert.testing.sample_runs import add_run, digests_of, signed_ledger

DIGESTS = [one.tobytes() for one in digests_of(700, seed=5)]
TWICE = DIGESTS[3]
FILES = {"north/a.parquet": DIGESTS[:600], "south/b.jsonl": [None, *DIGESTS[600:], None, TWICE, None]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoggedEntry]:
    state = tmp_path_factory.mktemp("state")
    return state, add_run(state, FILES, secret=b"a" * 32)


@pytest.fixture
def run(made: tuple[Path, LoggedEntry]) -> Iterator[SampleRun]:
    with SampleRun(StateFolder(made[0]), made[1]) as opened:
        yield opened


@pytest.fixture
def copied(made: tuple[Path, LoggedEntry], tmp_path: Path) -> tuple[StateFolder, LoggedEntry, Path]:
    """Return a copy that a test may damage, with the run's folder."""
    state = tmp_path / "state"
    shutil.copytree(made[0], state)
    return StateFolder(state), made[1], next((state / "provenance").iterdir())


def test_every_sample_is_found_by_its_place_and_by_its_digest(run: SampleRun) -> None:
    for file, digests in FILES.items():
        for row, digest in enumerate(digests):
            if digest is not None:
                assert run.at(file, row).digest == digest
                assert (file, row) in [(found.shard.file, found.row) for found in run.find(digest)]
    assert [(found.shard.file, found.row) for found in run.find(TWICE)] == [
        ("north/a.parquet", 3),
        ("south/b.jsonl", 102),
    ]


def test_the_paths_lead_from_a_sample_to_the_logged_root(run: SampleRun) -> None:
    for found in [run.at("north/a.parquet", 599), run.at("south/b.jsonl", 1)]:
        leaf, shard = sample_leaf_hash(found.salt, found.digest), found.shard
        verify_inclusion(leaf, found.row, shard.records, run.sample_path(found), bytes.fromhex(shard.root))
        path = run.shard_path(found.number)
        verify_inclusion(leaf_hash(shard.line()), found.number, 2, path, bytes.fromhex(run.roots.shards_root))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=32, max_size=32))
def test_any_other_digest_is_provably_absent(run: SampleRun, digest: bytes) -> None:
    """A digest is either found or has two neighbours beside one another that it lies between."""
    assert digest in DIGESTS or run.find(digest) == []
    verify_absence(run.absence(digest), size=run.roots.samples, root=bytes.fromhex(run.roots.index_root))


def test_the_absence_of_what_is_there_cannot_be_had(run: SampleRun) -> None:
    with pytest.raises(UsageError, match="is in the run"):
        run.absence(TWICE)


@pytest.mark.parametrize(
    ("file", "row", "words"),
    [
        ("north/a.parquet", 600, "rows 0 to 599"),
        ("north/a.parquet", -1, "no row -1"),
        ("c", 0, "no row 0 of 'c'"),
        ("south/b.jsonl", 0, "could not be decoded"),
        ("south/b.jsonl", 103, "could not be decoded"),
    ],
)
def test_a_place_without_a_sample_is_refused(run: SampleRun, file: str, row: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run.at(file, row)


def test_a_digest_of_another_length_is_refused(run: SampleRun) -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        run.find(b"short")
    with pytest.raises(UsageError, match="64 hex digits"):
        parse_digest("ab" * 31 + "a ")


def test_a_run_without_its_files_says_where_they_should_be(copied: tuple[StateFolder, LoggedEntry, Path]) -> None:
    state, logged, folder = copied
    shutil.rmtree(folder)

    with pytest.raises(StoreError, match="are not at"):
        SampleRun(state, logged)


@pytest.mark.parametrize("name", ["rows.0", "rows.sealed", "shards.jsonl", "index"])
def test_an_edited_file_is_noticed_before_anything_is_said(
    copied: tuple[StateFolder, LoggedEntry, Path], name: str
) -> None:
    """What is read is believed only if hashes lead to the ledger: no edit makes a wrong answer."""
    state, logged, folder = copied
    paths = sorted((folder / name).iterdir()) if name == "index" else [folder / name]
    for path in paths:
        data = bytearray(path.read_bytes())
        data[35 :: 44 if name == "index" else 40] = bytes(
            byte ^ 1 for byte in data[35 :: 44 if name == "index" else 40]
        )
        path.write_bytes(data)

    def ask() -> None:
        with SampleRun(state, logged) as run:
            if name == "index":
                run.find(TWICE)
            else:
                run.at("north/a.parquet", 3)

    with pytest.raises(LedgerError):
        ask()


def test_runs_without_samples_answer_too(tmp_path: Path) -> None:
    empty = add_run(tmp_path, {}, secret=b"e" * 32)
    malformed = add_run(tmp_path, {"a/x.jsonl": [None, None]}, secret=b"m" * 32, dataset="bad")
    state = StateFolder(tmp_path)
    for logged in (empty, malformed):
        with SampleRun(state, logged) as run:
            assert run.find(TWICE) == []
            absence = run.absence(TWICE)
            verify_absence(absence, size=0, root=bytes.fromhex(run.roots.index_root))


def test_the_same_empty_run_twice_is_two_entries_of_one_folder(tmp_path: Path) -> None:
    first = add_run(tmp_path, {}, secret=b"1" * 32)
    second = add_run(tmp_path, {}, secret=b"2" * 32, dataset="other")

    assert run_id_of(first) == run_id_of(second)
    assert second.index > first.index
    for logged in (first, second):
        with SampleRun(StateFolder(tmp_path), logged) as run:
            assert run.find(TWICE) == []


def test_every_run_of_a_ledger_is_asked_in_order(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    add_run(tmp_path, {"a/x": [TWICE, DIGESTS[0]]}, secret=b"1" * 32, dataset="one")
    add_run(tmp_path, {"a/y": [DIGESTS[1]]}, secret=b"2" * 32, dataset="two")
    third = add_run(tmp_path, {"a/x": [DIGESTS[2]], "b/z": [TWICE]}, secret=b"3" * 32, dataset="three")
    with signed_ledger(tmp_path) as ledger:
        runs = list_runs(ledger)

    answers = list(ask_runs(state, runs, TWICE))

    assert [[found.shard.file for found in answer.found] for answer in answers] == [["a/x"], [], ["b/z"]]
    assert [answer.is_absent for answer in answers] == [False, True, False]
    assert newest_with(state, runs, "a/x") == third
    assert run_of(runs, run_id_of(third)[:12]) == third
    with pytest.raises(UsageError, match="3 runs have an id"):
        run_of(runs, "")
    with pytest.raises(UsageError, match="No run has a file"):
        newest_with(state, runs, "none")


def test_the_salts_of_two_runs_make_leaves_that_nobody_can_match(tmp_path: Path) -> None:
    """The same data in two runs has no hash in common, so who sees both learns nothing."""
    add_run(tmp_path, {"a/x": DIGESTS[:300]}, secret=b"1" * 32)
    add_run(tmp_path, {"a/x": DIGESTS[:300]}, secret=b"2" * 32)
    first, second = (
        {path.read_bytes()[at : at + 32] for path in folder.rglob("*.0") for at in range(0, path.stat().st_size, 32)}
        for folder in (tmp_path / "provenance").iterdir()
    )

    assert len(first) == len(second) == 601
    assert not first & second
    assert len(list(salts_folder(StateFolder(tmp_path), "x").parent.iterdir())) == 2
