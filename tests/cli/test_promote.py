"""Files that appear together, or not at all: also where the disk is full half-way."""

from pathlib import Path

import pytest

from millcert.cli.promote import promote
from millcert.errors import StoreError


def test_a_rename_that_fails_undoes_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both, or neither: also where the second of two files cannot be put into its place."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"old")
    rename = Path.replace

    def fail_second(self: Path, target: Path) -> Path:
        if Path(target) == second:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_second)
    with pytest.raises(StoreError, match="No space"):
        promote({first: b"new", second: b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}
    first.unlink()
    with pytest.raises(StoreError):
        promote({first: b"new", second: b"new"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space"):
        promote({tmp_path / "a": b"new"})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_between_two_renames_undoes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if Path(target).name == "b":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        promote({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert list(tmp_path.iterdir()) == []
