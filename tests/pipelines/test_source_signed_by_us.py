"""What `millcert source sign` writes is admitted by a run of the gate under a policy: keyless, and by two keys."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from millcert.cli.source import source
from millcert.errors import MillcertError
from millcert.testing.sigstore_services import LoopbackServices

IDENTITY, ISSUER = "https://forge.private.test/lab/.forge/release.yml@refs/tags/v1", "https://tokens.private.test"


def run(*arguments: object) -> None:
    result = CliRunner().invoke(source, [str(argument) for argument in arguments])
    assert result.exception is None, result.exception


def spki(path: Path) -> str:
    return "".join(line for line in path.read_text().splitlines() if "-----" not in line)


def test_a_run_admits_what_was_signed_keyless_and_by_keys(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for source_name in ("north", "south"):
        for path in (bench.data / source_name).glob("millcert-manifest.json*"):
            path.unlink()
    key, pq = bench.top / "key.pem", bench.top / "pq.pem"
    run("keygen", key)
    run("keygen", pq, "--kind", "ml-dsa-65")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with LoopbackServices(bench.sigstore, IDENTITY, ISSUER) as services:
        for name, value in services.environment().items():
            monkeypatch.setenv(name, value)
        (bench.top / "config.json").write_bytes(services.trust_config())
        run("sign", bench.data / "north", "--name", "north", "--keyless", "--trust-config", bench.top / "config.json")
    run("sign", bench.data / "south", "--name", "south", "--key", key, "--pq-key", pq, "--form", "oms")
    bench.policy["sources"] = [
        {"name": "north", "path": "north/**", "signed_by": {"issuer": ISSUER, "identity": IDENTITY}, "tier": "high"},
        {
            "name": "south",
            "path": "south/**",
            "form": "model_signing",
            "signed_by": {"key": spki(key.with_suffix(".pub")), "unlogged": "accept"},
            "require_pq": spki(pq.with_suffix(".pub")),
        },
    ]
    whole = (bench.data / "south" / "model.sig.pq.json").read_bytes()
    (bench.data / "south" / "model.sig.pq.json").unlink()
    with pytest.raises(MillcertError, match="post-quantum"):
        bench.vet()
    (bench.data / "south" / "model.sig.pq.json").write_bytes(whole)
    result = bench.vet()
    assert result.verdict.decision == "admitted"
    assert [(one.name, one.status, one.issuer) for one in result.verdict.sources] == [
        ("north", "verified", ISSUER),
        ("south", "verified", ""),
    ]
