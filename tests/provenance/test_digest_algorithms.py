"""Digests other than SHA-256: counted where a rule allows them, all of them at once, and never without the bytes."""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import (
    DigestMismatchError,
    InternalError,
    ManifestError,
    PolicyError,
    SignatureError,
    UntrustedSourceError,
    UsageError,
)
from millcert.provenance.checksums import parse_bagit_manifest, parse_checksums
from millcert.provenance.croissant import parse_croissant
from millcert.provenance.digest import hash_folder
from millcert.provenance.digest_algorithms import ALGORITHMS, ManyHashers, is_digest, other_digests
from millcert.provenance.listing import Listing, compare_listing
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.oms import PREDICATE_V0, PREDICATE_V1, read_model_statement
from millcert.provenance.signing_key import LocalKey
from millcert.provenance.source_signing import ByKey, sign_list
from millcert.provenance.trust import KeyRule, SourceRule, verify_source

FILES = {"cat/1.png": b"a", "dog/1.png": b"b"}


def digest(algorithm: str, data: bytes) -> str:
    return blake3(data).hexdigest() if algorithm == "blake3" else hashlib.new(algorithm, data).hexdigest()


def manifest(files: dict[str, bytes]) -> Manifest:
    return Manifest("found", tuple(FileEntry(name, len(data), digest("sha256", data)) for name, data in files.items()))


def found(files: dict[str, bytes]) -> dict[str, dict[str, str]]:
    others = [name for name in ALGORITHMS if name != "sha256"]
    return {name: {one: digest(one, data) for one in others} for name, data in files.items()}


def listing(*algorithms: str) -> Listing:
    sha256 = {name: digest("sha256", data) for name, data in FILES.items()} if "sha256" in algorithms else {}
    others = {name: {one: digest(one, data) for one in algorithms if one != "sha256"} for name, data in FILES.items()}
    return Listing("pets", sha256, others={name: held for name, held in others.items() if held})


def compare(listed: Listing, files: dict[str, bytes], *allowed: Any, **options: Any) -> Manifest:
    return compare_listing(listed, manifest(files), allowed=allowed, found=found(files), **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_list_by_each_algorithm_counts_where_the_rule_allows_it_and_nowhere_else(algorithm: Any) -> None:
    """The manifest that it becomes has SHA-256, whatever the list has: both are of the same bytes."""
    expected = Manifest("pets", manifest(FILES).files)
    assert compare(listing(algorithm), FILES, algorithm).root == expected.root
    others = [one for one in ALGORITHMS if one != algorithm]
    with pytest.raises(UntrustedSourceError) as caught:
        compare(listing(algorithm), FILES, *others)
    assert caught.value.reason == "digest_algorithm"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_change_of_the_files_is_told_by_its_name(algorithm: Any) -> None:
    listed = listing(algorithm)
    with pytest.raises(DigestMismatchError, match=r"1 changed \(cat/1\.png\)"):
        compare(listed, {**FILES, "cat/1.png": b"x"}, algorithm)
    with pytest.raises(DigestMismatchError, match="2 changed"):
        compare(listed, {"cat/1.png": b"b", "dog/1.png": b"a"}, algorithm)
    with pytest.raises(ManifestError, match=r"1 missing \(cat/1\.png\)"):
        compare(listed, {"dog/1.png": b"b"}, algorithm)
    with pytest.raises(ManifestError, match=r"1 added \(x\)"):
        compare(listed, {**FILES, "x": b"x"}, algorithm)
    with pytest.raises(ManifestError, match=r"1 renamed \(cat/1\.png -> eel/1\.png\)"):
        compare(listed, {"eel/1.png": b"a", "dog/1.png": b"b"}, algorithm)


def test_all_allowed_digests_of_a_file_must_be_met() -> None:
    """A list that a forger edited in one place only contradicts itself."""
    both = listing("sha256", "sha512")
    assert compare(both, FILES, "sha256", "sha512").files == manifest(FILES).files
    wrong = Listing("pets", both.sha256, others={**both.others, "cat/1.png": {"sha512": digest("sha512", b"x")}})
    with pytest.raises(DigestMismatchError, match=r"1 changed \(cat/1\.png\)"):
        compare(wrong, FILES, "sha256", "sha512")
    assert compare(wrong, FILES, "sha256").files == manifest(FILES).files  # what does not count is not looked at
    third = Listing("pets", {}, others={name: dict(held) for name, held in listing("sha384", "sha512").others.items()})
    third.others["cat/1.png"]["sha384"] = digest("sha384", b"b")  # type: ignore[index] # a dict underneath
    with pytest.raises(DigestMismatchError):
        compare(third, FILES, "sha384", "sha512")


def test_a_stated_sha256_is_compared_also_where_another_digest_is_the_one_that_counts() -> None:
    wrong = Listing("pets", {**listing("sha256").sha256, "cat/1.png": "0" * 64}, others=listing("sha512").others)
    with pytest.raises(DigestMismatchError):
        compare(wrong, FILES, "sha512")


def test_one_file_without_a_digest_that_counts_refuses_the_list() -> None:
    mixed = Listing("pets", {"cat/1.png": digest("sha256", b"a")}, others={"dog/1.png": {"sha512": "0" * 128}})
    with pytest.raises(UntrustedSourceError, match=r"dog/1\.png: sha512"):
        compare(mixed, FILES, "sha256")


def test_a_part_that_was_chosen_is_compared_with_its_part_of_the_list() -> None:
    part = {"cat/1.png": b"a"}
    assert compare(listing("sha512"), part, "sha512", is_selection=True).files == manifest(part).files
    with pytest.raises(DigestMismatchError):
        compare(listing("sha512"), {"cat/1.png": b"x"}, "sha512", is_selection=True)


def test_files_that_were_not_hashed_as_the_rule_asks_are_a_fault_of_ours() -> None:
    with pytest.raises(InternalError):
        compare_listing(listing("sha512"), manifest(FILES), allowed=("sha512",))


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=5))
def test_several_digests_of_one_run_of_bytes_are_those_of_each_alone(data: bytes, cuts: list[int]) -> None:
    hashers = ManyHashers(ALGORITHMS)
    rest = data
    for cut in cuts:
        hashers.update(rest[:cut])
        rest = rest[cut:]
    hashers.update(memoryview(rest))
    assert {"sha256": hashers.sha256, **hashers.others} == {name: digest(name, data) for name in ALGORITHMS}


