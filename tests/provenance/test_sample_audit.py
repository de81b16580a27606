"""The audit of a run finds every edit of its files that would make a look-up say something else."""

from pathlib import Path

import pytest

from millcert.errors import LedgerError
from millcert.provenance.erasure import erase_run, erase_samples
from millcert.provenance.ledger import LoggedEntry
from millcert.provenance.lookup import SampleRun
from millcert.provenance.sample_audit import RunAudit, audit_run
from millcert.provenance.state import StateFolder
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, signed_ledger

DIGESTS = [one.tobytes() for one in digests_of(40, seed=12)]
FILES = {"a/x": [*DIGESTS, DIGESTS[0]], "b/y": [None, DIGESTS[1]]}


@pytest.fixture
def made(tmp_path: Path) -> tuple[StateFolder, LoggedEntry]:
    return StateFolder(tmp_path), add_run(tmp_path, FILES, secret=b"u" * 32)


def folder_of(state: StateFolder) -> Path:
    return next((state.path / "provenance").iterdir())


def test_a_run_is_whole_before_and_after_erasures(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    with signed_ledger(state.path) as ledger, SampleRun(state, logged) as run:
        assert audit_run(run) == RunAudit(records=43, samples=42, erased=0)
        for row in (0, 7, 8):
            erase_samples(run, [run.at("a/x", row)], ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert audit_run(run) == RunAudit(records=43, samples=42, erased=3)
        erase_run(run, state, ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert audit_run(run) == RunAudit(records=43, samples=42, erased=42)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows.0", "another root than the shard list"),
        ("index.0", "another root than the ledger"),
        ("rows.sealed", "two samples"),
    ],
)
def test_an_edited_leaf_or_digest_is_found(made: tuple[StateFolder, LoggedEntry], name: str, words: str) -> None:
    state, logged = made
    path = folder_of(state) / name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)

    with SampleRun(state, logged) as run, pytest.raises(LedgerError, match=words):
        audit_run(run)


def test_records_out_of_order_misplaced_or_hidden_are_found(made: tuple[StateFolder, LoggedEntry]) -> None:
    state, logged = made
    path = max((folder_of(state) / "index").iterdir(), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    first, second = whole[:44], whole[44:88]
    for edited, words in [
        (second + first, "two samples"),
        (first + first, "out of order"),
        (first[:32] + (9).to_bytes(4, "big") + first[36:] + second, "leads to no sample"),
        (first[:43] + bytes([first[43] ^ 1]) + second, "two samples"),
        (bytes([first[0]]) + bytes(31) + first[32:] + second, "two samples"),
    ]:
        path.write_bytes(edited + whole[88:])
        with SampleRun(state, logged) as run, pytest.raises(LedgerError, match=words):
            audit_run(run)


def test_a_sample_that_is_said_to_be_none_is_found(
    made: tuple[StateFolder, LoggedEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, logged = made
    with SampleRun(state, logged) as run:
        monkeypatch.setattr("millcert.provenance.sample_audit.NO_SAMPLE", b"")
        with pytest.raises(LedgerError, match="the ledger says 42"):
            audit_run(run)
