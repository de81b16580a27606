"""Verifications of a bundle a CPU-second: ours beside sigstore alone, used as its documentation says.

Claim: the checks that the library leaves out cost less than the library's own. The library's verifier is made once,
because that is the best way to use it; ours makes what it needs in each call, because nothing may be remembered. The
last lines are what the library has nothing to set beside: a bundle by key, one without a log entry, the post-quantum
signature beside it, and an OpenSSF model signature over as many files as are said.

    python bench/verify.py [--rounds 5] [--bundles 100] [--files 1000]
"""

import argparse
import hashlib
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec
from sigstore import __version__ as sigstore_version  # noqa: TID253 - the rival
from sigstore.models import Bundle, TrustedRoot  # noqa: TID253 - the rival
from sigstore.verify import Verifier  # noqa: TID253 - the rival
from sigstore.verify.policy import Identity  # noqa: TID253 - the rival
from sigstore_models.trustroot.v1 import TrustedRoot as TrustedRootModel

from millcert.provenance.bundle import load_trust_root, verify_bundle
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.oms import verify_model
from millcert.provenance.oms_write import model_statement
from millcert.provenance.pq_signature import PqKey, mldsa65, verify_pq
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.signing_key import LocalKey
from millcert.provenance.source_signing import ByKey, sign_list, sign_model
from millcert.provenance.trust import KeyRule, SignerRule
from millcert.testing.sigstore import PrivateSigstore
from millcert.testing.sigstore_entries import public_der

CURATOR = SignerRule("https://accounts.private.test", "curator@data.example")


def cpu_seconds(run: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        run()
    return time.process_time() - start


def unlogged_runs(files: int) -> dict[str, Callable[[], object]]:
    """Return what is signed by keys alone, over a manifest of so many files."""
    entries = (FileEntry(f"{number:06}.png", 1, f"{number:064x}") for number in range(files))
    manifest = Manifest("pets", tuple(entries))
    key, pq = LocalKey(ec.generate_private_key(ec.SECP256R1())), PqKey(mldsa65().MLDSA65PrivateKey.generate())
    rule = KeyRule(key.public, is_unlogged_accepted=True)
    data = manifest.to_json()
    signed = sign_list(data, ByKey(key), pq=pq)
    model = sign_model(model_statement(manifest), ByKey(key))
    return {
        "millcert, key, no log": partial(verify_bundle, data, signed.bundle, root=None, identity=rule),
        "millcert, ML-DSA-65": partial(verify_pq, signed.pq, data, (pq.public,)),
        f"millcert, model, {files}": partial(verify_model, manifest, model.bundle, root=None, identity=rule),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bundles", type=int, default=100)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    kit = PrivateSigstore(now=datetime(2026, 3, 4, tzinfo=UTC))
    data = kit.trusted_root()
    root = load_trust_root(data, hashlib.sha256(data).hexdigest())
    library = Verifier(trusted_root=TrustedRoot(TrustedRootModel.from_json(data)))
    policy = Identity(identity=str(CURATOR.identity), issuer=CURATOR.issuer)
    key = ec.generate_private_key(ec.SECP256R1())
    by_key = KeyRule(parse_public_key(public_der(key)))
    runs: dict[str, Callable[[], object]] = {}
    for rekor in (1, 2):
        kit.sign_artifact(b"before", identity=str(CURATOR.identity), issuer=CURATOR.issuer, rekor=rekor)
        bundle = kit.sign_artifact(b"data", identity=str(CURATOR.identity), issuer=CURATOR.issuer, rekor=rekor)
        runs[f"millcert, Rekor v{rekor}"] = partial(verify_bundle, b"data", bundle, root=root, identity=CURATOR)
        runs[f"sigstore, Rekor v{rekor}"] = lambda bundle=bundle: library.verify_artifact(
            b"data", Bundle.from_json(bundle), policy
        )  # type: ignore[misc] # bound now
    signed = kit.sign_artifact_by_key(b"data", key)
    runs["millcert, key"] = partial(verify_bundle, b"data", signed, root=root, identity=by_key)
    runs |= unlogged_runs(options.files)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            found[name].append(options.bundles / cpu_seconds(run, options.bundles))
    print(f"{platform.machine()}, Python {platform.python_version()}, sigstore {sigstore_version}; per CPU-second:")
    for name, rates in found.items():
        print(f"  {name:<22} min {min(rates):>6.0f}  median {statistics.median(rates):>6.0f}  max {max(rates):>6.0f}")


if __name__ == "__main__":
    main()
