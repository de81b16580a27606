"""Remembered digests in `source manifest` and `source verify`, and that the gate never reads them."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main
from millcert.provenance import digest_cache
from millcert.provenance.digest_cache import FileState

POLICY = """
version: 1
dataset: {name: small, columns: {label: label, embedding_external: embedding}, max_malformed_fraction: 0}
sources: [{name: lab, path: "**", signed_by: {key: KEY, unlogged: accept}}]
checks: [{check: label_noise, max_flagged_fraction: 0.5}]
verdict: {max_quarantined_fraction: 0.5, max_unknown_provenance_fraction: 0}
ledger: {origin: test.example/ledger}
"""


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set, a key and a policy, in which files count as old at once."""
    monkeypatch.setattr(digest_cache, "RACY_NS", -60_000_000_000)
    monkeypatch.setattr(digest_cache, "MIN_BYTES", 0)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, seed=1)
    assert main(["source", "keygen", "owner.key", "--kind", "p256"]) == 0
    key = "".join((tmp_path / "owner.pub").read_text().splitlines()[1:-1])
    (tmp_path / "policy.yaml").write_text(POLICY.replace("KEY", key))
    return tmp_path


def write_data(top: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    label = np.arange(90) % 3
    embedding = (rng.normal(size=(90, 4)) + 6 * np.eye(4)[label]).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 4)
    path = top / "data" / "a.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"label": label, "embedding": vectors}), path, compression="none")
    return path


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(capsys.readouterr().out)
    return loaded


def sign() -> None:
    assert main(["source", "sign", "data", "--name", "small", "--key", "owner.key", "--replace"]) == 0


def verify(*more: str) -> int:
    return main(["source", "verify", "data", "--key", "owner.pub", "--unsafe-unlogged", *more])


def lie(top: Path, before: Path) -> None:
    """Remember the digests of before for what is there now."""
    cache = top / "state" / "digests"
    memory = digest_cache._Memory.open(cache, before, [])
    found = os.lstat(before / "a.parquet")
    state = FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
    memory.save({"a.parquet": memory.entries["a.parquet"]._replace(state=state)}, [])


def test_a_second_verification_remembers_and_no_cache_hashes_everything(
    top: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign()
    monkeypatch.setattr(digest_cache, "PROVED_FRACTION", 0.0)
    capsys.readouterr()
    for expected, more in ((0, ()), (1, ()), (0, ("--no-cache",)), (1, ())):
        assert verify("--state", str(top / "state"), "--json", *more) == 0
        assert answer(capsys)["files_remembered"] == expected
    assert verify("--state", str(top / "state")) == 0
    assert "1 files; 1 unchanged since they were hashed, 0 others hashed again to prove it" in capsys.readouterr().out
    assert main(["source", "manifest", "data", "--name", "small", "--state", str(top / "state"), "--json"]) == 0
    assert answer(capsys)["files_remembered"] == 1


def test_nothing_is_remembered_where_there_is_no_state_folder(top: Path) -> None:
    sign()
    before = sorted(path.name for path in top.iterdir())
    assert verify() == 0
    assert sorted(path.name for path in top.iterdir()) == before
    (top / ".millcert").mkdir()
    assert verify() == 0
    assert (top / ".millcert" / "digests").is_dir()


def test_a_state_folder_among_the_files_is_not_used(top: Path) -> None:
    assert main(["source", "manifest", "data", "--name", "n", "--state", "data/state"]) == 0
    assert not (top / "data" / "state").exists()


def test_what_is_wrong_with_the_memory_is_told_on_standard_error(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sign()
    assert verify("--state", str(top / "state")) == 0
    (path,) = [path for path in (top / "state" / "digests").iterdir() if len(path.name) == 64]
    path.write_bytes(b"not ours")
    capsys.readouterr()
    assert verify("--state", str(top / "state")) == 0
    assert capsys.readouterr().err == "note: the memory of digests is damaged; it is made anew\n"


def test_a_gate_run_and_a_signature_hash_what_they_read_whatever_is_remembered(
    top: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a memory that lies, and that only who has the state folder's key can write."""
    sign()
    assert verify("--state", str(top / "state")) == 0
    monkeypatch.setattr(digest_cache, "PROVED_FRACTION", 0.0)
    write_data(top, seed=2)
    lie(top, top / "data")
    assert verify("--state", str(top / "state")) == 0  # it believes the memory until it is proved
    assert verify("--state", str(top / "state"), "--no-cache") == 3

    named = ["--policy", "policy.yaml", "--out", "out", "--state", str(top / "state"), "--quiet"]
    capsys.readouterr()
    assert main(["vet", "data", *named]) == 3
    assert "a.parquet" in capsys.readouterr().err
    sign()
    assert main(["vet", "data", *named]) == 0


def test_a_memory_that_lies_is_found_out_by_the_part_that_is_proved(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign()
    assert verify("--state", str(top / "state")) == 0
    write_data(top, seed=2)
    lie(top, top / "data")
    capsys.readouterr()
    assert verify("--state", str(top / "state")) == 3
    assert "a.parquet has other bytes than were remembered" in capsys.readouterr().err
