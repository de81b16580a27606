"""`millcert source sign`: what an owner signs, the gate verifies; and nothing is written that it would refuse."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from millcert.cli.source import source
from millcert.errors import (
    DigestMismatchError,
    IntegrityError,
    ManifestError,
    PolicyError,
    SignatureError,
    StoreError,
    UntrustedSourceError,
    UsageError,
)
from millcert.provenance.manifest import parse_manifest
from millcert.testing.sigstore import PrivateSigstore
from millcert.testing.sigstore_services import LoopbackServices

IDENTITY = "https://forge.private.test/lab/data/.forge/release.yml@refs/heads/main"
MODELS = Path(__file__).parents[3] / "shared" / "data" / "model-signing"
ISSUER = "https://tokens.private.test"


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


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServices]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with LoopbackServices(PrivateSigstore(), IDENTITY, ISSUER) as services:
        for name, value in services.environment().items():
            monkeypatch.setenv(name, value)
        yield services


def made_key(folder: Path, kind: str = "p256") -> Path:
    path = folder / f"{kind}.pem"
    run("keygen", path, "--kind", kind)
    return path


def pinned(folder: Path, kit: PrivateSigstore) -> list[str]:
    path = folder / "trusted_root.json"
    path.write_bytes(kit.trusted_root())
    return ["--trusted-root", str(path), "--trusted-root-sha256", hashlib.sha256(path.read_bytes()).hexdigest()]


def config(folder: Path, services: LoopbackServices, rekor: Any = 2) -> Path:
    path = folder / "trust_config.json"
    path.write_bytes(services.trust_config(rekor=rekor))
    return path


@pytest.mark.parametrize("form", ["manifest", "oms"])
@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "rsa-3072"])
def test_a_folder_signed_with_any_kind_of_key_verifies_with_its_public_half_alone(
    data: Path, tmp_path: Path, kind: str, form: str
) -> None:
    key = made_key(tmp_path, kind)
    signed = run("sign", data, "--name", "birds", "--key", key, "--form", form)
    verified = run("verify", data, "--key", key.with_suffix(".pub"), "--unsafe-unlogged", "--form", form)
    assert "--unsafe-unlogged" in signed.output.splitlines()[-1]
    assert "2 files" in verified.output
    run("verify", data, "--key", key.with_suffix(".pub"), "--form", form, fails=PolicyError)


def test_the_first_run_writes_both_and_the_second_needs_a_word(data: Path, tmp_path: Path) -> None:
    key = made_key(tmp_path)
    run("sign", data, "--name", "birds", "--key", key)
    before = {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}
    assert set(before) == {"cat.txt", "millcert-manifest.json", "millcert-manifest.json.sigstore.json"}
    run("sign", data, "--name", "birds", "--key", key, fails=UsageError)
    (data / "new.txt").write_text("x")
    result = run("sign", data, "--name", "birds", "--key", key, fails=UsageError)
    assert "--replace" in str(result.exception)
    assert {name: (data / name).read_bytes() for name in before} == before
    run("sign", data, "--name", "birds", "--key", key, "--replace")
    assert len(parse_manifest((data / "millcert-manifest.json").read_bytes()).files) == 3


def test_a_manifest_that_waits_for_its_signature_is_signed_as_it_is(data: Path, tmp_path: Path) -> None:
    run("manifest", data, "--name", "birds")
    run("sign", data, "--name", "birds", "--key", made_key(tmp_path))
    run("verify", data, "--key", tmp_path / "p256.pub", "--unsafe-unlogged")


def test_what_a_waiting_manifest_says_of_rows_is_signed_with_it(data: Path, tmp_path: Path) -> None:
    run("manifest", data, "--name", "birds", "--rows", "--no-cache")
    before = (data / "millcert-manifest.json").read_bytes()
    assert b'"rows":1' in before
    key = made_key(tmp_path)
    run("sign", data, "--name", "other", "--key", key, fails=UsageError)
    run("sign", data, "--name", "birds", "--key", key)
    assert (data / "millcert-manifest.json").read_bytes() == before
    run("verify", data, "--key", tmp_path / "p256.pub", "--unsafe-unlogged", "--no-cache")


def test_a_waiting_manifest_that_was_edited_is_not_signed(data: Path, tmp_path: Path) -> None:
    run("manifest", data, "--name", "birds", "--no-cache")
    path, key = data / "millcert-manifest.json", made_key(tmp_path)
    for edit in (path.read_bytes().replace(b"birds", b"crows"), path.read_bytes() + b" ", b"{}"):
        path.write_bytes(edit)
        run("sign", data, "--name", "birds", "--key", key, fails=UsageError)
        assert path.read_bytes() == edit


@pytest.mark.parametrize("form", ["manifest", "oms"])
def test_each_change_after_signing_is_refused_with_its_own_error(data: Path, tmp_path: Path, form: str) -> None:
    key = made_key(tmp_path)
    run("sign", data, "--name", "birds", "--key", key, "--form", form)
    check = ["verify", data, "--key", key.with_suffix(".pub"), "--unsafe-unlogged", "--form", form]
    run(*check)
    (data / "cat.txt").write_text("dog\n")
    run(*check, fails=DigestMismatchError)
    (data / "cat.txt").rename(data / "dog.txt")
    run(*check, fails=ManifestError)
    (data / "dog.txt").write_text("cat\n")
    run(*check, fails=ManifestError)
    (data / "dog.txt").rename(data / "cat.txt")
    run(*check)
    (data / "extra").write_text("")
    run(*check, fails=ManifestError)
    (data / "extra").unlink()
    stranger = tmp_path / "stranger.pem"
    run("keygen", stranger)
    run("sign", data, "--name", "birds", "--key", stranger, "--form", form, "--replace")
    result = run(*check, fails=IntegrityError)
    assert isinstance(result.exception, (SignatureError, UntrustedSourceError))


def test_a_password_comes_from_the_environment_only(data: Path, tmp_path: Path) -> None:
    key = tmp_path / "locked.pem"
    run("keygen", key, "--password-env", "KEY_WORD", env={"KEY_WORD": "correct horse"})
    assert b"ENCRYPTED" in key.read_bytes()
    sign = ["sign", data, "--name", "birds", "--key", key]
    run(*sign, fails=UsageError)
    run(*sign, "--password-env", "KEY_WORD", env={"KEY_WORD": "wrong"}, fails=UsageError)
    run(*sign, "--password-env", "KEY_WORD", fails=UsageError)
    run(*sign, "--password-env", "KEY_WORD", env={"KEY_WORD": "correct horse"})
    run("verify", data, "--key", tmp_path / "locked.pub", "--unsafe-unlogged")
    plain = made_key(tmp_path)
    result = run(
        "sign",
        data,
        "--name",
        "birds",
        "--replace",
        "--key",
        plain,
        "--password-env",
        "W",
        env={"W": "x"},
        fails=UsageError,
    )
    assert "not encrypted" in str(result.exception)


def test_a_key_that_others_can_read_is_not_used(data: Path, tmp_path: Path) -> None:
    key = made_key(tmp_path)
    key.chmod(0o644)
    run("sign", data, "--name", "birds", "--key", key, fails=UsageError)
    assert not (data / "millcert-manifest.json").exists()


def test_a_key_of_a_kind_that_no_policy_can_name_does_not_sign(data: Path, tmp_path: Path) -> None:
    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "short": rsa.generate_private_key(public_exponent=65537, key_size=1024),
        "curve": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, key in keys.items():
        path = tmp_path / name
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        path.chmod(0o600)
        run("sign", data, "--name", "birds", "--key", path, fails=UsageError)
    run("sign", data, "--name", "birds", "--key", made_key(tmp_path, "ml-dsa-65"), fails=UsageError)


@pytest.mark.parametrize("kind", ["p256", "ed25519", "rsa-3072", "ml-dsa-65"])
def test_a_made_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path, kind: str) -> None:
    key = made_key(tmp_path, kind)
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    answer = json.loads(run("keygen", tmp_path / "two", "--kind", kind, "--json").stdout)
    assert answer["kind"] == kind
    assert (
        answer["sha256"]
        == hashlib.sha256(
            serialization.load_pem_public_key(Path(answer["public"]).read_bytes()).public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).hexdigest()
    )
    run("keygen", key, "--kind", kind, fails=UsageError)
    key.unlink()
    run("keygen", key, "--kind", kind, fails=UsageError)  # the public half is still there
    assert not key.exists()
    assert before.startswith(b"-----BEGIN PRIVATE KEY-----")
    run("keygen", tmp_path / "x.pub", fails=UsageError)
    run("keygen", tmp_path / "no" / "where", fails=StoreError)


@pytest.mark.parametrize("form", ["manifest", "oms"])
@pytest.mark.parametrize("rekor", [1, 2])
def test_a_job_with_an_ambient_identity_signs_without_any_key(
    data: Path, tmp_path: Path, services: LoopbackServices, rekor: int, form: str
) -> None:
    signed = run(
        "sign",
        data,
        "--name",
        "birds",
        "--keyless",
        "--form",
        form,
        "--trust-config",
        config(tmp_path, services, rekor),
    )
    assert IDENTITY in signed.output
    assert services.requests == ["/token", "/api/v2/signingCert", "/timestamp", f"/api/v{rekor}/log/entries"]
    who = ["--issuer", ISSUER, "--identity", IDENTITY, "--form", form]
    answer = json.loads(run("verify", data, *pinned(tmp_path, services.kit), *who, "--json").stdout)
    assert answer["signature"]["identity"] == IDENTITY
    assert answer["signature"]["signed_at"] is not None
    other = ["--issuer", ISSUER, "--identity", "https://forge.private.test/x", "--form", form]
    run("verify", data, *pinned(tmp_path, services.kit), *other, fails=UntrustedSourceError)


@pytest.mark.parametrize("form", ["manifest", "oms"])
@pytest.mark.parametrize("rekor", [1, 2])
def test_what_is_signed_keyless_verifies_with_bare_sigstore(
    data: Path, tmp_path: Path, services: LoopbackServices, rekor: int, form: str
) -> None:
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity
    from sigstore_models.trustroot.v1 import TrustedRoot as TrustedRootModel

    run(
        "sign",
        data,
        "--name",
        "birds",
        "--keyless",
        "--form",
        form,
        "--trust-config",
        config(tmp_path, services, rekor),
    )
    verifier = Verifier(trusted_root=TrustedRoot(TrustedRootModel.from_json(services.kit.trusted_root())))
    policy = Identity(identity=IDENTITY, issuer=ISSUER)
    if form == "oms":
        kind, _ = verifier.verify_dsse(Bundle.from_json((data / "model.sig").read_bytes()), policy)
        assert kind == "application/vnd.in-toto+json"
    else:
        manifest = data / "millcert-manifest.json"
        bundle = Bundle.from_json((data / "millcert-manifest.json.sigstore.json").read_bytes())
        verifier.verify_artifact(manifest.read_bytes(), bundle, policy)


def test_a_token_can_be_given_in_a_variable(data: Path, tmp_path: Path, services: LoopbackServices) -> None:
    sign = ["sign", data, "--name", "birds", "--keyless", "--trust-config", config(tmp_path, services)]
    run(*sign, "--identity-token-env", "TOKEN", env={"TOKEN": "no token"}, fails=UsageError)
    run(*sign, "--identity-token-env", "TOKEN", env={"TOKEN": services.identity_token()})
    assert "/token" not in services.requests


def test_no_ambient_identity_is_told(data: Path, services: LoopbackServices, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in services.environment():
        monkeypatch.delenv(name)
    result = run("sign", data, "--name", "birds", "--keyless", fails=UsageError)
    assert "--identity-token-env" in str(result.exception)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = run("sign", data, "--name", "birds", "--keyless", fails=StoreError)
    assert "id-token: write" in str(result.exception)


@pytest.mark.parametrize("failing", ["signingCert", "entries", "timestamp"])
def test_a_service_that_fails_leaves_the_folder_as_it_was(
    data: Path, tmp_path: Path, services: LoopbackServices, failing: str
) -> None:
    """Without its timestamp a Rekor v2 signature has no trusted time; the client only warns, so we verify."""
    services.failing.add(failing)
    before = sorted(data.rglob("*"))
    run("sign", data, "--name", "birds", "--keyless", "--trust-config", config(tmp_path, services), fails=StoreError)
    key = made_key(tmp_path)
    if failing != "signingCert":
        logged = ["--key", key, "--log", "--trust-config", config(tmp_path, services)]
        run("sign", data, "--name", "birds", *logged, fails=StoreError)
    assert sorted(data.rglob("*")) == before


def test_services_that_the_trusted_root_does_not_know_are_found_out_before_anything_is_written(
    data: Path, tmp_path: Path, services: LoopbackServices
) -> None:
    strange = json.loads(services.trust_config())
    strange["trustedRoot"] = json.loads(PrivateSigstore(domain="other.test").trusted_root())
    path = tmp_path / "strange.json"
    path.write_text(json.dumps(strange))
    key = ["--key", made_key(tmp_path), "--log", "--trust-config", path]
    run("sign", data, "--name", "birds", *key, fails=StoreError)
    run("sign", data, "--name", "birds", "--keyless", "--trust-config", path, fails=StoreError)
    path.write_text("{}")
    run("sign", data, "--name", "birds", "--keyless", "--trust-config", path, fails=UsageError)
    assert not (data / "millcert-manifest.json").exists()


@pytest.mark.parametrize("form", ["manifest", "oms"])
@pytest.mark.parametrize("rekor", [1, 2])
@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa-3072"])
def test_a_keys_signature_can_be_logged_and_then_needs_no_unsafe_word(
    data: Path, tmp_path: Path, services: LoopbackServices, kind: str, rekor: int, form: str
) -> None:
    key = made_key(tmp_path, kind)
    logged = ["--log", "--trust-config", config(tmp_path, services, rekor)]
    run("sign", data, "--name", "birds", "--key", key, "--form", form, *logged)
    check = ["verify", data, "--key", key.with_suffix(".pub"), "--form", form]
    answer = json.loads(run(*check, *pinned(tmp_path, services.kit), "--json").stdout)
    assert answer["signature"]["log_index"] is not None
    assert answer["signature"]["signed_at"] is not None


def test_an_ed25519_key_is_not_logged(data: Path, tmp_path: Path, services: LoopbackServices) -> None:
    key = made_key(tmp_path, "ed25519")
    logged = ["--key", key, "--log", "--trust-config", config(tmp_path, services)]
    result = run("sign", data, "--name", "birds", *logged, fails=UsageError)
    assert "digest" in str(result.exception)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--key", "k", "--keyless"],
        ["--key", "k", "--public-key", "p"],
        ["--key-uri", "file2:k"],
        ["--keyless", "--log"],
        ["--keyless", "--password-env", "X"],
        ["--key", "k", "--identity-token-env", "X"],
        ["--key", "k", "--trust-config", "c"],
        ["--key", "k", "--pq-password-env", "X"],
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(data: Path, options: list[str]) -> None:
    run("sign", data, "--name", "birds", *options, fails=UsageError)
    assert not (data / "millcert-manifest.json").exists()


def test_an_empty_folder_and_a_name_that_the_format_leaves_out_are_not_signed(data: Path, tmp_path: Path) -> None:
    key = made_key(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    run("sign", empty, "--name", "x", "--key", key, fails=UsageError)
    (data / ".gitattributes").write_text("*.csv filter=lfs\n")
    result = run("sign", data, "--name", "birds", "--key", key, "--form", "oms", fails=ManifestError)
    assert ".gitattributes" in str(result.exception)
    run("sign", data, "--name", "birds", "--key", key)


def test_a_run_that_was_killed_leaves_nothing_that_the_next_one_signs(data: Path, tmp_path: Path) -> None:
    leftover = data / f".millcert-manifest.json.{'0' * 16}.millcert-tmp"
    leftover.write_text("half")
    run("sign", data, "--name", "birds", "--key", made_key(tmp_path))
    assert not leftover.exists()
    assert "millcert-tmp" not in (data / "millcert-manifest.json").read_text()


@pytest.mark.parametrize(("form", "name"), [("manifest", "millcert-manifest.json"), ("oms", "model.sig")])
def test_a_post_quantum_signature_is_made_and_asked_for(data: Path, tmp_path: Path, form: str, name: str) -> None:
    key, pq, other = made_key(tmp_path), made_key(tmp_path, "ml-dsa-65"), tmp_path / "other"
    run("keygen", other, "--kind", "ml-dsa-65")
    run("sign", data, "--name", "birds", "--key", key, "--pq-key", pq, "--form", form)
    check = ["verify", data, "--form", form, "--key", key.with_suffix(".pub"), "--unsafe-unlogged", "--pq-key"]
    assert "post-quantum: key:sha256:" in run(*check, pq.with_suffix(".pub")).output
    run(*check, other.with_suffix(".pub"), fails=UntrustedSourceError)
    (data / f"{name}.pq.json").unlink()
    run(*check, pq.with_suffix(".pub"), fails=SignatureError)
    run("sign", data, "--name", "birds", "--key", key, "--pq-key", key, "--replace", fails=UsageError)


def test_signing_again_without_the_second_key_takes_the_stale_second_signature_away(data: Path, tmp_path: Path) -> None:
    key, pq = made_key(tmp_path), made_key(tmp_path, "ml-dsa-65")
    run("sign", data, "--name", "birds", "--key", key, "--pq-key", pq)
    (data / "new.txt").write_text("x")
    run("sign", data, "--name", "birds", "--key", key, "--replace")
    assert not (data / "millcert-manifest.json.pq.json").exists()
    assert "new.txt" in (data / "millcert-manifest.json").read_text()
    assert ".pq.json" not in (data / "millcert-manifest.json").read_text()


@pytest.mark.parametrize("option", ["--key", "--pq-key"])
def test_a_private_key_among_the_data_is_not_shipped_with_it(data: Path, tmp_path: Path, option: str) -> None:
    key = made_key(tmp_path)
    inside = made_key(data / "cat", "p256" if option == "--key" else "ml-dsa-65")
    options = ["--key", inside] if option == "--key" else ["--key", key, "--pq-key", inside]
    result = run("sign", data, "--name", "birds", *options, fails=UsageError)
    assert "among the data" in str(result.exception)
    assert not (data / "millcert-manifest.json").exists()


@pytest.mark.skipif(shutil.which("model_signing") is None, reason="OpenSSF's model_signing is not on the path")
def test_openssf_model_signing_verifies_what_we_sign_and_we_what_it_signs(data: Path, tmp_path: Path) -> None:
    """By key; names in the tool's order, which is not that of texts: cat/1.csv before cat.txt."""
    key = made_key(tmp_path)
    run("sign", data, "--name", "birds", "--key", key, "--form", "oms")
    tool = ["model_signing", "verify", "key", str(data), "--signature", str(data / "model.sig")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    tool += ["--public_key", str(key.with_suffix(".pub"))]
    assert subprocess.run(tool, check=False, env=environment, capture_output=True).returncode == 0
    (data / "model.sig").unlink()
    theirs = [
        "model_signing",
        "sign",
        "key",
        str(data),
        "--signature",
        str(data / "model.sig"),
        "--private_key",
        str(key),
    ]
    assert subprocess.run(theirs, check=False, env=environment, capture_output=True).returncode == 0
    run("verify", data, "--form", "oms", "--key", key.with_suffix(".pub"), "--unsafe-unlogged")


@pytest.mark.parametrize("option", ["--key", "--pq-key"])
def test_a_private_key_that_a_link_outside_leads_to_is_not_shipped_either(
    data: Path, tmp_path: Path, option: str
) -> None:
    key = made_key(tmp_path)
    link = tmp_path / "link.pem"
    link.symlink_to(made_key(data / "cat", "p256" if option == "--key" else "ml-dsa-65"))
    options = ["--key", link] if option == "--key" else ["--key", key, "--pq-key", link]
    result = run("sign", data, "--name", "birds", *options, fails=UsageError)
    assert "among the data" in str(result.exception)


@pytest.mark.parametrize("password", ["hunter\udcff2", "hunter2" * 200])
def test_a_password_that_cannot_be_used_is_refused_without_quoting_it(
    data: Path, tmp_path: Path, password: str
) -> None:
    key = tmp_path / "locked.pem"
    made = run("keygen", key, "--password-env", "KEY_WORD", env={"KEY_WORD": password}, fails=UsageError)
    assert not key.exists()
    assert not key.with_suffix(".pub").exists()
    run("keygen", key, "--password-env", "KEY_WORD", env={"KEY_WORD": "right"})
    sign = ["sign", data, "--name", "birds", "--key", key, "--password-env", "KEY_WORD"]
    signed = run(*sign, env={"KEY_WORD": password}, fails=UsageError)
    for result in (made, signed):
        assert "hunter" not in str(result.exception)
        assert "udcff" not in str(result.exception)


@pytest.mark.parametrize("name", ["millcert-manifest.json", "millcert-manifest.json.sigstore.json"])
def test_a_pipe_in_the_place_of_a_list_or_signature_makes_nobody_wait(data: Path, tmp_path: Path, name: str) -> None:
    key = made_key(tmp_path)
    run("sign", data, "--name", "birds", "--key", key)
    (data / name).unlink()
    os.mkfifo(data / name)
    result = run("verify", data, "--key", key.with_suffix(".pub"), "--unsafe-unlogged", fails=ManifestError)
    assert "no regular file" in str(result.exception)
