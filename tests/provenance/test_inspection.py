"""`source inspect`: it says what each form of evidence holds, calls it unverified, and no input makes it do more."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, mldsa
from hypothesis import given
from hypothesis import strategies as st

from millcert.cli.source import source
from millcert.errors import IntegrityError, MillcertError, UsageError
from millcert.provenance.bundle_write import public_pem
from millcert.provenance.inspection import MAX_INSPECTED_BYTES, Inspection, inspect_evidence
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.oms_write import model_statement
from millcert.provenance.pq_signature import PqKey
from millcert.provenance.signing_key import LocalKey
from millcert.provenance.source_signing import ByKey, sign_list, sign_model
from millcert.testing.sigstore import PrivateSigstore

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
KIT = PrivateSigstore(now=NOW)
WHO: dict[str, Any] = {"identity": "curator@data.example", "issuer": "https://accounts.private.test"}
KEY = LocalKey(ec.generate_private_key(ec.SECP256R1()))
PQ = PqKey(mldsa.MLDSA65PrivateKey.generate())
A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
FILES = Manifest("pets", (FileEntry("cat/1.png", 1, A), FileEntry("dog/1.png", 1, B)))
LIST = FILES.to_json()
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "pets", "digest": {"sha256": A}}],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {"runDetails": {"builder": {"id": "https://builder.example"}}},
}
SUMMARY = {
    **STATEMENT,
    "predicateType": "https://slsa.dev/verification_summary/v1",
    "predicate": {"verifier": {"id": "v"}, "verificationResult": "PASSED", "verifiedLevels": ["L1", "L2"]},
}
SIGNED = KIT.sign_artifact(LIST, **WHO)
ENVELOPE = KIT.sign_dsse(json.dumps(STATEMENT).encode(), **WHO)


def facts(found: Inspection) -> dict[str, str]:
    return dict(found.facts)


def test_a_keyless_bundle_names_who_when_and_where_it_was_logged() -> None:
    found = inspect_evidence(SIGNED)
    told = facts(found)
    assert found.form == "Sigstore bundle"
    assert (told["identity"], told["issuer"]) == (WHO["identity"], WHO["issuer"])
    assert told["timestamp"] == "2026-03-04T05:06:07Z"
    assert told["certificate ends"] == "2026-03-04T05:16:07Z"
    assert told["log entry"] == "0, hashedrekord 0.0.2"
    assert found.subjects == (("the signed file", {"sha256": hashlib.sha256(LIST).hexdigest()}),)
    assert facts(inspect_evidence(KIT.sign_artifact(LIST, rekor=1, **WHO)))["logged at"] == "2026-03-04T05:06:07Z"


def test_a_bundle_by_key_names_its_hint_and_the_key_in_the_log() -> None:
    unlogged = facts(inspect_evidence(sign_list(LIST, ByKey(KEY)).bundle))
    assert unlogged["key hint"] == hashlib.sha256(public_pem(KEY.public)).hexdigest()
    assert unlogged["log entries"].startswith("none")
    logged = facts(inspect_evidence(KIT.sign_artifact_by_key(LIST, KEY.key)))
    assert logged["logged key"] == f"key:sha256:{KEY.public.sha256}"


def test_an_attestation_says_its_predicate_and_what_it_is_about() -> None:
    found = inspect_evidence(ENVELOPE)
    assert facts(found)["builder"] == "https://builder.example"
    assert found.subjects == (("pets", {"sha256": A}),)
    bare = inspect_evidence(json.dumps(json.loads(ENVELOPE)["dsseEnvelope"]).encode())
    assert bare.form == "DSSE envelope, without a bundle"
    assert bare.subjects == found.subjects
    summary = facts(inspect_evidence(json.dumps(SUMMARY).encode()))
    assert (summary["verifier"], summary["result"], summary["levels"]) == ("v", "PASSED", "L1, L2")
    assert summary["verified at"] == "none"


def test_a_model_signature_says_its_files_and_our_root() -> None:
    found = inspect_evidence(sign_model(model_statement(FILES, ["model.sig"]), ByKey(KEY)).bundle)
    told = facts(found)
    assert told["form"] == "OpenSSF model signature"
    assert told["name-binding root"] == FILES.root
    assert [one.name for one in found.subjects] == ["cat/1.png", "dog/1.png"]
    broken = json.loads(model_statement(FILES)) | {"subject": [{"name": "x", "digest": {"sha256": "00" * 32}}]}
    assert "cannot be read" in facts(inspect_evidence(json.dumps(broken).encode()))["files"]


@pytest.mark.parametrize(
    ("data", "form", "subject"),
    [
        (LIST, "millcert manifest, version 1", "cat/1.png"),
        (PQ.sign(LIST), "post-quantum signature", None),
        (f"{A}  cat/1.png\n".encode(), "list of checksums", "cat/1.png"),
        (f"{A} data/1.png\n".encode(), "BagIt payload manifest", "data/1.png"),
        (f"{A}  data/1.png\n".encode(), "BagIt payload manifest or list of checksums", "data/1.png"),
        (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{A}\nsize 1\n".encode(),
            "Git-LFS pointer",
            "the file itself",
        ),
        (f"outs:\n- md5: {'0' * 32}\n  path: a.csv\n".encode(), "DVC file", "a.csv"),
        (KIT.trusted_root(), "Sigstore trusted root", None),
        (public_pem(KEY.public), "public key", None),
        (
            PQ.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            "public key",
            None,
        ),
        (
            json.dumps(
                {
                    "conformsTo": "http://mlcommons.org/croissant/1.0",
                    "name": "pets",
                    "distribution": [
                        {"@type": "cr:FileObject", "contentUrl": "a", "sha256": A},
                        {"@type": "cr:FileObject", "contentUrl": "b"},
                    ],
                }
            ).encode(),
            "Croissant file",
            "a",
        ),
    ],
)
def test_every_form_that_is_read_is_told(data: bytes, form: str, subject: str | None) -> None:
    found = inspect_evidence(data)
    assert found.form == form
    assert (found.subjects[0].name if found.subjects else None) == subject


def test_a_certificate_is_told_with_its_names_or_its_subject() -> None:
    leaf, authority, _ = KIT.issue(KEY.key.public_key(), **WHO)  # type: ignore[arg-type] # an elliptic curve key
    pem = [one.public_bytes(serialization.Encoding.PEM) for one in (leaf, authority)]
    assert facts(inspect_evidence(pem[0]))["identity"] == WHO["identity"]
    assert "CN=intermediate" in facts(inspect_evidence(pem[1]))["subject"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"{",
        b'{"a": 1, "a": 2}',
        b"hello",
        b"\xff\xfe",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ed448.Ed448PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"outs: 1\n",
        b'{"_type": "x"}',
    ],
)
def test_what_is_no_evidence_is_refused_in_words(data: bytes) -> None:
    with pytest.raises((IntegrityError, UsageError)):
        inspect_evidence(data)


def test_a_private_key_and_a_file_without_end_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pem = KEY.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(UsageError, match="private key"):
        inspect_evidence(pem)
    monkeypatch.setattr("millcert.provenance.inspection.MAX_INSPECTED_BYTES", 10)
    with pytest.raises(UsageError, match="more than"):
        inspect_evidence(b" " * 11)
    assert MAX_INSPECTED_BYTES > 10


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("verificationMaterial",), []),
        (("verificationMaterial", "certificate"), {"rawBytes": "AAAA"}),
        (("verificationMaterial", "certificate"), None),
        (("verificationMaterial", "tlogEntries"), [1, {"integratedTime": "9" * 30}, {"integratedTime": "x" * 9}]),
        (("verificationMaterial", "tlogEntries"), [{"integratedTime": "1" * 5000, "canonicalizedBody": "AAAA"}]),
        (("verificationMaterial", "timestampVerificationData"), {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]}),
        (("verificationMaterial", "timestampVerificationData"), {"rfc3161Timestamps": [1]}),
        (("messageSignature", "messageDigest"), {"digest": "!"}),
        (("messageSignature",), 1),
    ],
)
def test_a_part_that_cannot_be_read_hides_no_other(part: tuple[str, ...], value: object) -> None:
    document = json.loads(SIGNED)
    place = document
    for key in part[:-1]:
        place = place[key]
    place[part[-1]] = value
    assert facts(inspect_evidence(json.dumps(document).encode()))["media type"]


SAMPLES = (SIGNED, ENVELOPE, LIST, PQ.sign(LIST), f"{A}  cat/1.png\n".encode())


@given(st.sampled_from(SAMPLES), st.data())
def test_no_mutant_leaks_a_foreign_exception(sample: bytes, data: st.DataObject) -> None:
    """Rule 3: any input is either read or refused with an error of ours."""
    mutant = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    try:
        inspect_evidence(bytes(mutant))
    except MillcertError:
        return


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_any_value_in_any_place_of_a_bundle_is_told_or_refused(value: object) -> None:
    for key in ("tlogEntries", "publicKey", "certificate", "x509CertificateChain", "timestampVerificationData"):
        document = json.loads(SIGNED)
        document["verificationMaterial"][key] = value
        inspect_evidence(json.dumps(document).encode())


# The command


def inspect(path: Path, *options: str) -> str:
    result = CliRunner().invoke(source, ["inspect", str(path), *options])
    assert result.exception is None, result.exception
    return result.stdout


def test_the_answer_says_first_that_nothing_was_verified(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(SIGNED)
    lines = inspect(path).splitlines()
    assert lines[0].startswith("UNVERIFIED")
    assert "  identity: curator@data.example" in lines
    assert lines[-1].startswith("next: millcert source verify")
    answer = json.loads(inspect(path, "--json"))
    assert answer["verified"] is False
    assert answer["subject_count"] == 1
    assert {"label": "issuer", "value": WHO["issuer"]} in answer["facts"]


def test_a_hostile_name_does_not_command_the_terminal(tmp_path: Path) -> None:
    hostile = {**STATEMENT, "subject": [{"name": "\x1b[2J\nUNVERIFIED\u202e" + "x" * 5000, "digest": {"sha256": A}}]}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(hostile))
    out = inspect(path)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("UNVERIFIED") == 2
    assert max(map(len, out.splitlines())) < 400


def test_many_subjects_are_counted_and_some_shown(tmp_path: Path) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text("".join(f"{A}  {number}\n" for number in range(50)))
    assert "and 30 more" in inspect(path)
    assert json.loads(inspect(path, "--json"))["subject_count"] == 50


def test_a_logged_key_of_a_kind_that_nobody_knows_hides_no_other_part() -> None:
    """A fuzzer's find: an algorithm's number changed in one byte is another exception than a broken key."""
    bundle = KIT.sign_artifact_by_key(b"data", ec.generate_private_key(ec.SECP256R1()), rekor=2)
    document = json.loads(bundle)
    entry = document["verificationMaterial"]["tlogEntries"][0]
    body = json.loads(base64.b64decode(entry["canonicalizedBody"]))
    verifier = body["spec"]["hashedRekordV002"]["signature"]["verifier"]["publicKey"]
    key = base64.b64decode(verifier["rawBytes"])
    other = key.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0211"))
    verifier["rawBytes"] = base64.b64encode(other).decode()
    entry["canonicalizedBody"] = base64.b64encode(json.dumps(body).encode()).decode()
    told = facts(inspect_evidence(json.dumps(document).encode()))
    assert "logged key" not in told
    assert told["log entries"] == "1"


def test_a_certificate_of_a_version_that_nobody_knows_is_told_as_unreadable() -> None:
    document = json.loads(
        KIT.sign_artifact(b"data", identity="curator@data.example", issuer="https://accounts.private.test")
    )
    certificate = document["verificationMaterial"]["certificate"]
    der = base64.b64decode(certificate["rawBytes"]).replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    certificate["rawBytes"] = base64.b64encode(der).decode()
    assert facts(inspect_evidence(json.dumps(document).encode()))["signer"] == "a certificate that cannot be read"
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(IntegrityError, match="cannot be read"):
        inspect_evidence(pem)
