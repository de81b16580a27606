"""A whole run over sources that are signed in other forms than ours, and under rules that ask for more."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from millcert.errors import MillcertError, UntrustedSourceError
from millcert.provenance.dsse import pae
from millcert.testing.sigstore_entries import public_der

KEY = ec.generate_private_key(ec.SECP256R1())
TEXT = base64.b64encode(public_der(KEY)).decode()


def drop_manifest(folder: Path) -> None:
    for name in ("millcert-manifest.json", "millcert-manifest.json.sigstore.json"):
        (folder / name).unlink()


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sign_model(folder: Path) -> None:
    found = digests(folder)
    joined = hashlib.sha256(b"".join(bytes.fromhex(found[name]) for name in sorted(found))).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": folder.name, "digest": {"sha256": joined}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "ignore_paths": ["extra.jsonl"]},
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in found.items()],
        },
    }
    payload, kind = json.dumps(statement).encode(), "application/vnd.in-toto+json"
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [
            {"sig": base64.b64encode(KEY.sign(pae(kind, payload), ec.ECDSA(hashes.SHA256()))).decode(), "keyid": ""}
        ],
    }
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    (folder / "model.sig").write_text(json.dumps(bundle))


def in_other_forms(bench: Any) -> Any:
    """`north` by SHA256SUMS signed with a logged key, `south` by a model signature with an unlogged one."""
    north, south = bench.data / "north", bench.data / "south"
    drop_manifest(north)
    drop_manifest(south)
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests(north).items()).encode()
    (north / "SHA256SUMS").write_bytes(sums)
    (north / "SHA256SUMS.sigstore.json").write_bytes(bench.sigstore.sign_artifact_by_key(sums, KEY))
    sign_model(south)
    bench.policy["sources"] = [
        {"name": "north", "path": "north/**", "form": "checksums", "signed_by": {"key": TEXT}},
        {
            "name": "south",
            "path": "south/**",
            "form": "model_signing",
            "signed_by": {"key": TEXT, "unlogged": "accept"},
        },
    ]
    return bench


def test_sources_in_other_forms_are_admitted_under_the_name_of_their_key(bench: Any) -> None:
    result = in_other_forms(bench).vet()
    name = f"key:sha256:{hashlib.sha256(public_der(KEY)).hexdigest()}"
    assert result.verdict.decision == "admitted"
    assert [(one.name, one.status, one.identity) for one in result.verdict.sources] == [
        ("north", "verified", name),
        ("south", "verified", name),
    ]


@pytest.mark.parametrize("source", ["north", "south"])
def test_a_file_that_is_in_no_list_is_refused_also_where_the_list_ignores_it(bench: Any, source: str) -> None:
    """`extra.jsonl` is one that the model signature of `south` says it ignores: data that nobody vouches for."""
    in_other_forms(bench)
    (bench.data / source / "extra.jsonl").write_text('{"label": 1}\n')
    with pytest.raises(MillcertError, match=r"1 added \(extra\.jsonl\)"):
        bench.vet()


def test_an_expired_rule_is_refused_before_anything_is_read(bench: Any) -> None:
    bench.policy["sources"][0]["expires"] = "2020-01-31"
    with pytest.raises(UntrustedSourceError, match=r"north \(2020-01-31\)"):
        bench.vet()


def test_a_snapshot_that_is_too_fresh_is_refused(bench: Any) -> None:
    bench.policy["sources"][0]["min_age_days"] = 30
    with pytest.raises(MillcertError, match="too fresh"):
        bench.vet()


def test_an_attestation_that_is_asked_for_is_looked_for_beside_the_list(bench: Any) -> None:
    place = "north/provenance.sigstore.json"
    signer = {"issuer": "https://issuer.example", "identity": "data@north.example"}
    bench.policy["sources"][0]["attestations"] = [{"type": "slsa_provenance", "bundle": place, "signed_by": signer}]
    with pytest.raises(MillcertError, match="has no attestation"):
        bench.vet()
    manifest = (bench.data / "north" / "millcert-manifest.json").read_bytes()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "north", "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {"buildType": "https://b.example", "externalParameters": {}},
            "runDetails": {"builder": {"id": "https://builder.example"}},
        },
    }
    bundle = bench.sigstore.sign_dsse(json.dumps(statement).encode(), **signer)
    (bench.data / place).write_bytes(bundle)
    assert bench.vet().verdict.decision == "admitted"
