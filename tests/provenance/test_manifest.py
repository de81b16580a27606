"""The manifest: what its root binds, what the parser refuses, what a comparison names."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import DigestMismatchError, ManifestError
from millcert.provenance import manifest as manifest_module
from millcert.provenance.manifest import FileEntry, Manifest, compare_manifests, parse_manifest

VECTORS = Path(__file__).parents[1] / "vectors" / "0.1.0" / "manifest"
A, B, C = "a" * 64, "b" * 64, "c" * 64

SEGMENT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Zl", "Zp"), blacklist_characters="/\\:"), max_size=8
)
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)


def is_plain(path: str) -> bool:
    return all(segment not in {"", ".", ".."} for segment in path.split("/"))


ENTRY = st.builds(
    FileEntry,
    path=st.lists(SEGMENT, min_size=1, max_size=3).map("/".join).filter(is_plain),
    size_bytes=st.integers(0, 2**53 - 1),
    sha256=HEX,
    rows=st.none() | st.integers(0, 2**53 - 1),
    row_tree_root=st.none() | HEX,
    schema_id=st.none() | st.just("schema:1"),
)


def distinct(entries: list[FileEntry]) -> bool:
    try:
        Manifest("d", tuple(entries))
    except ManifestError:
        return False
    return True


MANIFEST = st.builds(Manifest, name=SEGMENT.filter(bool), files=st.lists(ENTRY, max_size=6).filter(distinct).map(tuple))


def two_files() -> Manifest:
    return Manifest("birds", (FileEntry("cat/1.png", 10, A), FileEntry("dog/1.png", 20, B)))


def document(**changes: Any) -> dict[str, Any]:
    value = json.loads(two_files().to_json())
    value.update(changes)
    return value


def with_first_file(**changes: Any) -> bytes:
    value = document()
    value["files"][0].update(changes)
    return json.dumps(value).encode()


@settings(max_examples=60, deadline=None)
@given(MANIFEST)
def test_a_manifest_that_is_written_and_parsed_is_the_same_manifest(manifest: Manifest) -> None:
    """Rule 3: a manifest that was parsed says what its bytes say."""
    assert parse_manifest(manifest.to_json()) == manifest


@settings(max_examples=60, deadline=None)
@given(MANIFEST)
def test_the_file_is_rfc_8785_json(manifest: Manifest) -> None:
    """Equal manifests have equal bytes, in the canonical form that others compute."""
    data = manifest.to_json()
    assert data == rfc8785.dumps(json.loads(data))


@settings(max_examples=60, deadline=None)
@given(MANIFEST, MANIFEST)
def test_different_manifests_have_different_roots(one: Manifest, other: Manifest) -> None:
    """Rule 1: no two different manifests have the same root."""
    assert (one.root == other.root) == (one == other)


@given(st.permutations(range(5)))
def test_the_order_in_which_files_are_given_does_not_matter(order: list[int]) -> None:
    files = [FileEntry(f"{index}.csv", index, A) for index in range(5)]
    assert Manifest("d", tuple(files[index] for index in order)) == Manifest("d", tuple(files))


@pytest.mark.parametrize(
    "changed",
    [
        Manifest("bird", two_files().files),
        Manifest("birds", two_files().files[:1]),
        Manifest("birds", (*two_files().files, FileEntry("z", 0, C))),
        # The rename that keeps the digest of formats that hash digests only.
        Manifest("birds", (FileEntry("dog/1.png", 10, A), FileEntry("elephant/1.png", 20, B))),
        Manifest("birds", (FileEntry("cat/1.png", 10, B), FileEntry("dog/1.png", 20, A))),
        Manifest("birds", (replace(two_files().files[0], size_bytes=11), two_files().files[1])),
        Manifest("birds", (replace(two_files().files[0], rows=1), two_files().files[1])),
        Manifest("birds", (replace(two_files().files[0], row_tree_root=C), two_files().files[1])),
        Manifest("birds", (replace(two_files().files[0], schema_id="s"), two_files().files[1])),
    ],
)
def test_the_root_changes_with_everything_that_a_manifest_says(changed: Manifest) -> None:
    """Rule 1: the root binds name, count, and each file's path, size and digests."""
    assert changed.root != two_files().root


