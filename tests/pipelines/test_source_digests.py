"""A whole run over a source whose publisher signs SHA-512: the run's own record stays SHA-256, of the same bytes."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from millcert.errors import MillcertError
from millcert.testing.sigstore_entries import public_der

KEY = ec.generate_private_key(ec.SECP256R1())


def test_a_list_of_sha512_is_verified_and_recorded_as_sha256(bench: Any) -> None:
    north: Path = bench.data / "north"
    for name in ("millcert-manifest.json", "millcert-manifest.json.sigstore.json"):
        (north / name).unlink()
    files = [path for path in sorted(north.rglob("*")) if path.is_file()]
    sums = "".join(
        f"{hashlib.sha512(path.read_bytes()).hexdigest()}  {path.relative_to(north).as_posix()}\n" for path in files
    ).encode()
    (north / "SHA512SUMS").write_bytes(sums)
    (north / "SHA512SUMS.sigstore.json").write_bytes(bench.sigstore.sign_artifact_by_key(sums, KEY))
    rule = bench.policy["sources"][0]
    rule |= {"form": "checksums", "signed_by": {"key": base64.b64encode(public_der(KEY)).decode()}}
    rule["manifest"] = "north/SHA512SUMS"
    with pytest.raises(MillcertError, match="without a digest of sha256"):
        bench.vet()
    rule["digests"] = ["sha512", "blake3"]
    whole = files[0].read_bytes()
    files[0].write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(MillcertError, match="1 changed"):
        bench.vet()
    files[0].write_bytes(whole)
    result = bench.vet()
    assert result.verdict.decision == "admitted"
    recorded = json.loads((Path(result.out) / "manifest.json").read_bytes())
    taken = {entry["sha256"] for entry in recorded["files"] if entry["path"].startswith("north/")}
    assert taken <= {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert taken
