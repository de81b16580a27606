"""Admission: the folder is exactly what was certified, or nothing of it is admitted."""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from millcert.errors import DigestMismatchError, IntegrityError, ManifestError, StoreError, UsageError
from millcert.provenance import admission
from millcert.provenance.admission import MAX_FOLDER_DEPTH, Admission, admit_path
from millcert.provenance.certificate import Certificate
from millcert.provenance.checkpoint import Checkpoint
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.merkle import EMPTY_ROOT
from millcert.provenance.statement import DatasetChecks, VerificationSummary

FILES = {"a.csv": b"a" * 10, "b/c.csv": b"c" * 20, "b/deep/er/d.csv": b"", "\u00e9.csv": b"\x00" * 3}


def certificate_for(files: dict[str, bytes]) -> Certificate:
    entries = tuple(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items())
    return Certificate(
        Manifest("pets", entries),
        VerificationSummary("0", "", "", "", (), "", ()),
        DatasetChecks({}, "", None, "", "", ""),
        0,
        Checkpoint("a", 0, EMPTY_ROOT),
    )


CERTIFICATE = certificate_for(FILES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "admitted"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_the_very_files_are_admitted(data: Path) -> None:
    assert admit_path(data, CERTIFICATE) == Admission(str(data), "pets", CERTIFICATE.manifest.root, 4, 33)


def test_the_path_itself_may_be_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(data)

    assert admit_path(tmp_path / "current", CERTIFICATE).files == 4


def test_an_empty_folder_more_changes_nothing(data: Path) -> None:
    (data / "empty").mkdir()

    assert admit_path(data, CERTIFICATE).files == 4


def test_one_file_is_admitted_by_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a")
    (tmp_path / "other").write_bytes(b"not looked at")

    assert admit_path(tmp_path / "a.csv", certificate_for({"a.csv": b"a"})).files == 1
    with pytest.raises(ManifestError):
        admit_path(tmp_path / "other", certificate_for({"a.csv": b"a"}))
    with pytest.raises(ManifestError):
        admit_path(tmp_path / "a.csv", CERTIFICATE)


def test_no_data_is_a_mistake_of_the_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    for path in (tmp_path / "nothing", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="no data"):
            admit_path(path, CERTIFICATE)


def replace_by_link(data: Path) -> None:
    (data / "a.csv").rename(data.parent / "a.csv")
    (data / "a.csv").symlink_to(data.parent / "a.csv")


def replace_folder_by_link(data: Path) -> None:
    (data / "b").rename(data.parent / "b")
    (data / "b").symlink_to(data.parent / "b")


def replace_by_pipe(data: Path) -> None:
    (data / "a.csv").unlink()
    os.mkfifo(data / "a.csv")


def replace_by_folder(data: Path) -> None:
    (data / "a.csv").unlink()
    (data / "a.csv").mkdir()


def add_socket(data: Path) -> None:
    bound = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(data)
    try:
        bound.bind("s")
    finally:
        os.chdir(here)
        bound.close()


ATTACKS: list[tuple[Callable[[Path], object], type[IntegrityError], str]] = [
    (lambda data: (data / "a.csv").write_bytes(b"b" * 10), DigestMismatchError, "a.csv"),
    (lambda data: (data / "a.csv").write_bytes(b"a" * 11), DigestMismatchError, "a.csv"),
    (lambda data: (data / "b/c.csv").write_bytes(b""), DigestMismatchError, "b/c.csv"),
    (lambda data: (data / "b/deep/er/d.csv").write_bytes(b"x"), DigestMismatchError, "b/deep/er/d.csv"),
    (lambda data: (data / "a.csv").unlink(), ManifestError, "a.csv"),
    (lambda data: (data / "b/new.csv").write_bytes(b""), ManifestError, "b/new.csv"),
    (lambda data: (data / ".hidden").write_bytes(b""), ManifestError, ".hidden"),
    (lambda data: (data / "a.csv").rename(data / "A.csv"), ManifestError, "A.csv"),
    (lambda data: (data / "\u00e9.csv").rename(data / "e\u0301.csv"), ManifestError, "e\u0301.csv"),
    (replace_by_link, ManifestError, "a.csv"),
    (replace_folder_by_link, ManifestError, "b"),
    (lambda data: (data / "more").symlink_to("nowhere"), ManifestError, "more"),
    (replace_by_pipe, ManifestError, "a.csv"),
    (replace_by_folder, ManifestError, "a.csv"),
    (add_socket, ManifestError, "s"),
]


@pytest.mark.parametrize(("attack", "error", "name"), ATTACKS)
def test_anything_else_is_refused_by_name(
    data: Path, attack: Callable[[Path], object], error: type[IntegrityError], name: str
) -> None:
    attack(data)

    with pytest.raises(error) as caught:
        admit_path(data, CERTIFICATE)

    assert caught.value.details["path"] == name
    assert repr(name) in caught.value.message
    assert caught.value.exit_code == 3


def test_a_name_that_is_no_text_is_named_without_breaking_the_message(data: Path) -> None:
    Path(os.fsdecode(bytes(data) + b"/\xff\n.csv")).write_bytes(b"")

    with pytest.raises(ManifestError) as caught:
        admit_path(data, CERTIFICATE)

    assert r"'\udcff\n.csv'" in caught.value.message


def test_many_names_are_counted_and_some_are_listed(data: Path) -> None:
    for number in range(100, 130):
        (data / f"{number}.csv").write_bytes(b"")

    with pytest.raises(ManifestError, match="and 20 more: not in the certificate's manifest") as caught:
        admit_path(data, CERTIFICATE)

    added = caught.value.details["added"]
    assert isinstance(added, tuple)
    assert len(added) == 30


def test_folders_are_followed_to_a_bounded_depth_only(data: Path) -> None:
    (data / "/".join(["d"] * (MAX_FOLDER_DEPTH + 1))).mkdir(parents=True)

    with pytest.raises(ManifestError, match="deeper than 64"):
        admit_path(data, CERTIFICATE)


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that never ends stands in for a file that somebody keeps appending to."""
    monkeypatch.setattr("millcert.provenance.admission.os.read", lambda _descriptor, size: b"a" * size)

    with pytest.raises(DigestMismatchError, match=r"a\.csv"):
        admit_path(data, CERTIFICATE)


SWAPS: list[tuple[str, Callable[[Path], object]]] = [
    ("a link in a file's place", replace_by_link),
    ("a link in a folder's place", replace_folder_by_link),
    ("a pipe in a file's place", replace_by_pipe),
    ("nothing in a file's place", lambda data: (data / "a.csv").unlink()),
]


@pytest.mark.parametrize(("what", "swap"), SWAPS)
def test_a_swap_between_listing_and_reading_is_noticed(
    data: Path, monkeypatch: pytest.MonkeyPatch, what: str, swap: Callable[[Path], object]
) -> None:
    """Step 2: each file is opened without following links, and hashed from that very descriptor."""
    compare = admission._compare_names

    def compare_then_swap(*arguments: object) -> None:
        compare(*arguments)  # type: ignore[arg-type]  # passed through
        swap(data)

    monkeypatch.setattr(admission, "_compare_names", compare_then_swap)

    with pytest.raises(ManifestError, match=r"while it was read|no longer a file"):
        admit_path(data, CERTIFICATE)


@pytest.mark.parametrize("call", ["read", "scandir", "open"])
def test_a_failing_disk_is_a_failure_of_the_store(data: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(f"millcert.provenance.admission.os.{call}", fail)

    with pytest.raises(StoreError, match="could not be read"):
        admit_path(data, CERTIFICATE)
