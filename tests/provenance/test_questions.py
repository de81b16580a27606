"""An auditor's questions get all runs that are meant, and no other."""

import shutil
from pathlib import Path

import pytest

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.checkpoint import verify_checkpoint
from millcert.provenance.erasure import erase_run
from millcert.provenance.ledger import Entry, verify_tlog_proof
from millcert.provenance.lookup import SampleRun
from millcert.provenance.merkle import verify_consistency
from millcert.provenance.questions import (
    Suspect,
    changes_between,
    in_force,
    list_records,
    runs_touched,
    unresolved,
    without_provenance,
)
from millcert.provenance.state import StateFolder
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, signed_ledger

DIGESTS = digests_of(9, seed=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger of three runs: pets from north and south, birds from south, nothing from nobody."""
    state = tmp_path_factory.mktemp("questions")
    add_run(state, {"north/a": DIGESTS[:3], "south/b": DIGESTS[3:5]}, secret=b"1" * 32, dataset="pets")
    add_run(state, {"south/b": DIGESTS[5:9]}, secret=b"2" * 32, dataset="birds")
    add_run(state, {}, secret=b"3" * 32, dataset="nothing")
    return state


@pytest.mark.parametrize(
    ("suspect", "expected"),
    [
        (Suspect(source="south"), ["pets", "birds"]),
        (Suspect(source="north"), ["pets"]),
        (Suspect(source="west"), []),
        (Suspect(identity="data@south.example"), ["pets", "birds"]),
        (Suspect(identity="data@south.example", source="north"), []),
        (Suspect(file="south/b"), ["pets", "birds"]),
        (Suspect(file="north/a", source="south"), []),
        (Suspect(file="north/a", source="north"), ["pets"]),
        (Suspect(sha256="00" * 32), []),
        (Suspect(check="label_noise"), ["pets", "birds", "nothing"]),
        (Suspect(check="label_noise@1", source="north"), ["pets"]),
        (Suspect(check="label_noise@2"), []),
        (Suspect(check="spectral"), []),
    ],
)
def test_the_runs_that_something_touched_are_found(made: Path, suspect: Suspect, expected: list[str]) -> None:
    with signed_ledger(made) as ledger:
        touched = runs_touched(ledger, StateFolder(made), suspect)

    assert [record.roots.dataset for record in touched] == expected


def test_asking_about_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="Nothing was named"):
        Suspect()


def test_every_entry_of_an_answer_can_be_proved(made: Path) -> None:
    with signed_ledger(made) as ledger:
        for record in list_records(ledger):
            for logged in record.entries:
                verify_tlog_proof(ledger.prove(logged.index), logged.entry.leaf(), ledger.vkeys)
        assert {logged.entry.kind for logged in record.entries} == {"shard_roots", "verdict", "check_summary"}


def test_what_changed_is_every_entry_between_with_a_proof_that_verifies(made: Path) -> None:
    with signed_ledger(made) as ledger:
        old = verify_checkpoint(_checkpoint_of(made, 5), ledger.vkeys)
        new = verify_checkpoint(ledger.checkpoint(), ledger.vkeys)
        found = changes_between(ledger, old.size, new.size)

    assert [logged.index for logged in found.entries] == list(range(old.size, new.size))
    assert sum(count for _, count in found.kinds) == new.size - old.size
    verify_consistency(old.size, new.size, found.consistency, old.root, new.root)


def _checkpoint_of(state: Path, least: int) -> bytes:
    from millcert.provenance.ledger_store import SqliteStore

    store = SqliteStore(state / "ledger.db", read_only=True, create=False)
    try:
        with store.reading() as snapshot:
            return snapshot.checkpoints(least, 1)[0][1]
    finally:
        store.close()


def test_the_state_at_a_time_is_the_newest_run_of_each_data_set_until_then(made: Path) -> None:
    with signed_ledger(made) as ledger:
        assert list(in_force(ledger, RECORDED_AT)) == ["birds", "nothing", "pets"]
        assert list(in_force(ledger, RECORDED_AT.replace("Z", ".000001Z"))) == ["birds", "nothing", "pets"]
        assert in_force(ledger, "2026-11-23T02:38:54.999999Z") == {}
        with pytest.raises(UsageError, match="2026-11-23T02:38:55Z"):
            in_force(ledger, "yesterday")


def test_a_verdict_without_shard_roots_is_named_as_not_looked_into(made: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(made, state)
    with signed_ledger(state) as ledger:
        assert unresolved(ledger) == []
        index = ledger.append([Entry("verdict", "ab" * 32, RECORDED_AT, {"decision": "admitted"})]).indexes[0]
        assert [logged.index for logged in unresolved(ledger)] == [index]


def test_sources_without_a_verified_signature_are_listed_with_their_run(made: Path, tmp_path: Path) -> None:
    with signed_ledger(made) as ledger:
        assert without_provenance(ledger) == []
        (pets, *_) = list_records(ledger)
    with signed_ledger(tmp_path) as ledger:
        body = {"source": "web", "status": "unknown"}
        verdict = Entry("verdict", pets.roots.input_root, RECORDED_AT, {"decision": "admitted"})
        source = ledger.append([Entry("manifest", "cd" * 32, RECORDED_AT, body), verdict]).indexes
        roots = type(pets.roots)(**{**vars(pets.roots), "sources": (source[0],), "verdict": source[1], "checks": ()})
        ledger.append([roots.entry(RECORDED_AT)])
        ((record, found),) = without_provenance(ledger)
    assert (record.roots.dataset, found.entry.body["source"]) == ("pets", "web")


def test_an_erasure_is_part_of_its_run_s_record(made: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(made, state)
    with signed_ledger(state) as ledger:
        (pets, birds, _) = list_records(ledger)
        with SampleRun(StateFolder(state), birds.logged) as run:
            erase_run(run, StateFolder(state), ledger, reason="ticket", recorded_at=RECORDED_AT)
        records = list(list_records(ledger))

    assert [len(record.erasures) for record in records] == [0, 1, 0]
    assert pets.roots.run_id != birds.roots.run_id


def test_asking_for_a_file_needs_the_runs_lists(made: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(made, state)
    shutil.rmtree(state / "provenance")
    with signed_ledger(state) as ledger:
        assert runs_touched(ledger, StateFolder(state), Suspect(source="north"))
        with pytest.raises((StoreError, LedgerError)):
            runs_touched(ledger, StateFolder(state), Suspect(file="north/a"))
