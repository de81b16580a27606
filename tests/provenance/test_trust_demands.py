"""What a rule asks for besides a signature: each demand refuses where it is not met, and contradictions are refused."""

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import DigestMismatchError, ManifestError, PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.spdx_license import is_license_covered, license_fault
from millcert.provenance.statement import VSA_PREDICATE_TYPE
from millcert.provenance.trust import (
    AttestationRule,
    AuthorityRule,
    KeyRule,
    SignerRule,
    SourceRule,
    TrustRoot,
    VerifiedSource,
    load_trust_root,
    provenance_paths,
    refuse_expired,
    verify_source,
)
from millcert.provenance.trust_history import last_signers, signer_changes
from millcert.testing.sigstore import PrivateSigstore
from millcert.testing.sigstore_entries import public_der

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CURATOR = SignerRule("https://accounts.private.test", "curator@data.example")
KEY = ec.generate_private_key(ec.SECP256R1())
A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
FOUND = Manifest("found", (FileEntry("cat/1.png", 1, A), FileEntry("dog/1.png", 1, B)))
KIT = PrivateSigstore(now=NOW)
ROOT = load_trust_root(KIT.trusted_root(), hashlib.sha256(KIT.trusted_root()).hexdigest())
LIST = FOUND.to_json()
SUMS = f"{A}  cat/1.png\n{B}  dog/1.png\n".encode()


def rule(**parts: Any) -> SourceRule:
    return SourceRule(**{"name": "pets", "path_pattern": "pets/**", "signed_by": (CURATOR,), **parts})


def bundle_over(data: bytes) -> bytes:
    return KIT.sign_artifact(data, identity=str(CURATOR.identity), issuer=CURATOR.issuer)


def verified(
    wanted: SourceRule, data: bytes = LIST, *, root: TrustRoot | None = ROOT, **options: Any
) -> VerifiedSource:
    return verify_source(FOUND, data, bundle_over(data), wanted, root, **options)


# Other lists of files


def croissant(license_text: object = "https://creativecommons.org/licenses/by/4.0/", sha256: str = A) -> bytes:
    files = [("cat/1.png", sha256), ("dog/1.png", B)]
    return json.dumps(
        {
            "name": "pets",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "license": license_text,
            "distribution": [{"@type": "cr:FileObject", "contentUrl": url, "sha256": sha} for url, sha in files],
        }
    ).encode()


@pytest.mark.parametrize(
    ("form", "data", "place"),
    [
        ("manifest", LIST, "pets/millcert-manifest.json"),
        ("checksums", SUMS, "pets/SHA256SUMS"),
        ("croissant", croissant(), "pets/croissant.json"),
    ],
)
def test_a_source_is_verified_by_the_list_that_its_form_names(form: Any, data: bytes, place: str) -> None:
    wanted = rule(form=form)
    found = verified(wanted, data)
    assert (found.status, wanted.manifest_path, wanted.bundle_path) == ("verified", place, f"{place}.sigstore.json")
    assert found.manifest is not None
    assert found.manifest.files == FOUND.files
    assert found.manifest_root == found.manifest.root
    other = Manifest("found", (FileEntry("cat/1.png", 1, B), FOUND.files[1]))
    with pytest.raises(DigestMismatchError):
        verify_source(other, data, bundle_over(data), wanted, ROOT)
    with pytest.raises(SignatureError):
        verify_source(FOUND, data + b" ", bundle_over(data), wanted, ROOT)


def test_a_bag_is_verified_from_its_top() -> None:
    data = f"{A}  data/1.png\n".encode()
    wanted = SourceRule("bag", "bag/data/**", (CURATOR,), form="bagit", manifest="bag/manifest-sha256.txt")
    found = Manifest("found", (FileEntry("data/1.png", 1, A),))
    assert wanted.directory == "bag"
    assert verify_source(found, data, bundle_over(data), wanted, ROOT).status == "verified"


def test_a_list_without_real_digests_is_unsigned() -> None:
    with pytest.raises(UntrustedSourceError) as caught:
        verified(rule(form="croissant"), croissant(sha256="https://github.com/mlcommons/croissant/issues/80"))
    assert caught.value.reason == "no_hash"


def test_an_unsigned_list_of_another_form_is_still_compared() -> None:
    wanted = SourceRule("pets", "pets/**", unsigned_accepted=True, form="checksums")
    assert verify_source(FOUND, SUMS, None, wanted, None).status == "unknown"
    with pytest.raises(ManifestError, match="1 missing"):
        verify_source(Manifest("found", FOUND.files[:1]), SUMS, None, wanted, None)


# Age, expiry, licence


def test_a_snapshot_must_be_as_old_as_the_rule_asks() -> None:
    assert verified(rule(signed_before=NOW)).status == "verified"
    with pytest.raises(UntrustedSourceError, match="too fresh") as caught:
        verified(rule(signed_before=NOW - timedelta(seconds=1)))
    assert caught.value.reason == "too_fresh"


