"""The test kit: the real Sigstore verifier accepts what it signs, offline, and refuses each flaw that it knows."""

import json
import socket
from datetime import UTC, datetime
from typing import NoReturn

import pytest
from sigstore.errors import Error  # noqa: TID253 - the rival and the judge here
from sigstore.models import Bundle, TrustedRoot  # noqa: TID253 - the rival and the judge here
from sigstore.verify import Verifier  # noqa: TID253 - the rival and the judge here
from sigstore.verify.policy import AllOf, Identity, OIDCIssuerV2  # noqa: TID253 - the rival and the judge here
from sigstore_models.trustroot import v1 as trust_root_v1

from millcert.testing import der
from millcert.testing.sigstore import Flaw, PrivateSigstore, Rekor

ISSUER = "https://accounts.private.test"
EMAIL = "curator@data.example"
WORKFLOW = "https://github.com/data-owner/birds/.github/workflows/publish.yml@refs/tags/v1"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("a test tried to open a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def verifier(kit: PrivateSigstore) -> Verifier:
    return Verifier(trusted_root=TrustedRoot(trust_root_v1.TrustedRoot.from_json(kit.trusted_root())))


def signer(identity: str) -> AllOf:
    return AllOf([Identity(identity=identity, issuer=ISSUER), OIDCIssuerV2(ISSUER)])


@pytest.mark.parametrize("rekor", [1, 2])
@pytest.mark.parametrize("identity", [EMAIL, WORKFLOW])
def test_the_real_verifier_accepts_a_good_artifact_bundle_offline(identity: str, rekor: Rekor) -> None:
    kit = PrivateSigstore()
    kit.sign_artifact(b"an entry before", identity=identity, issuer=ISSUER, rekor=rekor)
    kit.sign_artifact(b"another entry before", identity=identity, issuer=ISSUER, rekor=rekor)
    bundle = kit.sign_artifact(b"data", identity=identity, issuer=ISSUER, rekor=rekor)

    verifier(kit).verify_artifact(b"data", Bundle.from_json(bundle), signer(identity))


@pytest.mark.parametrize("rekor", [1, 2])
def test_the_real_verifier_accepts_a_good_envelope_offline(rekor: Rekor) -> None:
    kit = PrivateSigstore()
    bundle = kit.sign_dsse(b'{"a":1}', identity=EMAIL, issuer=ISSUER, rekor=rekor)

    found = verifier(kit).verify_dsse(Bundle.from_json(bundle), signer(EMAIL))

    assert found == ("application/vnd.in-toto+json", b'{"a":1}')


def test_the_kit_can_stand_at_any_time() -> None:
    kit = PrivateSigstore(now=datetime(2021, 5, 1, tzinfo=UTC))
    bundle = kit.sign_artifact(b"data", identity=EMAIL, issuer=ISSUER)
    verifier(kit).verify_artifact(b"data", Bundle.from_json(bundle), signer(EMAIL))


@pytest.mark.parametrize(
    ("rekor", "flaw"),
    [
        (1, Flaw(has_set=False)),
        (2, Flaw(has_timestamp=False)),
        (1, Flaw(integrated_seconds=3600)),
        (2, Flaw(timestamp_seconds=-3600)),
        (2, Flaw(certificate_seconds=3600)),
        (2, Flaw(has_inclusion_proof=False)),
        (2, Flaw(has_sct=False)),
        (2, Flaw(has_other_ct_key=True)),
        (2, Flaw(has_other_authority=True)),
        (2, Flaw(has_other_timestamp_authority=True)),
        (1, Flaw(has_other_log_key=True)),
        (2, Flaw(has_other_log_key=True)),
        (2, Flaw(has_other_signing_key=True)),
        (2, Flaw(issuer_v2="https://evil.example")),
        (1, Flaw(log_index=7)),
        (2, Flaw(proof_index=1)),
        (2, Flaw(proof_size=2)),
        (1, Flaw(logged_data=b"other data")),
        (2, Flaw(logged_data=b"other data")),
    ],
    ids=repr,
)
def test_the_real_verifier_refuses_a_flaw_that_it_checks(rekor: Rekor, flaw: Flaw) -> None:
    kit = PrivateSigstore()
    kit.sign_artifact(b"before", identity=EMAIL, issuer=ISSUER, rekor=rekor)
    kit.sign_artifact(b"before", identity=EMAIL, issuer=ISSUER, rekor=rekor)
    bundle = kit.sign_artifact(b"data", identity=EMAIL, issuer=ISSUER, rekor=rekor, flaw=flaw)

    with pytest.raises(Error):
        verifier(kit).verify_artifact(b"data", Bundle.from_json(bundle), signer(EMAIL))


def test_another_instance_does_not_trust_the_bundle() -> None:
    bundle = PrivateSigstore().sign_artifact(b"data", identity=EMAIL, issuer=ISSUER)
    with pytest.raises(Error):
        verifier(PrivateSigstore()).verify_artifact(b"data", Bundle.from_json(bundle), signer(EMAIL))


def test_windows_of_validity_stand_in_the_trusted_root() -> None:
    kit = PrivateSigstore(now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    document = json.loads(kit.trusted_root(windows={"ct": (-10, 20)}))
    window = document["ctlogs"][0]["publicKey"]["validFor"]
    assert window == {"start": "2026-01-02T03:03:55Z", "end": "2026-01-02T03:04:25Z"}
    assert document["tlogs"][0]["publicKey"]["validFor"] == {"start": "2026-01-01T03:04:05Z"}


@pytest.mark.parametrize(
    ("encoded", "hexadecimal"),
    [
        (der.integer(0), "020100"),
        (der.integer(127), "02017f"),
        (der.integer(128), "02020080"),
        (der.integer(256), "02020100"),
        (der.oid("1.2.840.113549"), "06062a864886f70d"),
        (der.octets(b"x" * 200)[:3], "0481c8"),
        (der.octets(b"x" * 300)[:4], "0482012c"),
        (der.sequence(der.integer(1), der.NULL), "30050201010500"),
        (der.set_of(der.integer(2), der.integer(1)), "3106020101020102"),
        (der.utf8("é"), "0c02c3a9"),
        (der.generalized_time(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)), "180f" + b"20260102030405Z".hex()),
    ],
)
def test_der_is_as_x690_says(encoded: bytes, hexadecimal: str) -> None:
    """ITU-T X.690, sections 8.1.3, 8.3, 8.19 and 11."""
    assert encoded.hex() == hexadecimal
