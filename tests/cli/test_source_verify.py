"""`millcert source verify` without a policy: other lists and digests, and who may sign is always said, in one way."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from millcert.cli.source import source
from millcert.errors import DigestMismatchError, ManifestError, PolicyError, UntrustedSourceError
from millcert.provenance.digest_algorithms import new_hasher
from millcert.provenance.signing_key import load_signing_key
from millcert.provenance.source_signing import ByKey, sign_list

MODELS = Path(__file__).parents[3] / "shared" / "data" / "model-signing"


def run(*arguments: object, fails: type[Exception] | None = None, env: dict[str, str] | None = None) -> Result:
    result = CliRunner().invoke(source, [str(argument) for argument in arguments], env=env)
    if fails is None:
        assert result.exception is None, result.exception
    else:
        assert isinstance(result.exception, fails), (result.exception, result.output)
    return result


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "birds"
    (data / "cat").mkdir(parents=True)
    (data / "cat" / "1.csv").write_text("a,b\n1,2\n")
    (data / "cat.txt").write_text("cat\n")
    return data


def made_key(folder: Path, kind: str = "p256") -> Path:
    path = folder / f"{kind}.pem"
    run("keygen", path, "--kind", kind)
    return path


@pytest.mark.parametrize(("name", "algorithm"), [("SHA512SUMS", "sha512"), ("B3SUMS", "blake3")])
def test_a_signed_list_by_another_digest_verifies_where_that_is_allowed(
    data: Path, tmp_path: Path, name: str, algorithm: Any
) -> None:
    key = made_key(tmp_path)
    sums = ""
    for path in (data / "cat.txt", data / "cat" / "1.csv"):
        hasher = new_hasher(algorithm)
        hasher.update(path.read_bytes())
        sums += f"{hasher.hexdigest()}  {path.relative_to(data).as_posix()}\n"
    (data / name).write_text(sums)
    (data / f"{name}.sigstore.json").write_bytes(sign_list(sums.encode(), ByKey(load_signing_key(key))).bundle)
    check = ["verify", data, "--form", "checksums", "--key", key.with_suffix(".pub"), "--unsafe-unlogged"]
    run(*check, "--digest", algorithm)
    run(*check, "--manifest", data / name, fails=UntrustedSourceError)
    (data / "cat.txt").write_text("dog\n")
    run(*check, "--digest", algorithm, fails=DigestMismatchError)


def test_a_signed_bag_verifies_by_its_payload(data: Path, tmp_path: Path) -> None:
    key, bag = made_key(tmp_path), tmp_path / "bag"
    bag.mkdir()
    data.rename(bag / "data")
    (bag / "bagit.txt").write_text("BagIt-Version: 1.0\n")
    held = {path.relative_to(bag).as_posix(): path for path in (bag / "data").rglob("*") if path.is_file()}
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {name}\n" for name, path in held.items()).encode()
    (bag / "manifest-sha256.txt").write_bytes(sums)
    signed = sign_list(sums, ByKey(load_signing_key(key)))
    (bag / "manifest-sha256.txt.sigstore.json").write_bytes(signed.bundle)
    check = ["verify", bag, "--form", "bagit", "--key", key.with_suffix(".pub"), "--unsafe-unlogged"]
    assert "2 files" in run(*check).output
    (bag / "data" / "extra").write_text("x")
    run(*check, fails=ManifestError)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--key", "K", "--issuer", "https://x.example", "--identity", "a@x.example"],
        ["--issuer", "https://x.example", "--identity", "a@x.example", "--unsafe-unlogged"],
        ["--identity", "a@x.example", "--trusted-root", "R", "--trusted-root-sha256", "0" * 64],
        ["--unsafe-authority", "K"],
        ["--key", "K", "--subject", "CN=x"],
        ["--key", "K", "--trusted-root", "R"],
        ["--key", "K"],
        ["--unsafe-authority", "K", "--subject", "CN=x"],
        ["--key", "K", "--unsafe-unlogged", "--form", "oms", "--manifest", "M"],
        ["--key", "K", "--unsafe-unlogged", "--digest", "sha512"],
    ],
)
def test_options_of_verify_that_name_nobody_or_contradict_each_other_are_refused(
    data: Path, tmp_path: Path, options: list[str]
) -> None:
    key = made_key(tmp_path).with_suffix(".pub")
    run("verify", data, *[str(key) if option == "K" else option for option in options], fails=PolicyError)


@pytest.mark.data
@pytest.mark.skipif(not MODELS.is_dir(), reason="shared/data/model-signing is not there")
def test_a_name_under_an_authority_of_ones_own_can_be_asked_for(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("model.sig", "signme-1", "signme-2"):
        (copy / name).write_bytes((MODELS / "v1.1.0-certificate" / name).read_bytes())
    authority = MODELS / "keys" / "certificate" / "ca-cert.pem"
    check = ["verify", copy, "--form", "oms", "--unsafe-authority", authority]
    assert "2 files" in run(*check, "--subject", "CN=intermediate-ca").output
    run(*check, "--subject", "CN=other", fails=UntrustedSourceError)