def test_a_digest_is_of_its_algorithms_length_in_lower_case_hex() -> None:
    assert all(is_digest(name, digest(name, b"")) for name in ALGORITHMS)
    for bad in (digest("sha256", b"").upper(), "0" * 63, "g" * 64, 1, None):
        assert not is_digest("sha256", bad)
    assert not is_digest("md5", "0" * 32)
    assert not is_digest("sha1", "0" * 40)


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(UsageError) as caught:
        ManyHashers(["blake3"])
    assert "millcert[blake3]" in caught.value.hint


def test_further_digests_of_a_folder_are_of_the_bytes_that_have_the_sha256(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    entries = hash_folder(tmp_path)
    assert other_digests(tmp_path, entries, ["sha256"]) == {}
    assert other_digests(tmp_path, entries, ALGORITHMS) == found(FILES)
    (tmp_path / "cat" / "1.png").write_bytes(b"x")
    with pytest.raises(DigestMismatchError):
        other_digests(tmp_path, entries, ["sha512"])
    (tmp_path / "cat" / "1.png").unlink()
    with pytest.raises(UsageError):
        other_digests(tmp_path, entries, ["sha512"])
    (tmp_path / "cat" / "1.png").mkdir()
    with pytest.raises(ManifestError):
        other_digests(tmp_path, entries, ["sha512"])


# The readers


def test_lists_of_checksums_are_read_by_tag_by_name_and_by_length() -> None:
    def line(algorithm: str) -> bytes:
        return f"{digest(algorithm, b'a')}  a\n".encode()

    assert parse_checksums(line("sha512"), name="x/SHA512SUMS").others == {"a": {"sha512": digest("sha512", b"a")}}
    assert parse_checksums(line("blake3"), name="B3SUMS").others == {"a": {"blake3": digest("blake3", b"a")}}
    assert parse_checksums(line("sha384"), name="sums.txt").others == {"a": {"sha384": digest("sha384", b"a")}}
    assert parse_checksums(line("sha256"), name="sums.txt").sha256 == {"a": digest("sha256", b"a")}
    tagged = "".join(
        f"{tag} (a) = {digest(name, b'a')}\n" for tag, name in (("SHA256", "sha256"), ("BLAKE3", "blake3"))
    )
    both = parse_checksums(tagged.encode())
    assert both.digests("a") == {"sha256": digest("sha256", b"a"), "blake3": digest("blake3", b"a")}
    assert parse_bagit_manifest(line("sha512").replace(b"  a", b" data/a"), name="manifest-sha512.txt").others == {
        "data/a": {"sha512": digest("sha512", b"a")}
    }


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (f"{'0' * 32}  a\n", "sums.txt"),
        (f"{'0' * 40}  a\n", "sums.txt"),
        (f"{'0' * 64}  a\n", "SHA512SUMS"),
        (f"{'0' * 128}  a\n", "SHA256SUMS"),
        (f"MD5 (a) = {'0' * 32}\n", "SHA256SUMS"),
        (f"BLAKE2b (a) = {'0' * 128}\n", "SHA512SUMS"),
        (f"SHA512 (a) = {'0' * 128}\nSHA512 (a) = {'1' * 128}\n", "SHA512SUMS"),
    ],
)
def test_weak_mislabelled_and_repeated_digests_are_refused(data: str, name: str) -> None:
    with pytest.raises(ManifestError):
        parse_checksums(data.encode(), name=name)