def test_a_signature_without_a_time_has_no_age() -> None:
    key = KeyRule(parse_public_key(public_der(KEY)), is_unlogged_accepted=True)
    bundle = json.loads(KIT.sign_artifact_by_key(LIST, KEY))
    del bundle["verificationMaterial"]["tlogEntries"]
    data = json.dumps(bundle).encode()
    assert verify_source(FOUND, LIST, data, rule(signed_by=(key,)), None).signature is not None
    with pytest.raises(UntrustedSourceError) as caught:
        verify_source(FOUND, LIST, data, rule(signed_by=(key,), signed_before=NOW), None)
    assert caught.value.reason == "age_unknown"


@pytest.mark.parametrize("offset", [timedelta(0), timedelta(hours=13), timedelta(hours=-11)])
def test_a_rule_counts_to_the_end_of_its_last_day(offset: timedelta) -> None:
    from datetime import timezone

    rules = [rule(), rule(name="old", expires=date(2026, 3, 4))]
    midnight = datetime(2026, 3, 5, tzinfo=UTC).astimezone(timezone(offset))
    refuse_expired(rules, midnight - timedelta(seconds=1))
    with pytest.raises(UntrustedSourceError, match=r"old \(2026-03-04\)") as caught:
        refuse_expired(rules, midnight)
    assert (caught.value.reason, caught.value.sources) == ("expired", ("old",))


def test_the_stated_licence_must_be_an_allowed_one() -> None:
    wanted = rule(form="croissant", licenses=("CC-BY-4.0", "CC0-1.0"))
    assert verified(wanted, croissant()).status == "verified"
    for stated in ("CC-BY-NC-4.0", "", None, ["CC0-1.0", "proprietary"], "ask us"):
        with pytest.raises(UntrustedSourceError) as caught:
            verified(wanted, croissant(stated))
        assert caught.value.reason == "license"


@pytest.mark.parametrize(
    ("expression", "is_covered"),
    [
        ("MIT", True),
        ("mit", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND (GPL-3.0-only OR Apache-2.0)", True),
        ("GPL-3.0-only OR MIT AND GPL-3.0-only", False),
        ("Apache-2.0+", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("GPL-2.0-only WITH Other-exception", False),
        ("https://spdx.org/licenses/MIT.html", True),
        ("http://spdx.org/licenses/GPL-3.0-only", False),
        ("https://creativecommons.org/licenses/by-sa/4.0/deed.en", True),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", False),
        ("https://creativecommons.org/publicdomain/zero/1.0/", True),
        ("", False),
        ("MIT MIT", False),
        ("MIT OR", False),
        ("OR MIT", False),
        ("MIT OR unbalanced)", False),
        ("(MIT", False),
        ("MIT WITH", False),
        ("MIT or Apache-2.0", False),
        ("MIT, please", False),
        (" AND ".join(["MIT"] * 40), False),
    ],
)
def test_an_allow_list_covers_exactly_what_spdx_expressions_mean(expression: str, is_covered: bool) -> None:
    allowed = ("MIT", "Apache-2.0", "CC0-1.0", "CC-BY-SA-4.0", "GPL-2.0-only WITH Classpath-exception-2.0")
    assert is_license_covered(expression, allowed) is is_covered


@given(st.text(alphabet="()MITAND ORWH+x", max_size=60))
def test_no_text_makes_the_licence_reader_fail_and_nothing_is_covered_by_an_empty_list(text: str) -> None:
    assert not is_license_covered(text, ())


@pytest.mark.parametrize("one", ["", "MIT OR X", "a b", "https://spdx.org/licenses/MIT", "A WITH", "A WITH B WITH C"])
def test_an_allow_list_holds_identifiers_only(one: str) -> None:
    assert license_fault(one) is not None
    assert license_fault("GPL-2.0-only WITH Classpath-exception-2.0") is None


# Attestations

VSA = {
    "verifier": {"id": "https://verifier.example"},
    "timeVerified": "2026-03-04T00:00:00Z",
    "resourceUri": "urn:pets",
    "policy": {"uri": "urn:policy"},
    "verificationResult": "PASSED",
    "verifiedLevels": ["L1"],
}
WANTED = AttestationRule(VSA_PREDICATE_TYPE, "pets/vsa.sigstore.json", (CURATOR,), levels=("L1",))


def vsa_about(digest: str, **changes: Any) -> bytes:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "pets", "digest": {"sha256": digest}}],
        "predicateType": VSA_PREDICATE_TYPE,
        "predicate": {**VSA, **changes},
    }
    return KIT.sign_dsse(json.dumps(statement).encode(), identity=str(CURATOR.identity), issuer=CURATOR.issuer)


@pytest.mark.parametrize("digest", [hashlib.sha256(LIST).hexdigest(), FOUND.root], ids=["of the list", "root"])
def test_an_attestation_about_the_list_or_its_root_is_what_a_rule_can_ask_for(digest: str) -> None:
    wanted = rule(attestations=(WANTED,))
    assert WANTED.bundle in provenance_paths([wanted])
    assert verified(wanted, attestations={WANTED.bundle: vsa_about(digest)}).status == "verified"


