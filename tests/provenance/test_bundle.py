"""Verification of Sigstore bundles: good ones pass, each flaw and each hole of the library alone is refused."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millcert.errors import IntegrityError, PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.bundle import MAX_BUNDLE_BYTES, load_trust_root, verify_bundle, verify_envelope
from millcert.provenance.trust import SignerRule, TrustRoot, VerifiedSignature
from millcert.testing.sigstore import Flaw, Instance, PrivateSigstore, Rekor, Window

ISSUER = "https://accounts.private.test"
EMAIL = "curator@data.example"
WORKFLOW = "https://github.com/data-owner/birds/.github/workflows/publish.yml@refs/tags/v1"
CURATOR = SignerRule(ISSUER, EMAIL)
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = 24 * 60 * 60


class NoSocket(socket.socket):
    """A socket that cannot be had."""

    def __init__(self, *_: object, **__: object) -> None:
        raise OSError("a verification tried to open a socket")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoSocket)


def pinned(data: bytes) -> TrustRoot:
    return load_trust_root(data, hashlib.sha256(data).hexdigest())


def signed(
    rekor: Rekor, *, flaw: Flaw | None = None, windows: dict[Instance, Window] | None = None, identity: str = EMAIL
) -> tuple[bytes, TrustRoot]:
    """A bundle over b"data" that is the third entry of its log, and the trusted root it is to be verified against."""
    kit = PrivateSigstore(now=NOW)
    for _ in range(2):
        kit.sign_artifact(b"before", identity=identity, issuer=ISSUER, rekor=rekor)
    bundle = kit.sign_artifact(b"data", identity=identity, issuer=ISSUER, rekor=rekor, flaw=flaw or Flaw())
    return bundle, pinned(kit.trusted_root(windows=windows))


def library_accepts(bundle: bytes, root: TrustRoot, identity: str = EMAIL) -> bool:
    """Whether sigstore alone, used as its documentation says, takes the bundle."""
    from sigstore.errors import Error
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity
    from sigstore_models.trustroot.v1 import TrustedRoot as TrustedRootModel

    verifier = Verifier(trusted_root=TrustedRoot(TrustedRootModel.from_json(root.data)))
    try:
        verifier.verify_artifact(b"data", Bundle.from_json(bundle), Identity(identity=identity, issuer=ISSUER))
    except Error:
        return False
    return True


@pytest.mark.parametrize("rekor", [1, 2])
@pytest.mark.parametrize("identity", [EMAIL, WORKFLOW])
def test_a_good_bundle_verifies_and_tells_who_signed_when_and_where(identity: str, rekor: Rekor) -> None:
    bundle, root = signed(rekor, identity=identity)

    signature = verify_bundle(b"data", bundle, root=root, identity=SignerRule(ISSUER, identity))

    entry = json.loads(bundle)["verificationMaterial"]["tlogEntries"][0]
    assert signature == VerifiedSignature(
        identity=identity,
        issuer=ISSUER,
        signed_at="2026-03-04T05:06:07Z",
        log_index=int(entry["logIndex"]),
        log_key_id=signature.log_key_id,
        bundle_sha256=hashlib.sha256(bundle).hexdigest(),
        trusted_root_sha256=root.sha256,
    )
    assert len(signature.log_key_id) == 64


def test_a_signer_may_be_named_by_a_pattern_and_be_one_of_several() -> None:
    bundle, root = signed(2, identity=WORKFLOW)
    rules = [
        CURATOR,
        SignerRule(ISSUER, identity_pattern="https://github.com/data-owner/*/.github/workflows/*@refs/tags/*"),
    ]
    assert verify_bundle(b"data", bundle, root=root, identity=rules).identity == WORKFLOW


@pytest.mark.parametrize(
    "rule",
    [
        SignerRule("https://evil.example", EMAIL),
        SignerRule(ISSUER, "other@data.example"),
        SignerRule(ISSUER, EMAIL.upper()),
        SignerRule(ISSUER + "/", EMAIL),
        SignerRule(ISSUER, identity_pattern="*@evil.example"),
    ],
    ids=str,
)
def test_another_signer_is_refused_and_named(rule: SignerRule) -> None:
    bundle, root = signed(2)
    with pytest.raises(UntrustedSourceError, match=f"{EMAIL} by {ISSUER}; trusted are") as caught:
        verify_bundle(b"data", bundle, root=root, identity=rule)
    assert caught.value.reason == "signer"
    assert caught.value.identity == EMAIL


def test_no_signer_is_a_policy_error() -> None:
    bundle, root = signed(2)
    with pytest.raises(PolicyError, match="without a signer"):
        verify_bundle(b"data", bundle, root=root, identity=())


@pytest.mark.parametrize("rekor", [1, 2])
def test_other_bytes_are_refused(rekor: Rekor) -> None:
    bundle, root = signed(rekor)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"Data", bundle, root=root, identity=CURATOR)
    assert caught.value.reason == "message_digest"
    document = json.loads(bundle)
    del document["messageSignature"]["messageDigest"]
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"Data", json.dumps(document).encode(), root=root, identity=CURATOR)
    assert caught.value.reason == "signature"


@pytest.mark.parametrize(
    ("rekor", "flaw", "reason"),
    [
        (1, Flaw(has_set=False), "no_trusted_time"),
        (2, Flaw(has_timestamp=False), "no_trusted_time"),
        (1, Flaw(integrated_seconds=3600), "certificate_chain"),
        (2, Flaw(timestamp_seconds=-3600), "certificate_chain"),
        (2, Flaw(certificate_seconds=3600), "certificate_chain"),
        (2, Flaw(has_inclusion_proof=False), "bundle_malformed"),
        (2, Flaw(has_sct=False), "not_verified"),
        (2, Flaw(has_other_ct_key=True), "not_verified"),
        (2, Flaw(has_other_authority=True), "certificate_chain"),
        (2, Flaw(has_other_timestamp_authority=True), "no_trusted_time"),
        (1, Flaw(has_other_log_key=True), "not_verified"),
        (2, Flaw(has_other_log_key=True), "not_verified"),
        (2, Flaw(has_other_signing_key=True), "signature"),
        (2, Flaw(issuer_v2="https://evil.example"), "certificate_issuer"),
        (1, Flaw(log_index=7), "not_verified"),
        (2, Flaw(log_index=1, proof_index=1), "not_verified"),
        (1, Flaw(logged_data=b"other data"), "entry"),
        (2, Flaw(logged_data=b"other data"), "entry"),
        (2, Flaw(checkpoint_size="x"), "checkpoint_malformed"),
        (2, Flaw(checkpoint_size="03"), "checkpoint_malformed"),
        (2, Flaw(checkpoint_size="+3"), "checkpoint_malformed"),
        (2, Flaw(checkpoint_size=" 3"), "checkpoint_malformed"),
        (2, Flaw(proof_size=2, checkpoint_size="2"), "bundle_malformed"),
    ],
    ids=repr,
)
def test_each_flaw_is_refused_with_a_stable_reason(rekor: Rekor, flaw: Flaw, reason: str) -> None:
    bundle, root = signed(rekor, flaw=flaw)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("rekor", "flaw", "reason"),
    [
        (1, Flaw(checkpoint_size="4"), "checkpoint_size"),
        (2, Flaw(checkpoint_size="4"), "checkpoint_size"),
        (2, Flaw(checkpoint_size="-3"), "checkpoint_malformed"),
        (1, Flaw(checkpoint_origin="other.example - 123"), "checkpoint_origin"),
        (1, Flaw(checkpoint_origin="rekor.private.test.evil.example"), "checkpoint_origin"),
        (1, Flaw(checkpoint_origin="rekor.private.test - 12x"), "checkpoint_origin"),
        (2, Flaw(checkpoint_origin="rekor.private.test"), "checkpoint_origin"),
        (2, Flaw(log_index=0), "log_index"),
        (2, Flaw(log_index=2**40), "log_index"),
        (2, Flaw(log_id=bytes(32)), "log_unknown"),
        (2, Flaw(extra_names=("https://elsewhere.example/x",)), "certificate_names"),
    ],
    ids=repr,
)
def test_a_hole_of_the_library_is_closed(rekor: Rekor, flaw: Flaw, reason: str) -> None:
    """Each bundle here passes sigstore 4.5.1 (or passes but for the checkpoint's key hint) and must not pass here."""
    bundle, root = signed(rekor, flaw=flaw)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)
    assert caught.value.reason == reason
    assert flaw.log_id or library_accepts(bundle, root)