@pytest.mark.parametrize("name", ["empty", "one-file", "row-roots", "unicode"])
def test_manifests_of_this_release_parse_for_ever(name: str) -> None:
    data = (VECTORS / f"{name}.json").read_bytes()
    manifest = parse_manifest(data)
    expected = json.loads((VECTORS / "roots.json").read_text())[name]
    assert manifest.root == expected
    assert manifest.to_json() == data


def test_the_root_is_the_documented_tree() -> None:
    """docs/formats/manifest.md, "Root", computed by hand."""

    def leaf(value: dict[str, object]) -> bytes:
        return hashlib.sha256(b"\x00" + rfc8785.dumps(value)).digest()

    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"\x01" + left + right).digest()

    nothing: dict[str, object] = {"rows": None, "row_tree_root": None, "schema_id": None}
    head = leaf({"type": "millcert-manifest", "version": 1, "name": "birds", "files": 2})
    first = leaf({"path": "cat/1.png", "size_bytes": 10, "sha256": A, **nothing})
    second = leaf({"path": "dog/1.png", "size_bytes": 20, "sha256": B, **nothing})

    assert two_files().root == node(node(head, first), second).hex()


def test_optional_keys_may_be_left_out_and_white_space_is_free() -> None:
    value = document()
    for entry in value["files"]:
        del entry["rows"], entry["row_tree_root"], entry["schema_id"]
    assert parse_manifest(json.dumps(value, indent=3).encode()) == two_files()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a strict JSON object"),
        (b"\xff{}", "not a strict JSON object"),
        (b"\xef\xbb\xbf{}", "not a strict JSON object"),
        (b"[]", "expected an object, got list"),
        (b"[" * 100_000, "not a strict JSON object"),
        (b"{}", "lacks files, name, root, version"),
        (b'{"version":' + b"9" * 5000 + b"}", "not a strict JSON object"),
        (b'{"version":NaN}', "NaN is not JSON"),
        (b'{"version":1,"version":1}', "'version' appears twice"),
        (json.dumps(document(version=2)).encode(), "version 2"),
        (json.dumps(document(version=True)).encode(), "version True"),
        (json.dumps(document(version=1.0)).encode(), "version 1.0"),
        (json.dumps(document(extra=1)).encode(), "unknown keys: 'extra'"),
        (json.dumps(document(files={})).encode(), "files must be a list"),
        (json.dumps(document(files=[1])).encode(), r"files\[0\] must be an object"),
        (json.dumps(document(name=7)).encode(), "name must be text"),
        (json.dumps(document(name="")).encode(), "must have 1 to 255 bytes"),
        (json.dumps(document(name="x" * 256)).encode(), "must have 1 to 255 bytes"),
        (json.dumps(document(name="a\nb")).encode(), "U\\+000A"),
        (json.dumps(document(root=A)).encode(), "its content has"),
        (json.dumps(document(root=two_files().root.upper())).encode(), "root must be 64 lower-case"),
        (json.dumps(document(root=None)).encode(), "root must be 64 lower-case"),
        (json.dumps(document(files=document()["files"][::-1])).encode(), "in order of their paths"),
        (json.dumps(document(files=document()["files"][:1] * 2)).encode(), "in order of their paths"),
        (with_first_file(mode=7), r"files\[0\] has unknown keys: 'mode'"),
        (with_first_file(size_bytes=-1), r"files\[0\]: size_bytes of 'cat/1.png' must be an integer"),
        (with_first_file(size_bytes=1.0), "must be an integer"),
        (with_first_file(size_bytes=True), "must be an integer"),
        (with_first_file(size_bytes="1"), "must be an integer"),
        (with_first_file(size_bytes=2**53), "must be an integer"),
        (with_first_file(rows=-1), "rows of 'cat/1.png' must be an integer"),
        (with_first_file(sha256=A.upper()), "sha256 of 'cat/1.png' must be 64 lower-case"),
        (with_first_file(sha256=A[:-1]), "must be 64 lower-case"),
        (with_first_file(sha256=A + "\n"), "must be 64 lower-case"),
        (with_first_file(sha256=None), "must be 64 lower-case"),
        (with_first_file(row_tree_root="0x" + A[:62]), "row_tree_root of 'cat/1.png' must be 64"),
        (with_first_file(schema_id="a b"), "schema_id of 'cat/1.png' must be"),
        (with_first_file(schema_id=1), "schema_id of 'cat/1.png' must be"),
        (with_first_file(path=None), "A path must be text"),
    ],
)
def test_a_malformed_manifest_is_refused_with_what_and_where(data: bytes, says: str) -> None:
    """Rule 3."""
    with pytest.raises(ManifestError, match=says):
        parse_manifest(data)


