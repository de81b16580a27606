"""The OpenSSF model signature that we write: their verifier's rules hold for it, and our root binds the names."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import ManifestError, SignatureError
from millcert.provenance.manifest import FileEntry, Manifest, parse_manifest
from millcert.provenance.oms import read_model_statement, verify_model
from millcert.provenance.oms_write import model_statement
from millcert.provenance.signing_key import LocalKey
from millcert.provenance.source_signing import ByKey, sign_model
from millcert.provenance.trust import KeyRule

VECTORS = Path(__file__).parents[1] / "vectors" / "0.1.0" / "oms"
KEY = LocalKey(ec.generate_private_key(ec.SECP256R1()))
RULE = KeyRule(KEY.public, is_unlogged_accepted=True)
A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
FOUND = Manifest("pets", (FileEntry("cat/1.png", 1, A), FileEntry("cat.txt", 2, B)))


def statement(**extension: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(model_statement(FOUND, ["model.sig"]))
    value["predicate"]["millcert"] |= extension
    return value


def test_the_list_is_in_the_tools_order_and_the_subject_over_it() -> None:
    """By path segments: "cat/1.png" before "cat.txt", which as texts are the other way round."""
    value = statement()
    assert [one["name"] for one in value["predicate"]["resources"]] == ["cat/1.png", "cat.txt"]
    joined = bytes.fromhex(A) + bytes.fromhex(B)
    assert value["subject"] == [{"name": "pets", "digest": {"sha256": hashlib.sha256(joined).hexdigest()}}]
    assert value["predicate"]["serialization"] == {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [".cache", ".git", ".gitattributes", ".github", ".gitignore", "model.sig"],
    }


def test_the_extension_has_the_root_of_our_manifest() -> None:
    assert statement()["predicate"]["millcert"]["root"] == FOUND.root


PATHS = st.lists(st.text("ab.", min_size=1, max_size=3).filter(lambda part: part.strip(".")), min_size=1, max_size=3)


@given(st.sets(PATHS.map("/".join), min_size=1, max_size=6), st.data())
def test_what_is_written_is_read_back_whatever_the_names(paths: set[str], data: st.DataObject) -> None:
    """Steps 2 and 3 of provenance/oms.py hold for every statement that is written."""
    entries = tuple(FileEntry(path, data.draw(st.integers(0, 9)), A) for path in paths)
    try:
        manifest = Manifest("pets", entries)
    except ManifestError:
        return  # a name is both a file and a folder
    listing, ignored = read_model_statement(model_statement(manifest, ["model.sig"]))
    assert {(path, listing.size_bytes[path]) for path in listing.sha256} == {
        (one.path, one.size_bytes) for one in entries
    }
    assert "model.sig" in ignored


def test_the_signed_statement_verifies_and_its_manifest_has_our_root() -> None:
    signed = sign_model(model_statement(FOUND, ["model.sig"]), ByKey(KEY))
    found = verify_model(FOUND, signed.bundle, root=None, identity=RULE)
    assert found.manifest.root == FOUND.root
    hint = json.loads(signed.bundle)["verificationMaterial"]["publicKey"]["hint"]
    pem = KEY.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert hint == hashlib.sha256(pem).hexdigest()  # what their verifier compares before it verifies


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        ({"root": "0" * 64}, "manifest_root"),
        ({"size_bytes": [2, 1]}, "manifest_root"),
        ({"size_bytes": [1]}, "predicate"),
        ({"size_bytes": [1, -1]}, "predicate"),
        ({"size_bytes": [1, True]}, "predicate"),
        ({"size_bytes": "x"}, "predicate"),
        ({"version": 2}, "predicate"),
        ({"more": 1}, "predicate"),
    ],
)
def test_an_extension_that_does_not_fit_its_list_is_refused(extension: dict[str, Any], reason: str) -> None:
    with pytest.raises(SignatureError) as caught:
        read_model_statement(json.dumps(statement(**extension)).encode())
    assert caught.value.reason == reason


def test_names_swapped_under_the_same_subject_do_not_meet_our_root() -> None:
    """The attack on the format's own digest: the same bytes under other names, which are other labels."""
    value = statement()
    value["predicate"]["resources"][0]["name"] = "dog/1.png"
    with pytest.raises(SignatureError) as caught:
        read_model_statement(json.dumps(value).encode())
    assert caught.value.reason == "manifest_root"
    del value["predicate"]["millcert"]
    read_model_statement(json.dumps(value).encode())  # without our root nothing in the statement speaks against it


def test_an_empty_list_and_what_the_tools_leave_out_are_not_written() -> None:
    for files in ((), (FileEntry(".git/config", 1, A),), (FileEntry(".gitignore", 1, A),)):
        with pytest.raises(ManifestError):
            model_statement(Manifest("pets", files))


def test_the_vector_of_version_0_1_0_is_written_and_read_as_it_was() -> None:
    data = (VECTORS / "statement.json").read_bytes()
    manifest = parse_manifest((VECTORS / "millcert-manifest.json").read_bytes())
    assert model_statement(manifest, ["model.sig", "model.sig.pq.json"]) == data
    listing, _ = read_model_statement(data)
    assert set(listing.sha256) == {entry.path for entry in manifest.files}