@pytest.mark.parametrize(
    ("windows", "reason"),
    [
        ({"tlog": (-2 * DAY, -DAY)}, "log_not_valid"),
        ({"tlog": (60, None)}, "log_not_valid"),
        ({"tlog": (-DAY, -1)}, "log_not_valid"),
        ({"ct": (-2 * DAY, -DAY)}, "ct_log_not_valid"),
        ({"ct": (60, None)}, "ct_log_not_valid"),
        ({"ca": (-2 * DAY, -DAY)}, "authority_not_valid"),
        ({"ca": (60, None)}, "authority_not_valid"),
    ],
)
@pytest.mark.parametrize("rekor", [1, 2])
def test_a_key_that_was_not_valid_at_signing_time_is_refused_though_the_library_takes_it(
    rekor: Rekor, windows: dict[Instance, Window], reason: str
) -> None:
    """Step 3: the trusted root is narrowed to what was valid at the time of signing."""
    bundle, root = signed(rekor, windows=windows)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)
    assert caught.value.reason == reason
    assert library_accepts(bundle, root)


def test_a_key_without_a_window_is_never_valid() -> None:
    bundle, root = signed(2)
    document = json.loads(root.data)
    for log in document["ctlogs"]:
        del log["publicKey"]["validFor"]
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=pinned(json.dumps(document).encode()), identity=CURATOR)
    assert caught.value.reason == "ct_log_not_valid"