def test_a_key_that_is_given_twice_in_a_file_is_refused() -> None:
    data = two_files().to_json().replace(b'"rows":null', b'"rows":null,"rows":7', 1)
    with pytest.raises(ManifestError, match="'rows' appears twice"):
        parse_manifest(data)


def test_a_file_without_a_digest_is_refused() -> None:
    value = document()
    del value["files"][1]["sha256"]
    with pytest.raises(ManifestError, match=r"files\[1\] lacks sha256"):
        parse_manifest(json.dumps(value).encode())


def test_a_manifest_above_the_bound_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = two_files().to_json()
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", len(data) - 1)
    with pytest.raises(ManifestError, match=f"has {len(data)} bytes"):
        parse_manifest(data)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        "C:/x",
        "c:x",
        "a\\b",
        "..\\x",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "cat\u202egnp.exe",
        "\ufeffa",
        "a\ud800",
        "x" * 4097,
    ],
)
def test_a_path_that_is_not_plain_and_relative_is_refused(path: str) -> None:
    """Rule 2: every path is a plain relative POSIX path."""
    with pytest.raises(ManifestError):
        FileEntry(path, 1, A)


@pytest.mark.parametrize("path", ["a", "...", "a b/c", "-rf", ".hidden", "x" * 4096, "ä/ö", "a\u3000b", "a\u00a0b"])
def test_an_unusual_but_plain_path_is_accepted(path: str) -> None:
    assert FileEntry(path, 1, A).path == path


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("a", "a", "given twice"),
        ("A.csv", "a.csv", "one file on some file systems"),
        ("stra\u00dfe", "STRASSE", "one file on some file systems"),
        ("\u00e9", "e\u0301", "one file on some file systems"),
        ("\u00c9", "e\u0301", "one file on some file systems"),
        ("a", "a/b", "is a file and"),
        ("A", "a/b/c", "is a file and"),
    ],
)
def test_paths_that_collide_are_refused(one: str, other: str, says: str) -> None:
    """Rule 2: no two paths are one path on some file system."""
    with pytest.raises(ManifestError, match=says):
        Manifest("d", (FileEntry(one, 1, A), FileEntry(other, 1, B)))


def test_equal_manifests_compare_without_an_error_whatever_their_names() -> None:
    compare_manifests(two_files(), Manifest("other", two_files().files))


def test_every_difference_is_named_by_its_kind() -> None:
    """Rule 4: a comparison is exact and names everything that differs."""
    signed = Manifest("d", tuple(FileEntry(path, 1, digest) for path, digest in [("x", A), ("y", B), ("z", C)]))
    actual = Manifest("d", (FileEntry("x", 1, B), FileEntry("moved/y", 1, B), FileEntry("new", 5, "d" * 64)))

    with pytest.raises(DigestMismatchError) as caught:
        compare_manifests(signed, actual)

    assert caught.value.changed == ("x",)
    assert caught.value.renamed == (("y", "moved/y"),)
    assert caught.value.missing == ("z",)
    assert caught.value.added == ("new",)
    for part in ("1 changed (x)", "1 missing (z)", "1 added (new)", "1 renamed (y -> moved/y)"):
        assert part in caught.value.message


