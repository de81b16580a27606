"""The client conformance suite of Sigstore, offline, by the file and by its digest."""

import hashlib
import json
import socket
from importlib.resources import files
from pathlib import Path

import pytest

from millcert.errors import IntegrityError
from millcert.provenance.attestation import verify_attestation
from millcert.provenance.bundle import load_trust_root, verify_bundle, verify_digest
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.trust import KeyRule, SignerRule, TrustRoot

CONFORMANCE = Path(__file__).parents[3] / "shared" / "data" / "sigstore-conformance"
BEACON = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows"


class NoSocket(socket.socket):
    """A socket that cannot be had."""

    def __init__(self, *_: object, **__: object) -> None:
        raise OSError("a verification tried to open a socket")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoSocket)


def cases() -> list[str]:
    return sorted(path.name for path in CONFORMANCE.iterdir() if path.is_dir()) if CONFORMANCE.is_dir() else []


def signer_of(case: Path) -> SignerRule | KeyRule:
    """A case with a key is verified with it and with nothing else; README of the suite."""
    if (case / "key.pub").exists():
        return KeyRule(parse_public_key((case / "key.pub").read_bytes()))

    def text(file: str, default: str) -> str:
        return (case / file).read_text().strip() if (case / file).exists() else default

    return SignerRule(
        text("issuer", "https://token.actions.githubusercontent.com"),
        text("identity", f"{BEACON}/extremely-dangerous-oidc-beacon.yml@refs/heads/main"),
    )


def root_of(case: Path) -> TrustRoot:
    own = case / "trusted_root.json"
    production = files("sigstore._store") / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev" / "trusted_root.json"
    data = own.read_bytes() if own.exists() else production.read_bytes()
    return load_trust_root(data, hashlib.sha256(data).hexdigest())


@pytest.mark.data
@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="shared/data/sigstore-conformance is not there")
@pytest.mark.parametrize("by", ["file", "digest"])
@pytest.mark.parametrize("name", cases())
def test_the_conformance_suite_of_sigstore_is_met(name: str, by: str) -> None:
    """sigstore-conformance, bundle-verify: a good case verifies, a `_fail` case is refused with an error of ours."""
    case = CONFORMANCE / name
    artifact = (case / "artifact" if (case / "artifact").exists() else CONFORMANCE / "a.txt").read_bytes()
    digest = hashlib.sha256(artifact).hexdigest()
    bundle, signer, root = (case / "bundle.sigstore.json").read_bytes(), signer_of(case), root_of(case)

    def verify() -> None:
        if "dsseEnvelope" in json.loads(bundle):
            verify_attestation(bundle, digest, root=root, identity=signer)
        elif by == "file":
            verify_bundle(artifact, bundle, root=root, identity=signer)
        else:
            verify_digest(digest, bundle, root=root, identity=signer)

    if name.endswith("_fail"):
        with pytest.raises(IntegrityError) as caught:
            verify()
        assert caught.value.reason
    else:
        verify()
