"""OpenSSF model signing: published signatures verify, and each change of the files is refused with its own error."""

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from millcert.errors import DigestMismatchError, ManifestError, PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.digest import hash_folder
from millcert.provenance.dsse import pae
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.oms import PREDICATE_V0, PREDICATE_V1, SIGNATURE_NAME, SignedModel, verify_model
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.trust import (
    AuthorityRule,
    KeyRule,
    Signer,
    SignerRule,
    SourceRule,
    TrustRoot,
    verify_source,
)
from millcert.testing.sigstore_authority import key_usage
from millcert.testing.sigstore_entries import public_der

DATA = Path(__file__).parents[3] / "shared" / "data" / "model-signing"
TREES = (
    "v0.2.0-certificate",
    "v0.3.1-sigstore",
    "v1.0.0-elliptic-key",
    "v1.1.0-certificate",
    "v1.1.0-elliptic-key",
    "v1.1.0-sigstore",
)
KEY = ec.generate_private_key(ec.SECP256R1())
BY_KEY = KeyRule(parse_public_key(public_der(KEY)), is_unlogged_accepted=True)
NOW = datetime(2026, 3, 4, tzinfo=UTC)
A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
FOUND = Manifest("found", (FileEntry("cat/1.png", 1, A), FileEntry("dog/1.png", 1, B)))

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/model-signing is not there")


def signer_of(tree: str) -> Signer:
    keys = DATA / "keys" / "certificate"
    if "key" in tree:
        return KeyRule(parse_public_key((keys / "signing-key-pub.pem").read_bytes()), is_unlogged_accepted=True)
    if "certificate" in tree:
        authority = x509.load_pem_x509_certificate((keys / "ca-cert.pem").read_bytes())
        return AuthorityRule((authority.public_bytes(serialization.Encoding.DER),), "CN=intermediate-ca")
    return SignerRule("https://sigstore.verify.ibm.com/oauth2", "stefanb@us.ibm.com")


def production_root() -> TrustRoot:
    path = files("sigstore._store") / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev" / "trusted_root.json"
    data = path.read_bytes()
    return TrustRoot(data, hashlib.sha256(data).hexdigest())


def verify_tree(folder: Path, tree: str) -> SignedModel:
    found = Manifest("found", hash_folder(folder, exclude=frozenset({SIGNATURE_NAME})))
    bundle = (folder / SIGNATURE_NAME).read_bytes()
    return verify_model(found, bundle, root=production_root(), identity=signer_of(tree), is_ignoring_accepted=True)


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for path in (DATA / request.param).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("tree", TREES)
def test_a_published_signature_verifies(tree: str) -> None:
    found = verify_tree(DATA / tree, tree)
    assert [entry.path for entry in found.manifest.files] == ["signme-1", "signme-2"][: len(found.manifest.files)]
    assert found.ignored == (("ignore-me",) if "v1.1.0" in tree else ())
    assert (found.signature.signed_at is not None) == ("sigstore" in tree)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


CHANGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "a flipped byte": (lambda top: flipped(top / "signme-1"), DigestMismatchError, r"1 changed \(signme-1\)"),
    "a renamed file": (lambda top: (top / "signme-1").rename(top / "x"), ManifestError, "1 renamed"),
    "an added file": (lambda top: (top / "extra").write_bytes(b"x"), ManifestError, r"1 added \(extra\)"),
    "a removed file": (lambda top: (top / "signme-1").unlink(), ManifestError, r"1 missing \(signme-1\)"),
    "a link": (lambda top: (top / "link").symlink_to(top / "signme-1"), ManifestError, "symbolic link"),
}


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize(("copied", "tree"), [(tree, tree) for tree in TREES], indirect=["copied"])
def test_each_change_of_the_files_is_refused_with_its_own_error(copied: Path, tree: str, change: str) -> None:
    make, error, message = CHANGES[change]
    make(copied)
    with pytest.raises(error, match=message):
        verify_tree(copied, tree)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("copied", "tree"), [(tree, tree) for tree in TREES], indirect=["copied"])