def croissant(**stated: object) -> bytes:
    return json.dumps(
        {
            "name": "pets",
            "conformsTo": "http://mlcommons.org/croissant/1.1",
            "distribution": [{"@type": "cr:FileObject", "contentUrl": "a", **stated}],
        }
    ).encode()


def test_a_croissant_file_has_several_digests_and_each_must_be_a_real_one() -> None:
    read = parse_croissant(croissant(sha256=digest("sha256", b"a"), sha512=digest("sha512", b"a").upper()))
    assert read.digests("a") == {"sha256": digest("sha256", b"a"), "sha512": digest("sha512", b"a")}
    assert parse_croissant(croissant(blake3=digest("blake3", b"a"))).unhashed == {}
    for bad in (
        {"sha512": "x"},
        {"sha256": digest("sha256", b"a"), "sha384": 1},
        {"md5": "0" * 32},
        {"sha1": "0" * 40},
    ):
        assert set(parse_croissant(croissant(**bad)).unhashed) == {"a"}


def statement(algorithm: str, value: str, *, old: bool = False) -> bytes:
    base = {"_type": "https://in-toto.io/Statement/v1"}
    if old:
        subject = [{"name": "a", "digest": {algorithm: value}}]
        return json.dumps({**base, "subject": subject, "predicateType": PREDICATE_V0, "predicate": {}}).encode()
    joined = hashlib.sha256(bytes.fromhex(value)).hexdigest()
    predicate = {
        "serialization": {"method": "files", "hash_type": algorithm},
        "resources": [{"name": "a", "algorithm": algorithm, "digest": value}],
    }
    subject = [{"name": "pets", "digest": {"sha256": joined}}]
    return json.dumps({**base, "subject": subject, "predicateType": PREDICATE_V1, "predicate": predicate}).encode()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_signature_has_digests_of_each_algorithm(algorithm: str, old: bool) -> None:
    value = digest(algorithm, b"a")
    assert read_model_statement(statement(algorithm, value, old=old))[0].digests("a") == {algorithm: value}


@pytest.mark.parametrize("old", [False, True])
def test_a_model_signature_with_another_hash_is_refused(old: bool) -> None:
    with pytest.raises(SignatureError) as caught:
        read_model_statement(statement("blake2b", "00" * 64, old=old))
    assert caught.value.reason == "digest_algorithm"
    with pytest.raises(SignatureError) as caught:
        read_model_statement(statement("sha512", "00" * 32, old=old))
    assert caught.value.reason == "predicate"


# The rule


def test_a_rule_allows_known_digests_and_our_own_manifest_needs_sha256() -> None:
    key = LocalKey(ec.generate_private_key(ec.SECP256R1()))
    signer = (KeyRule(key.public, is_unlogged_accepted=True),)
    bad: list[dict[str, Any]] = [{"digests": ()}, {"digests": ("md5",)}, {"digests": ("sha512",)}]
    for parts in bad:
        with pytest.raises(PolicyError):
            SourceRule("pets", "**", signed_by=signer, **parts)
    rule = SourceRule("pets", "x/**", signed_by=signer, form="checksums", digests=("sha512", "blake3"))
    assert rule.manifest_path == "x/SHA512SUMS"
    bag = SourceRule("pets", "x/**", signed_by=signer, form="bagit", digests=("sha512", "sha256"))
    assert bag.manifest_path == "x/manifest-sha256.txt"
    sums = "".join(f"{digest('sha512', data)}  {name}\n" for name, data in FILES.items()).encode()
    signed = sign_list(sums, ByKey(key))
    verified = verify_source(manifest(FILES), sums, signed.bundle, rule, None, digests=found(FILES))
    assert {entry.sha256 for entry in verified.manifest.files} == {  # type: ignore[union-attr] # it is signed
        digest("sha256", data) for data in FILES.values()
    }
    assert base64.b64encode(key.public.spki)