def test_a_difference_in_the_set_of_files_alone_is_a_manifest_error() -> None:
    with pytest.raises(ManifestError, match=r"1 missing \(dog/1.png\)"):
        compare_manifests(two_files(), Manifest("birds", two_files().files[:1]))
    with pytest.raises(ManifestError, match=r"1 added \(dog/1.png\)"):
        compare_manifests(Manifest("birds", two_files().files[:1]), two_files())


def test_files_with_equal_bytes_are_paired_in_path_order_when_renamed() -> None:
    signed = Manifest("d", tuple(FileEntry(path, 1, A) for path in ("a", "b", "c")))
    actual = Manifest("d", tuple(FileEntry(path, 1, A) for path in ("x", "y")))
    with pytest.raises(ManifestError) as caught:
        compare_manifests(signed, actual)
    assert caught.value.renamed == (("a", "x"), ("b", "y"))
    assert caught.value.missing == ("c",)


def test_a_long_list_of_differences_is_shortened_in_the_message_only() -> None:
    actual = Manifest("d", tuple(FileEntry(f"{index:03}", 1, A) for index in range(50)))
    with pytest.raises(ManifestError, match=r"50 added .* and 30 more") as caught:
        compare_manifests(Manifest("d", ()), actual)
    assert len(caught.value.details["added"]) == 50  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("signed", "actual", "is_refused"),
    [
        (("s", 5, B), ("s", 5, B), False),
        (("s", 5, B), ("s", 6, B), True),
        (("s", 5, B), ("s", 5, C), True),
        (("s", 5, B), ("t", 6, C), False),
        (("s", 5, B), (None, None, None), False),
        ((None, 5, None), ("s", 6, B), False),
        (("s", 5, None), ("s", None, C), False),
    ],
)
def test_rows_are_compared_only_under_the_same_schema(
    signed: tuple[str | None, int | None, str | None],
    actual: tuple[str | None, int | None, str | None],
    is_refused: bool,
) -> None:
    def manifest(schema_id: str | None, rows: int | None, row_tree_root: str | None) -> Manifest:
        return Manifest("d", (FileEntry("f", 1, A, rows, row_tree_root, schema_id),))

    if is_refused:
        with pytest.raises(DigestMismatchError, match=r"1 changed \(f\)"):
            compare_manifests(manifest(*signed), manifest(*actual))
    else:
        compare_manifests(manifest(*signed), manifest(*actual))


def test_a_manifest_needs_no_heavy_import() -> None:
    heavy = ("sigstore", "numpy", "cryptography", "apache_beam")
    code = f"import sys, millcert.provenance.manifest; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_format_page_names_the_vectors_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats" / "manifest.md").read_text()
    for name, root in json.loads((VECTORS / "roots.json").read_text()).items():
        assert f"| `{name}.json` | `{root}` |" in page
    assert (VECTORS / "one-file.json").read_text() in page


def test_a_selection_may_leave_files_out_but_not_change_add_or_rename_any() -> None:
    cat, dog = two_files().files
    compare_manifests(two_files(), Manifest("some", (cat,)), is_selection=True)
    with pytest.raises(DigestMismatchError, match=r"1 changed \(dog/1.png\)\."):
        compare_manifests(two_files(), Manifest("some", (replace(dog, sha256=C),)), is_selection=True)
    with pytest.raises(ManifestError, match=r"1 added \(new\)\."):
        compare_manifests(two_files(), Manifest("some", (FileEntry("new", 1, C),)), is_selection=True)
    with pytest.raises(ManifestError, match=r"1 renamed \(cat/1.png -> cow/1.png\)\."):
        compare_manifests(two_files(), Manifest("some", (replace(cat, path="cow/1.png"),)), is_selection=True)