def test_every_byte_and_every_file_of_a_published_tree_counts(copied: Path, tree: str) -> None:
    signed = [entry.path for entry in verify_tree(copied, tree).manifest.files]
    for name in signed:
        path = copied / name
        data = path.read_bytes()
        for place in range(len(data)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(DigestMismatchError, match=rf"1 changed \({name}\)"):
                verify_tree(copied, tree)
        path.write_bytes(data)
        path.rename(copied / "other")
        with pytest.raises(ManifestError, match="1 renamed"):
            verify_tree(copied, tree)
        (copied / "other").unlink()
        with pytest.raises(ManifestError, match=rf"1 missing \({name}\)"):
            verify_tree(copied, tree)
        path.write_bytes(data)
    assert verify_tree(copied, tree).manifest.files


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("copied", "tree"), [(tree, tree) for tree in TREES], indirect=["copied"])
def test_each_changed_part_of_the_signature_is_refused(copied: Path, tree: str) -> None:
    bundle = json.loads((copied / SIGNATURE_NAME).read_bytes())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    found = Manifest("found", hash_folder(copied, exclude=frozenset({SIGNATURE_NAME})))
    edits = [
        ("payload", payload.replace(b"signme-1", b"signme-3")),
        ("payloadType", "text/plain"),
        ("sig", signature[:-1]),
    ]
    for part, value in edits:
        changed = json.loads(json.dumps(bundle))
        holder = changed["dsseEnvelope"]["signatures"][0] if part == "sig" else changed["dsseEnvelope"]
        holder[part] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        with pytest.raises(SignatureError) as caught:
            verify_model(found, json.dumps(changed).encode(), root=production_root(), identity=signer_of(tree))
        assert caught.value.reason in {"signature", "bundle_malformed"}


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("tree", TREES)
def test_another_signer_is_refused(tree: str) -> None:
    others: list[Signer] = [BY_KEY, SignerRule("https://sigstore.verify.ibm.com/oauth2", "x@us.ibm.com")]
    if "certificate" in tree:
        own = signer_of(tree)
        assert isinstance(own, AuthorityRule)
        others.append(AuthorityRule(own.authorities, "CN=somebody"))
    found = Manifest("found", ())
    with pytest.raises((UntrustedSourceError, SignatureError)) as caught:
        verify_model(found, (DATA / tree / SIGNATURE_NAME).read_bytes(), root=production_root(), identity=others)
    assert caught.value.reason in {"signer", "signature", "unlogged"}


def statement(**changes: Any) -> dict[str, Any]:
    resources = [
        {"name": "cat/1.png", "algorithm": "sha256", "digest": A},
        {"name": "dog/1.png", "algorithm": "sha256", "digest": B},
    ]
    joined = hashlib.sha256(bytes.fromhex(A) + bytes.fromhex(B)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "pets", "digest": {"sha256": joined}}],
        "predicateType": PREDICATE_V1,
        "predicate": {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": resources},
        **changes,
    }


def signed_model(
    value: dict[str, Any], *, payload_type: str = "application/vnd.in-toto+json", old: bool = False
) -> bytes:
    payload = json.dumps(value).encode()
    encoded = pae(payload_type, payload)
    if old:
        encoded = f"DSSEV1 {len(payload_type)} {payload_type} {len(payload)} {payload!r}".encode()
    signature = KEY.sign(encoded, ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
            "dsseEnvelope": envelope,
        }
    ).encode()


def verify(value: dict[str, Any], found: Manifest = FOUND, **options: Any) -> SignedModel:
    return verify_model(found, signed_model(value), root=None, identity=BY_KEY, **options)


def test_our_root_binds_the_names_that_the_formats_own_digest_does_not() -> None:
    """cat/1.png and dog/1.png renamed to dog/1.png and elephant/1.png: the same subject digest, other labels."""
    before = verify(statement())
    resources = [
        {"name": "dog/1.png", "algorithm": "sha256", "digest": A},
        {"name": "elephant/1.png", "algorithm": "sha256", "digest": B},
    ]
    relabelled = statement(
        predicate={"serialization": {"method": "files", "hash_type": "sha256"}, "resources": resources}
    )
    found = Manifest("found", (FileEntry("dog/1.png", 1, A), FileEntry("elephant/1.png", 1, B)))
    assert relabelled["subject"] == statement()["subject"]
    assert verify(relabelled, found).manifest.root != before.manifest.root
    with pytest.raises(DigestMismatchError):
        verify(statement(), found)


@pytest.mark.parametrize("old", [False, True])
def test_the_form_of_version_0_2_lists_files_as_subjects(old: bool) -> None:
    subjects = [{"name": "cat/1.png", "digest": {"sha256": A}}, {"name": "dog/1.png", "digest": {"sha256": B}}]
    value = statement(subject=subjects, predicateType=PREDICATE_V0, predicate={"unused": "x"})
    found = verify_model(FOUND, signed_model(value, old=old), root=None, identity=BY_KEY)
    assert [entry.path for entry in found.manifest.files] == ["cat/1.png", "dog/1.png"]


