"""Bundles signed by a bare key, and envelopes in every kind of log entry: good ones pass, each flaw is refused."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from millcert.errors import IntegrityError, PolicyError, SignatureError, UntrustedSourceError, UsageError
from millcert.provenance.bundle import verify_bundle, verify_digest, verify_envelope
from millcert.provenance.public_key import Content, PublicKey, parse_base64_key, parse_public_key
from millcert.provenance.trust import KeyRule, SignerRule, TrustRoot, load_trust_root
from millcert.testing.sigstore import Flaw, Instance, PrivateSigstore, Rekor, Window
from millcert.testing.sigstore_entries import EnvelopeEntry, SigningKey, public_der

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = 24 * 60 * 60
CURATOR = SignerRule("https://accounts.private.test", "curator@data.example")
KEYS: dict[str, SigningKey] = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
P256 = KEYS["p256"]


def rule(key: SigningKey, *, is_unlogged_accepted: bool = False) -> KeyRule:
    return KeyRule(parse_public_key(public_der(key)), is_unlogged_accepted)


def pinned(data: bytes) -> TrustRoot:
    return load_trust_root(data, hashlib.sha256(data).hexdigest())


def signed(
    key: SigningKey = P256,
    *,
    rekor: Rekor = 1,
    flaw: Flaw | None = None,
    windows: dict[Instance, Window] | None = None,
) -> tuple[bytes, TrustRoot]:
    kit = PrivateSigstore(now=NOW)
    kit.sign_artifact_by_key(b"before", key, rekor=rekor)
    bundle = kit.sign_artifact_by_key(b"data", key, rekor=rekor, flaw=flaw or Flaw())
    return bundle, pinned(kit.trusted_root(windows=windows))


@pytest.mark.parametrize("rekor", [1, 2])
@pytest.mark.parametrize("kind", sorted(KEYS))
def test_a_signature_by_each_kind_of_key_verifies_and_names_the_key(kind: str, rekor: Rekor) -> None:
    bundle, root = signed(KEYS[kind], rekor=rekor)

    found = verify_bundle(b"data", bundle, root=root, identity=[CURATOR, rule(P256), rule(KEYS[kind])])

    digest = hashlib.sha256(public_der(KEYS[kind])).hexdigest()
    assert (found.identity, found.issuer) == (f"key:sha256:{digest}", "")
    assert found.signed_at == "2026-03-04T05:06:07Z"


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_the_digest_of_the_file_is_enough_for_keys_that_sign_sha256(kind: str) -> None:
    bundle, root = signed(KEYS[kind])
    digest = hashlib.sha256(b"data").hexdigest()
    assert verify_digest(digest, bundle, root=root, identity=rule(KEYS[kind])).identity == rule(KEYS[kind]).identity
    with pytest.raises(SignatureError, match="another file"):
        verify_digest("0" * 64, bundle, root=root, identity=rule(KEYS[kind]))
    with pytest.raises(UsageError, match="64 lower-case hex"):
        verify_digest(digest.upper(), bundle, root=root, identity=rule(KEYS[kind]))


def test_a_key_that_signs_the_whole_message_needs_the_message() -> None:
    bundle, root = signed(KEYS["ed25519"])
    with pytest.raises(SignatureError) as caught:
        verify_digest(hashlib.sha256(b"data").hexdigest(), bundle, root=root, identity=rule(KEYS["ed25519"]))
    assert caught.value.reason == "needs_message"


@pytest.mark.parametrize(
    "signers",
    [[CURATOR], [rule(KEYS["p384"])], [CURATOR, rule(KEYS["ed25519"])]],
    ids=["identity", "another key", "both"],
)
def test_a_key_that_no_rule_names_is_refused_and_named(signers: list[KeyRule | SignerRule]) -> None:
    bundle, root = signed()
    with pytest.raises(UntrustedSourceError, match=f"The signer is {rule(P256).identity}") as caught:
        verify_bundle(b"data", bundle, root=root, identity=signers)
    assert caught.value.reason == "signer"


def test_a_certificate_does_not_stand_in_for_a_key_nor_a_key_for_a_certificate() -> None:
    kit = PrivateSigstore(now=NOW)
    root = pinned(kit.trusted_root())
    by_identity = kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer)
    with pytest.raises(UntrustedSourceError, match=r"The signer is curator@data\.example by"):
        verify_bundle(b"data", by_identity, root=root, identity=rule(P256))
    with pytest.raises(UntrustedSourceError, match="The signer is key:sha256:"):
        verify_bundle(b"data", kit.sign_artifact_by_key(b"data", P256), root=root, identity=CURATOR)


@pytest.mark.parametrize("rekor", [1, 2])
@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        (Flaw(has_other_signing_key=True), "signature"),
        (Flaw(logged_data=b"other"), "entry"),
        (Flaw(has_other_log_key=True), "not_verified"),
        (Flaw(has_inclusion_proof=False), "bundle_malformed"),
        (Flaw(checkpoint_size="4"), "checkpoint_size"),
        (Flaw(checkpoint_origin="other.example"), "checkpoint_origin"),
        (Flaw(log_id=bytes(32)), "log_unknown"),
    ],
    ids=repr,
)
def test_each_flaw_of_a_bundle_by_key_is_refused(rekor: Rekor, flaw: Flaw, reason: str) -> None:
    bundle, root = signed(rekor=rekor, flaw=flaw)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=rule(P256))
    assert caught.value.reason == reason


def test_a_key_needs_no_trusted_time_but_then_a_log_without_end() -> None:
    """Rule 4 of bundle_time: nothing tells that the entry is not from after the log's end."""
    no_time = Flaw(has_timestamp=False)
    bundle, root = signed(rekor=2, flaw=no_time)
    assert verify_bundle(b"data", bundle, root=root, identity=rule(P256)).signed_at is None
    bundle, root = signed(rekor=2, flaw=no_time, windows={"tlog": (-DAY, DAY)})
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=rule(P256))
    assert caught.value.reason == "log_not_valid"


