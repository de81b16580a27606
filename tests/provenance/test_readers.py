"""Lists of files in others' formats: what they say counts as far as it is a SHA-256, and nothing else gets in."""

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import DigestMismatchError, ManifestError, UntrustedSourceError
from millcert.provenance.checksums import parse_bagit_manifest, parse_checksums
from millcert.provenance.croissant import parse_croissant
from millcert.provenance.dvc import DvcHint, parse_dvc
from millcert.provenance.hub import Pointer, parse_pointer, parse_revision, pointers_listing
from millcert.provenance.listing import Listing, compare_listing
from millcert.provenance.manifest import FileEntry, Manifest

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
FOUND = Manifest("found", (FileEntry("cat/1.png", 1, A), FileEntry("dog/1.png", 1, B)))
LISTED = Listing("pets", {"cat/1.png": A, "dog/1.png": B})


# Comparison


def test_files_that_are_exactly_the_listed_ones_give_a_manifest_that_binds_names_and_sizes() -> None:
    assert compare_listing(LISTED, FOUND) == Manifest("pets", FOUND.files)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ((FileEntry("cat/1.png", 1, B), FileEntry("dog/1.png", 1, B)), DigestMismatchError, "1 changed"),
        (FOUND.files[:1], ManifestError, "1 missing"),
        ((*FOUND.files, FileEntry("x", 1, "c" * 64)), ManifestError, "1 added"),
        ((FOUND.files[0], FileEntry("cow/1.png", 1, B)), ManifestError, "1 renamed"),
        ((FileEntry("cat/1.png", 1, B), FileEntry("dog/1.png", 1, A)), DigestMismatchError, "2 changed"),
    ],
)
def test_other_files_are_refused(found: tuple[FileEntry, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compare_listing(LISTED, Manifest("found", found))


def test_a_listed_size_is_compared_too() -> None:
    with pytest.raises(DigestMismatchError):
        compare_listing(Listing("pets", LISTED.sha256, {"cat/1.png": 2}), FOUND)


def test_a_part_that_was_chosen_on_purpose_lacks_nothing() -> None:
    assert len(compare_listing(LISTED, Manifest("found", FOUND.files[:1]), is_selection=True).files) == 2


def test_a_file_without_a_real_digest_refuses_the_whole_list() -> None:
    with pytest.raises(UntrustedSourceError, match="only an MD5") as caught:
        compare_listing(Listing("pets", LISTED.sha256, unhashed={"x": "only an MD5"}), FOUND)
    assert (caught.value.reason, caught.value.unhashed) == ("no_hash", ("x",))


@pytest.mark.parametrize("path", ["../x", "/x", "a/./b", "a\\b", "", "a\nb", "\u202ex"])
def test_a_path_that_no_manifest_may_hold_is_refused_wherever_it_stands(path: str) -> None:
    with pytest.raises(ManifestError):
        Listing("pets", {path: A})
    with pytest.raises(ManifestError):
        Listing("pets", {}, unhashed={path: "no digest"})


def test_two_paths_that_are_one_on_some_file_system_are_refused() -> None:
    with pytest.raises(ManifestError, match="one file on some file systems"):
        compare_listing(Listing("pets", {"a": A, "A": B}), FOUND)


# SHA256SUMS and BagIt


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  cat/1.png\n{B}  dog/1.png\n",
        f"{A} *cat/1.png\n{B} *./dog/1.png",
        f"{A.upper()}  ./cat/1.png\n{B}  dog/1.png\n",
        f"SHA256 (cat/1.png) = {A}\nSHA256 (dog/1.png) = {B}\n",
    ],
)
def test_checksums_are_read_as_the_tools_write_them(text: str) -> None:
    assert parse_checksums(text.encode()).sha256 == LISTED.sha256


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is no digest and path"),
        (f"{A} cat\n".encode(), "is no digest and path"),
        (f"{A}  cat\n\n{B}  dog\n".encode(), "Line 2"),
        (f"# made by hand\n{A}  cat\n".encode(), "Line 1"),
        (f"{'0' * 32}  cat\n".encode(), "nothing else counts"),
        (f"MD5 (cat) = {'0' * 32}\n".encode(), "is of MD5"),
        (f"SHA256 (cat) = {'0' * 32}\n".encode(), "nothing else counts"),
        (f"{A}  cat\r\n{B}  dog\n".encode(), "U.000D"),
        (f"{A}  cat\n{B}  ./cat\n".encode(), "twice"),
        (f"{A}  ../cat\n".encode(), "path"),
        (f"\\{A}  ca\\nt\n".encode(), "U.000A"),
        (b"\xff", "no UTF-8"),
    ],
)
def test_a_line_that_is_not_in_the_format_is_refused_not_skipped(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_checksums(data)


def test_an_escaped_backslash_is_one_that_no_manifest_may_hold() -> None:
    with pytest.raises(ManifestError, match="backslash"):
        parse_checksums(f"\\{A}  a\\\\b\n".encode())


def test_a_bags_payload_is_read_and_everything_else_in_it_refused() -> None:
    text = f"{A}  data/cat/1.png\n{B}\tdata/100%25.png\n"
    assert parse_bagit_manifest(text.encode()).sha256 == {"data/cat/1.png": A, "data/100%.png": B}
    for line, message in ((f"{A}  bagit.txt", "payload"), (f"{A} ", "no digest"), (f"{A}  data/../x", "path")):
        with pytest.raises(ManifestError, match=message):
            parse_bagit_manifest(line.encode())


# Croissant


def croissant(*resources: Any, **changes: Any) -> bytes:
    document = {
        "@type": "sc:Dataset",
        "name": "pets",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "license": "https://spdx.org/licenses/CC-BY-4.0",
        "distribution": list(resources),
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def file_object(url: str, sha256: Any = A, **more: Any) -> dict[str, Any]:
    return {"@type": "cr:FileObject", "@id": url, "contentUrl": url, "sha256": sha256, **more}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_files_of_a_croissant_file_are_read(version: str) -> None:
    data = croissant(
        file_object("cat/1.png"),
        file_object("https://data.example/v1/dog%201.zip?x=1", B.upper()),
        {"@type": "cr:FileSet", "@id": "pictures", "containedIn": {"@id": "cat/1.png"}, "includes": "*.png"},
        {"@type": "cr:FileObject", "@id": "inner", "contentUrl": "inner.csv", "containedIn": {"@id": "cat/1.png"}},
        {"@type": "cr:FileSet", "@id": "deeper", "containedIn": [{"@id": "inner"}, {"@id": "pictures"}]},
        conformsTo=f"http://mlcommons.org/croissant/{version}",
    )
    found = parse_croissant(data)
    assert found == Listing("pets", {"cat/1.png": A, "dog 1.zip": B}, license="https://spdx.org/licenses/CC-BY-4.0")


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        (file_object("a.csv", "https://github.com/mlcommons/croissant/issues/80"), "a.csv"),
        (file_object("a.csv", None), "a.csv"),
        (file_object("a.csv", None, md5="0" * 32), "a.csv"),
        (file_object("a.csv", A[:-1]), "a.csv"),
        (file_object("a.csv", 7), "a.csv"),
        (file_object("https://hub.example/datasets/x/tree/main", "placeholder", encodingFormat="git+https"), "main"),
        ({"@type": "cr:FileSet", "@id": "loose", "includes": "*.png"}, "FileSet loose"),
        ({"@type": "cr:FileSet", "@id": "round", "containedIn": {"@id": "round"}}, "FileSet round"),
        ({"@type": "cr:FileSet", "@id": "away", "containedIn": {"@id": "nowhere"}}, "FileSet away"),
    ],
)
def test_what_has_no_real_digest_in_a_croissant_file_is_unsigned(resource: dict[str, Any], path: str) -> None:
    found = parse_croissant(croissant(file_object("b.csv"), resource))
    assert list(found.unhashed) == [path]
    with pytest.raises(UntrustedSourceError):
        compare_listing(found, Manifest("found", (FileEntry("b.csv", 1, A), FileEntry("a.csv", 1, B))))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (croissant(file_object("a"), isLiveDataset=True), "live"),
        (croissant(file_object("a"), **{"cr:isLiveDataset": "true"}), "live"),
        (croissant(file_object("a"), conformsTo="http://mlcommons.org/croissant/2.0"), "conforms to"),
        (croissant(file_object("a"), conformsTo=None), "conforms to nothing"),
        (croissant(file_object("a"), file_object("a")), "twice"),
        (croissant(file_object("a"), file_object("https://x.example/b/a")), "twice"),
        (croissant(file_object("/a")), "path"),
        (croissant(file_object("../a")), "path"),
        (croissant(file_object("file:///etc/passwd")), "neither a path nor"),
        (croissant(file_object("https://x.example/")), "no file name"),
        (croissant(file_object("https://x.example/a%2Fb")), "no file name"),
        (croissant(file_object("")), "without a contentUrl"),
        (croissant(file_object("a", **{"cr:sha256": B})), "side by side"),
        (croissant({"@type": "cr:Other"}), "of kind"),
        (croissant(), "lists no file"),
        (croissant(distribution="x"), "no distribution"),
        (b'{"name":"a","name":"b"}', "twice"),
        (b"[]", "strict JSON object"),
    ],
)
def test_a_croissant_file_that_says_something_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_croissant(data)