def test_what_a_signature_ignores_is_refused_unless_accepted_and_then_named_never_taken() -> None:
    predicate = {
        **statement()["predicate"],
        "serialization": {"method": "files", "hash_type": "sha256", "ignore_paths": ["notes"]},
    }
    more = Manifest("found", (*FOUND.files, FileEntry("notes/a.txt", 3, "c" * 64), FileEntry("notesb", 3, "d" * 64)))
    with pytest.raises(ManifestError, match="2 added"):
        verify(statement(predicate=predicate), more)
    with pytest.raises(ManifestError, match=r"1 added \(notesb\)"):
        verify(statement(predicate=predicate), more, is_ignoring_accepted=True)
    fewer = Manifest("found", more.files[:3])
    accepted = verify(statement(predicate=predicate), fewer, is_ignoring_accepted=True)
    assert accepted.ignored == ("notes/a.txt",)
    assert len(accepted.manifest.files) == 2


def with_predicate(**parts: Any) -> dict[str, Any]:
    return statement(predicate={**statement()["predicate"], **parts})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (statement(predicateType="https://slsa.dev/provenance/v1"), "predicate"),
        (statement(_type="https://in-toto.io/Statement/v0.1"), "statement"),
        (statement(subject=[{"name": "pets", "digest": {"sha256": "0" * 64}}]), "subject"),
        (statement(subject=statement()["subject"] * 2), "predicate"),
        (with_predicate(resources=[]), "predicate"),
        (with_predicate(resources=[{"algorithm": "sha256", "digest": A}]), "predicate"),
        (with_predicate(resources=[{"name": "a", "algorithm": "sha256", "digest": A[:-1]}]), "predicate"),
        (with_predicate(resources=[{"name": "a", "algorithm": "md5", "digest": A}]), "digest_algorithm"),
        (with_predicate(serialization={"method": "shards", "hash_type": "sha256"}), "serialization"),
        (with_predicate(serialization={"method": "files", "hash_type": "blake3"}), "digest_algorithm"),
        (with_predicate(serialization={"method": "files", "hash_type": "sha256", "ignore_paths": [1]}), "predicate"),
        (
            statement(predicateType=PREDICATE_V0, subject=[{"name": "a", "digest": {"sha256": A, "md5": A}}]),
            "digest_algorithm",
        ),
    ],
)
def test_what_is_signed_but_is_no_such_list_is_refused(value: dict[str, Any], reason: str) -> None:
    with pytest.raises(SignatureError) as caught:
        verify(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "cat/1.png", "a\\b", ".", "C:x"])
def test_a_path_that_no_manifest_may_hold_is_refused(name: str) -> None:
    first = {"name": "cat/1.png", "algorithm": "sha256", "digest": A}
    second = {"name": name, "algorithm": "sha256", "digest": B}
    joined = hashlib.sha256(bytes.fromhex(A) + bytes.fromhex(B)).hexdigest()
    value = with_predicate(resources=[first, second])
    value["subject"][0]["digest"]["sha256"] = joined
    with pytest.raises(ManifestError):
        verify(value)


def test_another_payload_type_and_a_key_that_is_not_accepted_unlogged_are_refused() -> None:
    bundle = signed_model(statement(), payload_type="text/plain")
    with pytest.raises(SignatureError) as caught:
        verify_model(FOUND, bundle, root=None, identity=BY_KEY)
    assert caught.value.reason == "payload_type"
    with pytest.raises(SignatureError) as caught:
        verify_model(FOUND, signed_model(statement()), root=None, identity=KeyRule(BY_KEY.key))
    assert caught.value.reason == "unlogged"


def test_a_source_of_that_form_is_verified_by_its_signature_alone_and_ignores_nothing() -> None:
    rule = SourceRule("pets", "pets/**", signed_by=(BY_KEY,), form="model_signing")
    assert rule.manifest_path == rule.bundle_path == "pets/model.sig"
    bundle = signed_model(statement())
    found = verify_source(FOUND, bundle, bundle, rule, None)
    assert (found.status, found.manifest_root) == ("verified", verify(statement()).manifest.root)
    value = with_predicate(serialization={"method": "files", "hash_type": "sha256", "ignore_paths": ["x"]})
    bundle = signed_model(value)
    with pytest.raises(ManifestError, match=r"1 added \(x\)"):
        verify_source(Manifest("found", (*FOUND.files, FileEntry("x", 1, "c" * 64))), bundle, bundle, rule, None)