@pytest.mark.parametrize(("window", "is_accepted"), [((-DAY, 0), True), ((0, 0), True), ((-DAY, -1), False)])
def test_the_end_of_a_timestamp_authoritys_window_is_included(window: Window, is_accepted: bool) -> None:
    """The library alone leaves the end out; TimeRange of Sigstore's protobuf specification is closed."""
    kit = PrivateSigstore(now=NOW)
    bundle = kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer)
    root = pinned(kit.trusted_root(windows={"tsa": window}))
    if is_accepted:
        assert verify_bundle(b"data", bundle, root=root, identity=CURATOR).signed_at == "2026-03-04T05:06:07Z"
        return
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)
    assert caught.value.reason == "no_trusted_time"


@pytest.mark.parametrize("entry", ["dsse", "intoto", "hashedrekord"])
@pytest.mark.parametrize("is_key", [True, False])
def test_an_envelope_verifies_in_each_kind_of_entry_and_a_swapped_entry_is_refused(
    entry: EnvelopeEntry, is_key: bool
) -> None:
    kit = PrivateSigstore(now=NOW)
    root = pinned(kit.trusted_root())

    def bundle(flaw: Flaw) -> bytes:
        if is_key:
            return kit.sign_dsse_by_key(b"{}", P256, entry=entry, flaw=flaw)
        return kit.sign_dsse(b"{}", identity=str(CURATOR.identity), issuer=CURATOR.issuer, entry=entry, flaw=flaw)

    signer = rule(P256) if is_key else CURATOR
    assert verify_envelope(bundle(Flaw()), root=root, identity=signer).payload == b"{}"
    for flaw, reason in ((Flaw(logged_data=b"[]"), "entry"), (Flaw(has_other_signing_key=True), "signature")):
        with pytest.raises(SignatureError) as caught:
            verify_envelope(bundle(flaw), root=root, identity=signer)
        assert caught.value.reason == reason


def test_an_envelope_under_another_payload_type_is_refused() -> None:
    """The type is part of what is signed, in all kinds of entry."""
    kit = PrivateSigstore(now=NOW)
    document = json.loads(kit.sign_dsse_by_key(b"{}", P256, entry="intoto"))
    document["dsseEnvelope"]["payloadType"] = "text/plain"
    with pytest.raises(SignatureError) as caught:
        verify_envelope(json.dumps(document).encode(), root=pinned(kit.trusted_root()), identity=rule(P256))
    assert caught.value.reason == "signature"


def stripped(bundle: bytes) -> bytes:
    """The bundle without what the log says: what a thief of the key would show, to leave no trace."""
    document = json.loads(bundle)
    document["verificationMaterial"].pop("tlogEntries")
    document["verificationMaterial"].pop("timestampVerificationData", None)
    return json.dumps(document).encode()