# Git-LFS and the hub


def test_a_pointer_stands_for_bytes() -> None:
    data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{A}\nsize 1\n".encode()
    assert parse_pointer(data) == Pointer(A, 1)
    assert pointers_listing("repo", {"cat/1.png": data}) == Listing("repo", {"cat/1.png": A}, {"cat/1.png": 1})
    with pytest.raises(ManifestError, match=r"'x': That is no Git-LFS pointer"):
        pointers_listing("repo", {"x": data + b"\n"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"oid sha256:{A}\nversion https://git-lfs.github.com/spec/v1\nsize 1\n",
        f"version https://git-lfs.github.com/spec/v2\noid sha256:{A}\nsize 1\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha1:{A}\nsize 1\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{A}\nsize 01\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{A}\nsize 1",
        f"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:{B}\noid sha256:{A}\nsize 1\n",
        f"version https://git-lfs.github.com/spec/v1\r\noid sha256:{A}\r\nsize 1\r\n",
    ],
)
def test_what_is_no_pointer_in_its_one_form_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="no Git-LFS pointer"):
        parse_pointer(text.encode())


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def revision(*siblings: Any, **changes: Any) -> bytes:
    return json.dumps({"id": "owner/pets", "sha": COMMIT, "siblings": list(siblings), **changes}).encode()