@pytest.mark.parametrize("rekor", [1, 2])
def test_both_ends_of_a_window_are_included(rekor: Rekor) -> None:
    windows: dict[Instance, Window] = {"tlog": (0, 0), "ct": (0, 0), "ca": (0, 0)}
    bundle, root = signed(rekor, windows=windows)
    assert verify_bundle(b"data", bundle, root=root, identity=CURATOR).signed_at == "2026-03-04T05:06:07Z"


def test_the_earliest_of_several_trusted_times_is_told() -> None:
    bundle, root = signed(1, flaw=Flaw(has_timestamp_beside_set=True, timestamp_seconds=120, integrated_seconds=60))
    assert verify_bundle(b"data", bundle, root=root, identity=CURATOR).signed_at == "2026-03-04T05:07:07Z"


def test_a_key_must_be_valid_at_each_trusted_time() -> None:
    """Step 3, "at each of these times"."""
    flaw = Flaw(has_timestamp_beside_set=True, timestamp_seconds=120)
    for window in ((-DAY, 60), (60, None)):
        bundle, root = signed(1, flaw=flaw, windows={"tlog": window})
        with pytest.raises(SignatureError) as caught:
            verify_bundle(b"data", bundle, root=root, identity=CURATOR)
        assert caught.value.reason == "log_not_valid"


def test_an_old_entry_with_a_timestamp_but_no_log_time_tells_the_index_that_is_proved() -> None:
    bundle, root = signed(1, flaw=Flaw(has_set=False, has_timestamp_beside_set=True))
    assert verify_bundle(b"data", bundle, root=root, identity=CURATOR).log_index == 2


def test_a_timestamp_authority_whose_window_is_over_gives_no_time() -> None:
    bundle, root = signed(2, windows={"tsa": (-2 * DAY, -DAY)})
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)
    assert caught.value.reason == "no_trusted_time"