def test_a_stripped_log_entry_is_refused_unless_the_rule_accepts_unlogged_signatures() -> None:
    bundle, root = signed()
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", stripped(bundle), root=root, identity=rule(P256))
    assert caught.value.reason == "unlogged"
    accepting = rule(P256, is_unlogged_accepted=True)
    found = verify_bundle(b"data", stripped(bundle), root=None, identity=accepting)
    assert (found.identity, found.signed_at, found.log_index, found.log_key_id) == (accepting.identity, None, None, "")
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"dat4", stripped(bundle), root=None, identity=accepting)
    assert caught.value.reason == "message_digest"
    with pytest.raises(UntrustedSourceError, match="a bare key"):
        verify_bundle(b"data", stripped(bundle), root=root, identity=CURATOR)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", stripped(bundle), root=root, identity=rule(KEYS["rsa"], is_unlogged_accepted=True))
    assert caught.value.reason == "signature"


def test_a_stripped_log_entry_of_a_certificate_is_refused() -> None:
    kit = PrivateSigstore(now=NOW)
    bundle = kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", stripped(bundle), root=pinned(kit.trusted_root()), identity=CURATOR)
    assert caught.value.reason == "unlogged"


def test_a_logged_bundle_needs_a_trusted_root() -> None:
    bundle, _ = signed()
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=None, identity=rule(P256, is_unlogged_accepted=True))
    assert caught.value.reason == "no_trusted_root"


def changed(bundle: bytes, where: tuple[str | int, ...], value: object) -> bytes:
    document = json.loads(bundle)
    holder = document
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    return json.dumps(document).encode()


ENTRY = ("verificationMaterial", "tlogEntries", 0)


@pytest.mark.parametrize(
    ("where", "rewrite"),
    [
        ((*ENTRY, "logIndex"), lambda text: f"+{text}"),
        ((*ENTRY, "logIndex"), lambda text: f" {text}"),
        ((*ENTRY, "logIndex"), lambda text: f"0{text}"),
        ((*ENTRY, "inclusionProof", "treeSize"), lambda text: f"{text}_0"[:-2] + " "),
        ((*ENTRY, "canonicalizedBody"), lambda text: f"{text[:8]}\n{text[8:]}"),
        ((*ENTRY, "logId", "keyId"), lambda text: f"{text[:8]}~{text[8:]}"),
        (("verificationMaterial", "publicKey", "hint"), lambda _: 7),
        (("messageSignature", "signature"), lambda text: text + "="),
    ],
)
def test_one_value_has_one_form(where: tuple[str | int, ...], rewrite: Any) -> None:
    """The library's models read all but one of these as the same bundle, which then has any number of digests."""
    bundle, root = signed()
    value = json.loads(bundle)
    for key in where:
        value = value[key]
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", changed(bundle, where, rewrite(value)), root=root, identity=rule(P256))
    assert caught.value.reason == "bundle_malformed"


def test_a_log_entry_by_another_key_over_the_same_file_is_refused() -> None:
    """CVE-2022-36056: the entry of somebody else's signature over the same file proves nothing about this one."""
    kit = PrivateSigstore(now=NOW)
    mine, other = (json.loads(kit.sign_artifact_by_key(b"data", KEYS[kind])) for kind in ("p256", "p384"))
    mine["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    signers = [rule(KEYS["p256"]), rule(KEYS["p384"])]
    with pytest.raises(IntegrityError):
        verify_bundle(b"data", json.dumps(mine).encode(), root=pinned(kit.trusted_root()), identity=signers)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n", "no public key"),
        (b"x" * 20000, "more than"),
        (public_der(ec.generate_private_key(ec.SECP256K1())), "secp256k1 is not read"),
        (public_der(rsa.generate_private_key(65537, 1024)), "1024 bits is too short"),
    ],
    ids=["empty", "pem", "long", "curve", "short"],
)
def test_a_key_that_may_verify_nothing_is_a_policy_error(data: bytes, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        parse_public_key(data)


def test_a_key_in_pem_in_der_and_in_base64_is_one_key() -> None:
    der = public_der(P256)
    text = base64.b64encode(der).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{text[:64]}\n{text[64:]}\n-----END PUBLIC KEY-----\n".encode()
    assert parse_public_key(pem) == parse_public_key(der) == parse_base64_key(text) == PublicKey(der)
    with pytest.raises(PolicyError, match="base64 in one line"):
        parse_base64_key(text[:64] + "\n" + text[64:])


def test_content_known_by_its_digest_has_no_other_digest() -> None:
    assert Content.of(b"data").digest("sha512") == hashlib.sha512(b"data").digest()
    assert Content(hashlib.sha256(b"data").digest()).digest("sha512") is None
    assert Content.of(b"data").digest("md5") is None


def with_authority(root: TrustRoot, window: dict[str, str]) -> TrustRoot:
    document = json.loads(root.data)
    document["timestampAuthorities"].append(
        {**document["timestampAuthorities"][0], "certChain": {"certificates": []}, "validFor": window}
    )
    return pinned(json.dumps(document).encode())


def test_the_window_of_another_timestamp_authority_does_not_count() -> None:
    """What an authority signed counts within that authority's own window, never within a stranger's."""
    kit = PrivateSigstore(now=NOW)
    bundle = kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer)
    over, valid = pinned(kit.trusted_root(windows={"tsa": (-2 * DAY, -DAY)})), pinned(kit.trusted_root())
    stranger = {"start": "2026-01-01T00:00:00Z"}
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=with_authority(over, stranger), identity=CURATOR)
    assert caught.value.reason == "no_trusted_time"
    assert verify_bundle(b"data", bundle, root=with_authority(valid, stranger), identity=CURATOR).signed_at