LARGE = {"rfilename": "cat/1.png", "size": 1, "blobId": "0" * 40, "lfs": {"sha256": A, "size": 1, "pointerSize": 130}}
SMALL = {"rfilename": "README.md", "size": 1, "blobId": "0" * 40}


def test_a_revision_has_digests_of_large_files_and_names_the_small_ones_as_unsigned() -> None:
    found = parse_revision(revision(LARGE, SMALL), repository="owner/pets", commit=COMMIT)
    assert found.sha256 == {"cat/1.png": A}
    assert found.unhashed == {"README.md": "only Git's SHA-1, no SHA-256"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (revision(LARGE, sha="f" * 40), "has sha"),
        (revision(LARGE, id="evil/pets"), "has id"),
        (revision(), "lists no file"),
        (revision({}), "without a name"),
        (revision(LARGE, LARGE), "twice"),
        (revision({**LARGE, "lfs": "x"}), "malformed LFS"),
        (revision({**LARGE, "lfs": {"sha256": "x", "size": 1}}), "malformed LFS"),
        (revision({**LARGE, "size": 2}), "two sizes"),
        (revision({**LARGE, "rfilename": "../x"}), "path"),
    ],
)
def test_another_revision_and_a_malformed_one_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_revision(data, repository="owner/pets", commit=COMMIT)


@pytest.mark.parametrize("commit", ["main", "refs/heads/main", COMMIT[:7], COMMIT.upper(), ""])
def test_a_branch_is_no_revision(commit: str) -> None:
    with pytest.raises(ManifestError, match="full commit id"):
        parse_revision(revision(LARGE, sha=commit), repository="owner/pets", commit=commit)


# DVC


def test_a_dvc_file_gives_hints() -> None:
    text = (
        f"outs:\n- md5: {'0' * 32}\n  size: 12\n  hash: md5\n  path: a.csv\n- md5: {'1' * 32}.dir\n  path: pictures\n"
    )
    assert parse_dvc(text.encode()) == (DvcHint("a.csv", "0" * 32, 12), DvcHint("pictures", "1" * 32 + ".dir", None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("outs: []", "no outs"),
        ("- a", "no mapping"),
        ("outs: [a]", "output that is no mapping"),
        ("outs: [{path: a}]", "without a path or an MD5"),
        (f"outs: [{{path: ../a, md5: {'0' * 32}}}]", "path"),
        (f"outs: [{{path: a, md5: {'0' * 32}, size: -1}}]", "no number"),
        ("outs: &a [*a]", "anchor"),
        ("outs: [", "no YAML"),
        (" " * 70000, "at most"),
        ("a: !!python/object/apply:os.system [id]", "no outs"),
    ],
)
def test_a_dvc_file_that_says_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_dvc(text.encode())


@given(st.binary(max_size=300))
def test_no_bytes_make_a_reader_raise_anything_but_its_own_error(data: bytes) -> None:
    for read in (parse_checksums, parse_bagit_manifest, parse_croissant, parse_pointer, parse_dvc):
        with contextlib.suppress(ManifestError):
            read(data)
