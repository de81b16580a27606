"""An erased sample is nowhere, and nothing else changes: other proofs, the roots and the log verify as before."""

from contextlib import suppress
from pathlib import Path

import pytest

from millcert.errors import InconclusiveError, IntegrityError, StoreError, UsageError
from millcert.provenance import erasure
from millcert.provenance.erasure import erase_run, erase_samples, find_eraser, forget_named, tombstone_from
from millcert.provenance.evidence import export_evidence
from millcert.provenance.evidence_verify import verify_evidence
from millcert.provenance.leaf_index import LeafIndex
from millcert.provenance.ledger import Entry, LoggedEntry
from millcert.provenance.ledger_entry import MAX_LEAF_BYTES
from millcert.provenance.lookup import SampleRun
from millcert.provenance.named_sample import name_sample, named_samples
from millcert.provenance.sample_leaf import RunSecret, index_key, row_salt, sample_leaf_hash
from millcert.provenance.sample_query import ask_run
from millcert.provenance.standing import read_standing
from millcert.provenance.state import StateFolder
from millcert.testing.role_people import key_of, office, record_roles
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, signed_ledger

DIGESTS = [one.tobytes() for one in digests_of(300, seed=9)]
SECRET = RunSecret(b"z" * 32)
FILES = {"a/x": DIGESTS[:280], "b/y": [*DIGESTS[280:], DIGESTS[5]]}


@pytest.fixture
def made(tmp_path: Path) -> tuple[StateFolder, LoggedEntry]:
    return StateFolder(tmp_path), add_run(tmp_path, FILES, secret=SECRET.secret)


def everything_on_disk(state: StateFolder) -> bytes:
    folders = (state.path / "provenance", state.path / "salts")
    return b"".join(path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())