def test_a_log_whose_time_is_over_cannot_speak_for_the_log_that_the_entry_names() -> None:
    """The library tries all keys when it does not know a log's id; here only the named log's key is left."""
    kit, other = PrivateSigstore(now=NOW), PrivateSigstore(now=NOW, domain="old.test")
    bundle = json.loads(kit.sign_artifact(b"data", identity=EMAIL, issuer=ISSUER))
    root, old = json.loads(kit.trusted_root()), json.loads(other.trusted_root())
    named = old["tlogs"][1]["logId"]["keyId"]
    root["tlogs"].append(old["tlogs"][1])
    bundle["verificationMaterial"]["tlogEntries"][0]["logId"]["keyId"] = named
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", json.dumps(bundle).encode(), root=pinned(json.dumps(root).encode()), identity=CURATOR)
    assert caught.value.reason == "checkpoint_origin"


def test_a_bundle_of_another_instance_is_refused() -> None:
    bundle, _ = signed(2)
    _, root = signed(2)
    with pytest.raises(SignatureError):
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bundle_malformed"),
        (b"{}", "content"),
        (b"[]", "bundle_malformed"),
        (b"\xff", "bundle_malformed"),
        (b"{" * 5000, "bundle_malformed"),
        (b'{"mediaType":"a","mediaType":"b"}', "bundle_malformed"),
        (b'{"messageSignature":{}}', "bundle_malformed"),
        (b'{"messageSignature":{},"verificationMaterial":[]}', "bundle_malformed"),
        (b'{"verificationMaterial":{"publicKey":{"hint":"x"}}}', "content"),
        (b" " * (MAX_BUNDLE_BYTES + 1), "bundle_malformed"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_bundle_is_refused(data: bytes, reason: str) -> None:
    _, root = signed(2)
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", data, root=root, identity=CURATOR)
    assert caught.value.reason == reason


def test_a_trusted_root_that_cannot_be_read_is_an_integrity_error() -> None:
    bundle, _ = signed(2)
    with pytest.raises(IntegrityError, match="cannot be read") as caught:
        verify_bundle(b"data", bundle, root=pinned(b"{}"), identity=CURATOR)
    assert caught.value.reason == "trusted_root"


@pytest.mark.parametrize("rekor", [1, 2])
def test_an_envelope_verifies_and_gives_its_payload(rekor: Rekor) -> None:
    kit = PrivateSigstore(now=NOW)
    bundle = kit.sign_dsse(b'{"a":1}', identity=EMAIL, issuer=ISSUER, rekor=rekor)
    envelope = verify_envelope(bundle, root=pinned(kit.trusted_root()), identity=CURATOR)
    assert (envelope.payload_type, envelope.payload) == ("application/vnd.in-toto+json", b'{"a":1}')
    assert envelope.signature.identity == EMAIL


def test_an_envelope_of_another_signer_or_with_a_flaw_is_refused() -> None:
    kit = PrivateSigstore(now=NOW)
    bundle = kit.sign_dsse(b"{}", identity=EMAIL, issuer=ISSUER)
    with pytest.raises(UntrustedSourceError):
        verify_envelope(bundle, root=pinned(kit.trusted_root()), identity=SignerRule(ISSUER, "x@y.example"))
    flawed = kit.sign_dsse(b"{}", identity=EMAIL, issuer=ISSUER, flaw=Flaw(logged_data=b"other"))
    with pytest.raises(SignatureError):
        verify_envelope(flawed, root=pinned(kit.trusted_root()), identity=CURATOR)


def test_a_signature_over_a_file_and_one_over_an_envelope_do_not_stand_in_for_each_other() -> None:
    """An attestation about a manifest, such as "this is bad", is no signature over it."""
    kit = PrivateSigstore(now=NOW)
    root = pinned(kit.trusted_root())
    envelope = kit.sign_dsse(b"data", identity=EMAIL, issuer=ISSUER)
    artifact = kit.sign_artifact(b"data", identity=EMAIL, issuer=ISSUER)
    with pytest.raises(SignatureError, match="holds a DSSE envelope"):
        verify_bundle(b"data", envelope, root=root, identity=CURATOR)
    with pytest.raises(SignatureError, match="expected a DSSE envelope"):
        verify_envelope(artifact, root=root, identity=CURATOR)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, item in enumerate(value) for leaf in leaves(item, (*path, key))]
    return [path]