@pytest.mark.parametrize(
    ("given_bundles", "reason"),
    [
        ({}, "attestation_missing"),
        ({"elsewhere": vsa_about(FOUND.root)}, "attestation_missing"),
        ({WANTED.bundle: vsa_about("0" * 64)}, "subject"),
        ({WANTED.bundle: vsa_about(FOUND.root, verificationResult="FAILED")}, "attestation"),
        ({WANTED.bundle: vsa_about(FOUND.root, verifiedLevels=[])}, "attestation"),
        ({WANTED.bundle: b"{}"}, "content"),
    ],
)
def test_a_missing_or_other_attestation_refuses_the_source(given_bundles: dict[str, bytes], reason: str) -> None:
    with pytest.raises((UntrustedSourceError, SignatureError)) as caught:
        verified(rule(attestations=(WANTED,)), attestations=given_bundles)
    assert caught.value.reason == reason


# Contradictions and tiers


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"form": "model_signing", "manifest": "m.json"}, "list and bundle in one"),
        ({"licenses": ("MIT",)}, "only a Croissant file"),
        ({"licenses": (), "form": "croissant"}, "no licence is allowed"),
        ({"licenses": ("a b",), "form": "croissant"}, "SPDX identifier"),
        ({"signed_by": None, "unsigned_accepted": True, "attestations": (WANTED,)}, "signed sources only"),
        ({"signed_by": None, "unsigned_accepted": True, "signed_before": NOW}, "signed sources only"),
        ({"tier": "high", "unsigned_accepted": True}, "never unsigned"),
        (
            {"tier": "high", "signed_by": (SignerRule("https://i.example", identity_pattern="*@d.example"),)},
            "no pattern",
        ),
        ({"tier": "high", "signed_by": (AuthorityRule((b"x",), "CN=x"),)}, "no unlogged"),
        ({"tier": "high", "signed_by": (KeyRule(parse_public_key(public_der(KEY)), True),)}, "no unlogged"),
    ],
)
def test_a_rule_that_contradicts_itself_is_a_policy_error(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        rule(**parts)


def test_a_high_tier_takes_exact_identities_and_logged_keys() -> None:
    key = KeyRule(parse_public_key(public_der(KEY)))
    assert rule(tier="high", signed_by=(CURATOR, key)).needs_trust_root


def test_only_logged_signatures_need_a_trusted_root() -> None:
    unlogged = KeyRule(parse_public_key(public_der(KEY)), is_unlogged_accepted=True)
    assert not rule(signed_by=(unlogged, AuthorityRule((b"x",), "CN=x"))).needs_trust_root
    assert rule(signed_by=(unlogged,), attestations=(WANTED,)).needs_trust_root
    with pytest.raises(SignatureError) as caught:
        verified(rule(), root=None)
    assert caught.value.reason == "no_trusted_root"


# A change of signer


def source_entry(identity: str, *, source: str = "pets", dataset: str = "animals", issuer: str = "https://i") -> Entry:
    body = {"dataset": dataset, "source": source, "status": "verified", "identity": identity, "issuer": issuer}
    return Entry("manifest", "0" * 64, "2026-03-04T00:00:00Z", body)


def verdict_entry(decision: str, dataset: str = "animals") -> Entry:
    return Entry("verdict", "0" * 64, "2026-03-04T00:00:00Z", {"dataset": dataset, "decision": decision})


def now_signed_by(identity: str) -> dict[str, VerifiedSource]:
    signature = verified(rule()).signature
    assert signature is not None
    from dataclasses import replace

    return {"pets": VerifiedSource("pets", "verified", replace(signature, identity=identity, issuer="https://i"), "0")}


def test_a_source_with_another_signer_than_its_last_admitted_version_is_told() -> None:
    entries = [
        source_entry("a@x.example"),
        verdict_entry("admitted"),
        source_entry("b@x.example"),
        verdict_entry("rejected"),
        source_entry("c@x.example", dataset="other"),
        verdict_entry("admitted", dataset="other"),
        Entry("check_summary", "0" * 64, "2026-03-04T00:00:00Z", {"dataset": "animals", "name": "label_noise"}),
        source_entry("d@x.example"),  # a run that was interrupted
    ]
    before = last_signers(entries, "animals")
    assert signer_changes(before, now_signed_by("a@x.example")) == ()
    (change,) = signer_changes(before, now_signed_by("b@x.example"))
    assert (change.source, change.before.identity, change.identity) == ("pets", "a@x.example", "b@x.example")
    assert change.message == (
        "Source 'pets' was vouched for by a@x.example by https://i in its last admitted version, "
        "now by b@x.example by https://i."
    )


def test_a_new_source_has_no_signer_before_and_a_signature_that_is_gone_is_a_change() -> None:
    assert signer_changes({}, now_signed_by("a@x.example")) == ()
    before = last_signers([source_entry("a@x.example"), verdict_entry("admitted")], "animals")
    (change,) = signer_changes(before, {"pets": VerifiedSource("pets", "unknown", None, "0")})
    assert change.message.endswith("now by nobody.")
