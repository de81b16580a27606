"""Keys in devices and services, through securesystemslib's signers: the path is real, the device a file or a fake."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signature, Signer

from millcert.cli.source import source
from millcert.errors import StoreError, UsageError
from millcert.provenance.public_key import PublicKey, parse_public_key
from millcert.provenance.signing_key import LocalKey, checked_signature, make_signing_key
from millcert.provenance.signing_uri import UriKey


class FakeDevice(Signer):
    """A device that holds one key, asks for a PIN, and can fail in ways that real ones do."""

    key: Any = None
    error: Exception | None = None

    def __init__(self, public: Key) -> None:
        self._public = public

    @property
    def public_key(self) -> Key:
        return self._public

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None) -> "FakeDevice":
        if priv_key_uri.endswith("pin") and secrets_handler("PIN") != "1234":
            raise ValueError("wrong PIN")
        return cls(public_key)

    def sign(self, payload: bytes) -> Signature:
        if FakeDevice.error is not None:
            raise FakeDevice.error
        return CryptoSigner(FakeDevice.key).sign(payload)


@pytest.fixture
def device() -> Iterator[type[FakeDevice]]:
    SIGNER_FOR_URI_SCHEME["fakekms"] = FakeDevice
    yield FakeDevice
    del SIGNER_FOR_URI_SCHEME["fakekms"]
    FakeDevice.key = FakeDevice.error = None


def made(folder: Path, kind: Any = "p256") -> tuple[Path, PublicKey]:
    key = make_signing_key(folder / f"{kind}.pem", kind)
    return key.private_path, parse_public_key(key.public_spki)


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(source, [str(argument) for argument in arguments], env=env)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "rsa-3072"])
def test_a_key_named_by_a_uri_signs_what_the_gate_verifies(tmp_path: Path, kind: str) -> None:
    path, public = made(tmp_path, kind)
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("a\n1\n")
    signed = run("sign", data, "--name", "x", "--key-uri", f"file2:{path}", "--public-key", path.with_suffix(".pub"))
    assert signed.exception is None, signed.exception
    verified = run("verify", data, "--key", path.with_suffix(".pub"), "--unsafe-unlogged")
    assert verified.exception is None, verified.exception
    assert f"key:sha256:{public.sha256}" in verified.output


def test_a_pin_comes_from_the_variable_that_was_named(tmp_path: Path, device: type[FakeDevice]) -> None:
    path, _ = made(tmp_path)
    device.key = load_pem_private_key(path.read_bytes(), None)
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("a\n1\n")
    sign = ["sign", data, "--name", "x", "--key-uri", "fakekms:pin", "--public-key", path.with_suffix(".pub")]
    good = run(*sign, "--password-env", "PIN", env={"PIN": "1234"})
    assert good.exception is None, good.exception
    bad = run(*sign, "--replace", "--password-env", "PIN", env={"PIN": "0000"})
    assert isinstance(bad.exception, UsageError)


def test_a_device_that_holds_another_key_is_found_out(tmp_path: Path, device: type[FakeDevice]) -> None:
    path, public = made(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = made(tmp_path / "other")
    device.key = load_pem_private_key(other.read_bytes(), None)
    with pytest.raises(UsageError, match="does not verify"):
        checked_signature(UriKey("fakekms:1", public), b"data")
    with pytest.raises(UsageError, match="file2"):
        checked_signature(UriKey(f"file2:{other}", public), b"data")
    assert path.exists()


def test_a_device_that_signs_in_another_way_is_found_out(tmp_path: Path, device: type[FakeDevice]) -> None:
    """RSA-PSS is sound, and no policy here accepts it: one key, one way to sign."""
    device.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = LocalKey(device.key).public
    with pytest.raises(UsageError, match="PKCS #1"):
        checked_signature(UriKey("fakekms:1", public), b"data")


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (UnsupportedLibraryError("boto3 is missing"), UsageError, "boto3"),
        (ValueError("bad label"), UsageError, "bad label"),
        (ConnectionError("no route"), StoreError, "no route"),
        (RuntimeError("device locked"), StoreError, "device locked"),
    ],
)
def test_each_way_to_fail_is_told(
    tmp_path: Path, device: type[FakeDevice], error: Exception, expected: type[Exception], text: str
) -> None:
    _, public = made(tmp_path)
    device.error = error
    with pytest.raises(expected, match=text):
        UriKey("fakekms:1", public).sign(b"data")


def test_a_service_whose_library_is_not_installed_names_the_extra(
    tmp_path: Path, device: type[FakeDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake device stands for the service, so that the answer does not depend on what else is installed here."""
    _, public = made(tmp_path)
    device.error = UnsupportedLibraryError("boto3 is missing")
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "awskms", device)
    with pytest.raises(UsageError) as caught:
        UriKey("awskms:alias/x", public).sign(b"data")
    assert "millcert[kms-aws]" in caught.value.hint


def test_a_scheme_that_nobody_registered_is_refused_with_those_that_are(tmp_path: Path) -> None:
    _, public = made(tmp_path)
    with pytest.raises(UsageError) as caught:
        UriKey("nokms:1", public).sign(b"data")
    assert "awskms:" in caught.value.hint