def test_an_erased_sample_is_at_none_of_its_places(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        erase_samples(run, run.find(DIGESTS[5]), ledger, reason="ticket 7", recorded_at=RECORDED_AT)

        assert run.find(DIGESTS[5]) == []
        for file, row in [("a/x", 5), ("b/y", 20)]:
            with pytest.raises(InconclusiveError, match="was erased"):
                run.at(file, row)


def test_nothing_that_links_the_leaf_to_the_sample_stays_on_disk(made: tuple[StateFolder, LoggedEntry]) -> None:
    """Not the salts, not the seeds they come from, not the index key: a guess of the row cannot be confirmed."""
    state, logged = made
    seeds = {("a/x", 0): 5, ("b/y", 0): 20}
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        erase_samples(run, run.find(DIGESTS[5]), ledger, reason="ticket 7", recorded_at=RECORDED_AT)

    left = everything_on_disk(state)
    assert index_key(SECRET.index_salt, DIGESTS[5]) not in left
    for (file, block), offset in seeds.items():
        seed = SECRET.block_seed(file, block)
        assert seed not in left
        assert row_salt(seed, offset) not in left
        assert sample_leaf_hash(row_salt(seed, offset), DIGESTS[5]) in left  # a neighbour in other samples' proofs


def test_all_other_proofs_the_roots_and_the_log_verify_as_before(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        for row in (5, 7, 0, 279):
            erase_samples(run, [run.at("a/x", row)], ledger, reason="ticket 7", recorded_at=RECORDED_AT)
        others = [run.at("a/x", row) for row in range(280) if row not in (5, 7, 0, 279)]
        others += [run.at("b/y", row) for row in range(21)]

        shown = verify_evidence(export_evidence(ledger, [(run, others, [])]), ledger.vkeys)

        assert len(shown.runs[0].samples) == 297
        assert [one.digest for one in shown.runs[0].samples if one.file == "b/y"][-1] == DIGESTS[5].hex()
        assert all(run.find(digest) for at, digest in enumerate(DIGESTS) if at not in (7, 0, 279))
        ledger.verify()


def test_the_ledger_says_that_it_was_erased_and_why_and_names_no_sample(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        found = run.at("a/x", 5)
        appended = erase_samples(run, [found], ledger, reason="ticket 7", recorded_at=RECORDED_AT)
        tombstone = ledger.get(appended.indexes[0]).entry

    assert tombstone.kind == "erasure"
    assert tombstone.body["leaves"] == [sample_leaf_hash(found.salt, found.digest).hex()]
    assert (tombstone.body["reason"], tombstone.body["run"]) == ("ticket 7", run.roots.run_id)
    assert found.digest.hex() not in tombstone.leaf().decode()


def test_nobody_can_tell_whether_a_sample_is_the_one_that_was_erased(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        erase_samples(run, run.find(DIGESTS[5]), ledger, reason="ticket 7", recorded_at=RECORDED_AT)

        assert "erased" in ask_run(run, DIGESTS[5]).unknown
        with pytest.raises(InconclusiveError, match="erased where this one would be"):
            run.absence(DIGESTS[5])


def test_an_erasure_cut_short_is_completed_by_asking_again(
    made: tuple[StateFolder, LoggedEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(index: LeafIndex, position: int) -> None:
        raise StoreError("the disk is gone")

    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        with monkeypatch.context() as patch:
            patch.setattr(LeafIndex, "erase", crash)
            with pytest.raises(StoreError):
                erase_samples(run, run.find(DIGESTS[5]), ledger, reason="ticket 7", recorded_at=RECORDED_AT)
        assert run.find(DIGESTS[5]) == []

        assert run.drop_erased(DIGESTS[5]) == 2
        assert run.drop_erased(DIGESTS[5]) == 0

    assert index_key(SECRET.index_salt, DIGESTS[5]) not in everything_on_disk(state)


def test_a_run_without_salts_answers_nothing_and_its_entries_verify(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        before = export_evidence(ledger, [(run, [run.at("a/x", 1)], [])])
        erase_run(run, state, ledger, reason="ticket 8", recorded_at=RECORDED_AT)

        for ask in (lambda: run.find(DIGESTS[1]), lambda: run.at("a/x", 1), lambda: run.absence(bytes(32))):
            with pytest.raises(InconclusiveError, match="salts of run"):
                ask()
        ledger.verify()
        assert verify_evidence(before, ledger.vkeys).runs  # what was given out before cannot be taken back
    assert not list((state.path / "salts").iterdir())


def test_many_samples_are_several_tombstones(
    made: tuple[StateFolder, LoggedEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "MAX_LEAVES", 2)
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        found = [run.at("a/x", row) for row in range(5)]
        appended = erase_samples(run, found, ledger, reason="ticket 9", recorded_at=RECORDED_AT)
        sizes = [len(ledger.get(index).entry.body["leaves"]) for index in appended.indexes]

    assert sizes == [2, 2, 1]


def test_the_longest_tombstone_fits_into_an_entry() -> None:
    body = {"dataset": "d" * 200, "leaves": ["ab" * 32] * erasure.MAX_LEAVES, "reason": "r" * 500, "run": "cd" * 32}

    assert len(Entry("erasure", "ef" * 32, RECORDED_AT, {**body, "scope": "samples"}).leaf()) < MAX_LEAF_BYTES


@pytest.mark.parametrize("reason", ["", "x" * 501])
def test_an_erasure_needs_a_reason_and_a_sample(made: tuple[StateFolder, LoggedEntry], reason: str) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        with pytest.raises(UsageError, match="reason"):
            erase_samples(run, run.find(DIGESTS[5]), ledger, reason=reason, recorded_at=RECORDED_AT)
        with pytest.raises(UsageError, match="no sample"):
            erase_samples(run, [], ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert ledger.find(kind="erasure") == []


def test_once_roles_are_in_force_an_erasure_is_an_act_of_somebody_who_may(
    made: tuple[StateFolder, LoggedEntry],
) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        record_roles(ledger, office(), by="bo", at=RECORDED_AT)
        eraser = find_eraser(ledger, key_of("bo"))
        erase_samples(run, run.find(DIGESTS[5]), ledger, reason="ticket 7", recorded_at=RECORDED_AT, eraser=eraser)
        erase_run(run, state, ledger, reason="ticket 8", recorded_at=RECORDED_AT, eraser=eraser)
        standing = read_standing(ledger)

    said = list(standing.counting("erasure"))
    assert (len(said), standing.refused) == (2, ())
    assert [one.person and one.person.name for one in said] == ["bo", "bo"]
    first, second = (tombstone_from(one.logged.entry) for one in said)
    assert (first.run, first.scope, len(first.leaves), first.reason) == (
        logged.entry.body["shards_root"],
        "samples",
        2,
        "ticket 7",
    )
    assert (second.scope, second.leaves) == ("run", ())


@pytest.mark.parametrize("name", [None, "ana", "zoe"])
def test_who_may_not_erase_erases_nothing_once_roles_are_in_force(
    made: tuple[StateFolder, LoggedEntry], name: str | None
) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        record_roles(ledger, office(), by="bo", at=RECORDED_AT)
        before = everything_on_disk(state)
        with pytest.raises(UsageError):
            find_eraser(ledger, None if name is None else key_of(name))
        with pytest.raises(UsageError, match="signed by approver"):
            erase_samples(run, run.find(DIGESTS[5]), ledger, reason="ticket", recorded_at=RECORDED_AT)
        with pytest.raises(UsageError, match="signed by approver"):
            erase_run(run, state, ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert ledger.find(kind="erasure") == []
    assert everything_on_disk(state) == before


def test_a_key_without_roles_in_force_is_refused(made: tuple[StateFolder, LoggedEntry]) -> None:
    with signed_ledger(made[0].path) as ledger, pytest.raises(UsageError, match="No roles"):
        find_eraser(ledger, key_of("bo"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"dataset": "d", "leaves": [1], "reason": "r", "run": "x", "scope": "samples"},
        {"dataset": "d", "leaves": ["ab"], "reason": "r", "run": "x", "scope": "run"},
        {"format": "millcert-act-1"},
    ],
)
def test_a_tombstone_that_says_nothing_sound_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        tombstone_from(Entry("erasure", "ab" * 32, RECORDED_AT, body))
    with pytest.raises(IntegrityError):
        tombstone_from(Entry("verdict", "ab" * 32, RECORDED_AT, body))


def test_a_forgotten_sample_is_linked_to_no_commitment(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, _ = made
    kept, gone = name_sample(state, DIGESTS[1]), name_sample(state, DIGESTS[5])

    assert forget_named(state, [DIGESTS[5], DIGESTS[5], DIGESTS[7]]) == (gone,)
    assert named_samples(state) == {kept: DIGESTS[1]}
    assert DIGESTS[5] not in b"".join(path.read_bytes() for path in (state.path / "salts" / "named").iterdir())


@pytest.mark.parametrize("name", [None, "bo"])
def test_an_erasure_that_failed_after_its_tombstone_is_completed_without_another(
    made: tuple[StateFolder, LoggedEntry], monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def crash(*_: object) -> None:
        raise StoreError("the disk is gone")

    state, logged = made
    key = None if name is None else key_of(name)
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        ledger.append([Entry("erasure", "ab" * 32, RECORDED_AT, {})])
        if name is not None:
            record_roles(ledger, office(), by="bo", at=RECORDED_AT)
        for attempt, time in enumerate(["2026-11-23T05:00:00Z", "2026-11-23T06:00:00Z"]):
            with monkeypatch.context() as patch:
                if attempt == 0:
                    patch.setattr(type(run.salts), "forget", crash)
                    patch.setattr(erasure, "drop_salts", crash)
                found, who = run.find(DIGESTS[5]), find_eraser(ledger, key)
                with suppress(StoreError):
                    erase_samples(run, found, ledger, reason="t", recorded_at=time, eraser=who)
                with suppress(StoreError):
                    erase_run(run, state, ledger, reason="t", recorded_at=time, eraser=who)
        said = ledger.find(kind="erasure")[1:]
        assert [tombstone_from(one.entry).scope for one in said] == ["samples", "run"]
        assert not run.salts.exists