def test_every_trusted_timestamp_must_fit_the_certificate() -> None:
    """Not the earliest or the best one: a second timestamp from after the certificate's end refuses the bundle."""
    kit = PrivateSigstore(now=NOW)
    document = json.loads(kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer))
    signature = base64.b64decode(document["messageSignature"]["signature"])
    stamps = document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    root = pinned(kit.trusted_root())
    for seconds, is_accepted in ((60, True), (3600, False)):
        late = kit._tsa.timestamp(signature, NOW + timedelta(seconds=seconds))
        stamps[1:] = [{"signedTimestamp": base64.b64encode(late).decode()}]
        data = json.dumps(document).encode()
        if is_accepted:
            assert verify_bundle(b"data", data, root=root, identity=CURATOR).signed_at == "2026-03-04T05:06:07Z"
            continue
        with pytest.raises(SignatureError) as caught:
            verify_bundle(b"data", data, root=root, identity=CURATOR)
        assert caught.value.reason == "certificate_chain"


@pytest.mark.parametrize("count", [2, 33])
def test_timestamps_that_repeat_or_are_too_many_are_refused(count: int) -> None:
    kit = PrivateSigstore(now=NOW)
    document = json.loads(kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer))
    stamps = document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    stamps *= count
    with pytest.raises(SignatureError, match="twice, or more than 32") as caught:
        verify_bundle(b"data", json.dumps(document).encode(), root=pinned(kit.trusted_root()), identity=CURATOR)
    assert caught.value.reason == "bundle_malformed"


def test_a_timestamp_that_cannot_be_read_is_refused() -> None:
    kit = PrivateSigstore(now=NOW)
    document = json.loads(kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer))
    document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"] = [{"signedTimestamp": "MAA="}]
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", json.dumps(document).encode(), root=pinned(kit.trusted_root()), identity=CURATOR)
    assert caught.value.reason == "bundle_malformed"


def test_a_trusted_root_whose_log_has_no_start_cannot_be_read() -> None:
    """A window that is open at its start would hold all times before the key was made."""
    bundle, root = signed()
    document = json.loads(root.data)
    for log in document["tlogs"]:
        del log["publicKey"]["validFor"]["start"]
    with pytest.raises(IntegrityError) as caught:
        verify_bundle(b"data", bundle, root=pinned(json.dumps(document).encode()), identity=rule(P256))
    assert caught.value.reason == "trusted_root"


def test_an_entry_of_rekor_v2_with_a_signed_entry_timestamp_is_refused() -> None:
    bundle, root = signed(rekor=2)
    document = json.loads(bundle)
    entry = document["verificationMaterial"]["tlogEntries"][0]
    entry |= {"integratedTime": "1772600767", "inclusionPromise": {"signedEntryTimestamp": "AAAA"}}
    with pytest.raises(SignatureError, match="Rekor v2 signs no entry timestamps"):
        verify_bundle(b"data", json.dumps(document).encode(), root=root, identity=rule(P256))