GOOD = {rekor: signed(rekor) for rekor in (1, 2)}
SAID = {rekor: verify_bundle(b"data", bundle, root=root, identity=CURATOR) for rekor, (bundle, root) in GOOD.items()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([1, 2]), st.data())
def test_a_changed_field_is_refused_or_changes_nothing_that_is_said(rekor: Rekor, data: st.DataObject) -> None:
    """Every exception is a refusal of ours, and what an accepted bundle says is never the mutator's."""
    bundle, root = GOOD[rekor]
    document = json.loads(bundle)
    path = data.draw(st.sampled_from(leaves(document)))
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    old = holder[path[-1]]
    position = data.draw(st.integers(0, len(old) - 1))
    holder[path[-1]] = data.draw(
        st.sampled_from(["", "A", None, 0, -1, [], {}, old + old, old[:position] + "A" + old[position + 1 :]])
    )
    try:
        found = verify_bundle(b"data", json.dumps(document).encode(), root=root, identity=CURATOR)
    except (SignatureError, UntrustedSourceError) as error:
        is_explained = bool(error.details.get("reason"))
        found = SAID[rekor]
    else:
        is_explained = True
    assert is_explained
    assert replace(found, bundle_sha256="") == replace(SAID[rekor], bundle_sha256="")


@pytest.mark.parametrize("rekor", [1, 2])
def test_a_stray_exception_of_the_library_is_a_refusal(rekor: Rekor) -> None:
    """A malformed certificate makes the library raise ValueError, not its own error."""
    bundle, root = signed(rekor)
    document = json.loads(bundle)
    document["verificationMaterial"]["certificate"]["rawBytes"] = "MAA="
    with pytest.raises(SignatureError) as caught:
        verify_bundle(b"data", json.dumps(document).encode(), root=root, identity=CURATOR)
    assert caught.value.reason == "library_error"


class PanicException(BaseException):
    """What a panic in a library's Rust code becomes."""


@pytest.mark.parametrize(
    ("raised", "expected"), [(PanicException, SignatureError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_a_panic_of_the_library_is_a_refusal_and_an_interrupt_is_none(
    monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], expected: type[BaseException]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise raised("from below")

    bundle, root = signed(2)
    monkeypatch.setattr("millcert.provenance.bundle.trusted_times", stop)
    with pytest.raises(expected):
        verify_bundle(b"data", bundle, root=root, identity=CURATOR)


def test_an_entry_of_a_kind_that_is_not_read_is_refused() -> None:
    bundle, root = signed(2)
    document = json.loads(bundle)
    document["verificationMaterial"]["tlogEntries"][0]["kindVersion"]["kind"] = "intoto"
    with pytest.raises(SignatureError, match=r"intoto/0\.0\.2") as caught:
        verify_bundle(b"data", json.dumps(document).encode(), root=root, identity=CURATOR)
    assert caught.value.reason == "entry_kind"


def test_verification_needs_no_network_no_home_and_no_cache(tmp_path: Path) -> None:
    """In a fresh process: HOME is a file nobody can write below, sockets cannot be had, and nothing is written."""
    bundle, root = signed(2)
    for name, content in (("bundle", bundle), ("root", root.data), ("home", b"")):
        (tmp_path / name).write_bytes(content)
    script = f"""
import socket, sys
class NoSocket(socket.socket):
    def __init__(self, *a, **k): raise OSError("socket")
socket.socket = NoSocket
from pathlib import Path
from millcert.provenance.bundle import load_trust_root, verify_bundle
from millcert.provenance.trust import SignerRule
assert "sigstore" not in sys.modules
root = load_trust_root(Path("root").read_bytes(), {root.sha256!r})
curator = SignerRule({ISSUER!r}, {EMAIL!r})
print(verify_bundle(b"data", Path("bundle").read_bytes(), root=root, identity=curator).identity)
"""
    home = str(tmp_path / "home")
    environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "XDG_DATA_HOME": home}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (EMAIL, 0), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "home", "root"]
