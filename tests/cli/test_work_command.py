"""`millcert work`: what is kept of earlier runs' work, and taking it away."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.pipelines.work_store import WorkStore
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.work_key import FOLDER_NAME, derived_key, work_key
from millcert.testing import sample_runs
from millcert.testing.sample_runs import add_run, digests_of

NAMES = [f"{number:064x}" for number in range(3)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a state folder whose store has three entries, used 10, 20 and 30 days before its youngest."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".millcert"
    store = WorkStore(str(folder / FOLDER_NAME), derived_key(work_key(folder), "kept"))
    for number, name in enumerate(NAMES):
        store.put(name, os.urandom(1000))
        long_ago = Path(store.path_of(name)).stat().st_mtime - 10 * 86_400 * (number + 1)
        os.utime(store.path_of(name), (long_ago, long_ago))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_what_is_kept_is_shown(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "work", "show")

    assert shown["entries"] == 3
    assert 3000 < shown["size_bytes"] < 3500
    assert 29.9 < shown["longest_unused_days"] < 30.1
    assert main(["work", "show"]) == 0
    assert "next: millcert work gc" in capsys.readouterr().out


def test_a_state_folder_without_work_shows_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "work", "show", "--state", str(tmp_path / "none"))

    assert (shown["entries"], shown["size_bytes"]) == (0, 0)


@pytest.mark.parametrize(
    ("asked", "left"),
    [(("--older-than", "15"), 1), (("--max-bytes", "2500"), 2), (("--older-than", "25", "--max-bytes", "0"), 0)],
)
def test_what_is_old_or_too_much_is_deleted(
    state: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], left: int
) -> None:
    found = run(capsys, "work", "gc", "--work", f"file://{state / FOLDER_NAME}", *asked)

    assert (found["deleted"], found["kept"]) == (3 - left, left)
    assert run(capsys, "work", "show")["entries"] == left
    assert run(capsys, "work", "show")["size_bytes"] == found["size_bytes"]


def test_nothing_goes_unless_it_is_said_what(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "work", "gc", code=2)

    assert run(capsys, "work", "show")["entries"] == 3


def test_forgetting_destroys_the_key_and_the_folder(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = work_key(state)

    assert run(capsys, "work", "forget")["forgotten"] is True

    assert work_key(state) != before
    assert not (state / FOLDER_NAME).exists()


def test_an_erasure_forgets_all_kept_work(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The digests of rows are among what is kept; they must not outlive the sample's erasure."""
    key = load_or_create_key(state / "keys" / "ledger.key")
    digests = [one.tobytes() for one in digests_of(5, seed=6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_runs, "_test_key", lambda _: key)
        add_run(state, {"a.jsonl": digests}, secret=b"1" * 32, dataset="pets")
    before = work_key(state)

    run(capsys, "evidence", "erase", "--digest", "00" * 32, "--reason", "ticket", code=2)
    assert work_key(state) == before
    run(capsys, "evidence", "erase", "--digest", digests[0].hex(), "--reason", "ticket")

    assert work_key(state) != before
    assert not (state / FOLDER_NAME).exists()