# Certificates under an authority of one's own


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[str, ec.EllipticCurvePrivateKey],
    *extensions: tuple[x509.ExtensionType, bool],
    start: datetime = NOW,
) -> bytes:
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (subject, issuer[0])]
    builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + timedelta(days=30))
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(issuer[1], hashes.SHA256()).public_bytes(serialization.Encoding.DER)


CA_KEY, MIDDLE_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
IS_CA = (x509.BasicConstraints(ca=True, path_length=None), True)
SIGNS = (key_usage(signs_data=True), True)
ROOT = certificate("root", CA_KEY, ("root", CA_KEY), IS_CA)
MIDDLE = certificate("middle", MIDDLE_KEY, ("root", CA_KEY), IS_CA)
LEAF = certificate("data", KEY, ("middle", MIDDLE_KEY), SIGNS)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def by_chain(*chain: bytes) -> bytes:
    bundle = json.loads(signed_model(statement()))
    links = [{"rawBytes": base64.b64encode(link).decode()} for link in chain]
    bundle["verificationMaterial"] = {"x509CertificateChain": {"certificates": links}}
    return json.dumps(bundle).encode()


def test_a_chain_to_an_authority_of_the_policy_verifies() -> None:
    rule = AuthorityRule((ROOT,), "CN=data")
    found = verify_model(FOUND, by_chain(LEAF, MIDDLE), root=None, identity=rule)
    assert (found.signature.identity, found.signature.signed_at) == ("CN=data", None)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ((LEAF,), "certificate_chain"),
        ((LEAF, ROOT), "certificate_chain"),
        ((certificate("data", KEY, ("data", KEY), SIGNS),), "certificate_chain"),
        ((LEAF, certificate("middle", MIDDLE_KEY, ("root", CA_KEY))), "certificate_chain"),
        ((LEAF, certificate("middle", MIDDLE_KEY, ("root", CA_KEY), IS_CA, SIGNS)), "certificate_chain"),
        ((LEAF, certificate("middle", MIDDLE_KEY, ("root", CA_KEY), IS_CA, (UNKNOWN, True))), "certificate_chain"),
        (
            (LEAF, certificate("middle", MIDDLE_KEY, ("root", CA_KEY), IS_CA, start=NOW - timedelta(days=60))),
            "certificate_chain",
        ),
        ((certificate("data", KEY, ("middle", MIDDLE_KEY)), MIDDLE), "certificate_chain"),
        (
            (
                certificate(
                    "data",
                    KEY,
                    ("middle", MIDDLE_KEY),
                    SIGNS,
                    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
                ),
                MIDDLE,
            ),
            "certificate_chain",
        ),
        ((certificate("data", CA_KEY, ("middle", MIDDLE_KEY), SIGNS), MIDDLE), "signature"),
        ((b"no certificate",), "bundle_malformed"),
        ((LEAF,) * 9, "bundle_malformed"),
        ((), "bundle_malformed"),
    ],
)
def test_a_chain_with_a_flaw_is_refused(chain: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(SignatureError) as caught:
        verify_model(FOUND, by_chain(*chain), root=None, identity=AuthorityRule((ROOT,), "CN=data"))
    assert caught.value.reason == reason


def test_a_path_length_is_kept() -> None:
    short = certificate("root", CA_KEY, ("root", CA_KEY), (x509.BasicConstraints(ca=True, path_length=0), True))
    with pytest.raises(SignatureError) as caught:
        verify_model(FOUND, by_chain(LEAF, MIDDLE), root=None, identity=AuthorityRule((short,), "CN=data"))
    assert caught.value.reason == "certificate_chain"
    direct = certificate("data", KEY, ("root", CA_KEY), SIGNS)
    found = verify_model(FOUND, by_chain(direct), root=None, identity=AuthorityRule((short,), "CN=data"))
    assert found.signature.identity == "CN=data"


def test_an_authority_rule_without_authority_or_subject_is_refused() -> None:
    for authorities, identity in (((), "CN=data"), ((ROOT,), "")):
        with pytest.raises(PolicyError, match="at least one certificate"):
            AuthorityRule(authorities, identity)
