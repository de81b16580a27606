"""A fuzzer for all that verifies: mutants of good documents, and what may come of them.

What may come of a mutant: an error of ours, or the very answer that the good document gives, because the mutant says
the same. Anything else is a find: another exception leaked, or something else than was signed was accepted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import InternalError, MillcertError
from millcert.pipelines.url_table import read_url_list
from millcert.provenance.bundle import VerifiedEnvelope, load_trust_root, verify_bundle, verify_envelope
from millcert.provenance.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint, vkey_of
from millcert.provenance.inspection import inspect_evidence
from millcert.provenance.manifest import FileEntry, Manifest, parse_manifest
from millcert.provenance.pq_signature import PqKey, mldsa65, verify_pq
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.trust_signers import KeyRule, SignerRule, VerifiedSignature
from millcert.testing.sigstore import Flaw, PrivateSigstore
from millcert.testing.sigstore_entries import public_der
from millcert.testing.sigstore_mutants import mutants

_CURATOR = SignerRule("https://accounts.private.test", "curator@data.example")
_READ = frozenset({True})
_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@dataclass(frozen=True)
class Target:
    """Something to attack.

    document: what mutants are made of. verify: returns what a document says, or raises. said: what a good one says;
    of a bundle also what it says without the parts that nobody needs.
    """

    name: str
    document: bytes
    verify: Callable[[bytes], object]
    said: frozenset[object]


@dataclass
class Tally:
    """What came of the mutants. refused: by error code and reason. same: accepted, saying the same. finds: the rest."""

    refused: Counter[str] = field(default_factory=Counter)
    same: int = 0
    finds: list[tuple[str, bytes]] = field(default_factory=list)


def fuzz(target: Target, *, seed: int, count: int) -> Tally:
    """Return what came of so many mutants of one target."""
    tally = Tally()
    for mutant in mutants(target.document, seed=seed, count=count):
        try:
            said = target.verify(mutant)
        except InternalError as error:
            tally.finds.append((f"a bug of ours: {error}", mutant))
        except MillcertError as error:
            tally.refused[f"{error.code} {error.details.get('reason', '')}".strip()] += 1
        except Exception as error:  # noqa: BLE001 - the find that a fuzzer looks for
            tally.finds.append((f"leaked {type(error).__name__}: {error}", mutant))
        else:
            if said in target.said:
                tally.same += 1
            else:
                tally.finds.append((f"accepted: {said}", mutant))
    return tally


def targets() -> Iterator[Target]:
    """Yield every kind of document that the gate verifies, made with fresh keys."""
    kit = PrivateSigstore(now=_NOW)
    data = kit.trusted_root()
    root = load_trust_root(data, hashlib.sha256(data).hexdigest())
    key = ec.generate_private_key(ec.SECP256R1())
    by_key = KeyRule(parse_public_key(public_der(key)), is_unlogged_accepted=True)
    identity, issuer = str(_CURATOR.identity), _CURATOR.issuer

    def artifact(bundle: bytes, signer: SignerRule | KeyRule) -> object:
        return _plain(verify_bundle(b"data", bundle, root=root, identity=signer))

    def envelope(bundle: bytes, signer: SignerRule | KeyRule) -> object:
        return _plain(verify_envelope(bundle, root=root, identity=signer))

    both = Flaw(has_timestamp_beside_set=True, timestamp_seconds=60)
    for name, bundle, signer, verify in (
        (
            "artifact, Rekor v1",
            kit.sign_artifact(b"data", identity=identity, issuer=issuer, rekor=1),
            _CURATOR,
            artifact,
        ),
        ("artifact, Rekor v2", kit.sign_artifact(b"data", identity=identity, issuer=issuer), _CURATOR, artifact),
        (
            "artifact, two times",
            kit.sign_artifact(b"data", identity=identity, issuer=issuer, rekor=1, flaw=both),
            _CURATOR,
            artifact,
        ),
        ("artifact by key", kit.sign_artifact_by_key(b"data", key), by_key, artifact),
        ("artifact by key, Rekor v2", kit.sign_artifact_by_key(b"data", key, rekor=2), by_key, artifact),
        ("envelope, dsse", kit.sign_dsse(b"{}", identity=identity, issuer=issuer), _CURATOR, envelope),
        (
            "envelope, intoto",
            kit.sign_dsse(b"{}", identity=identity, issuer=issuer, entry="intoto"),
            _CURATOR,
            envelope,
        ),
        ("envelope by key", kit.sign_dsse_by_key(b"{}", key, entry="hashedrekord"), by_key, envelope),
    ):
        yield _bundle_target(name, bundle, lambda one, s=signer, v=verify: v(one, s))  # type: ignore[misc] # bound now
    yield _pq_target()
    manifest = Manifest("pets", (FileEntry("cat/1.png", 1, "a" * 64), FileEntry("dog/1.png", 2, "b" * 64, 3, "c" * 64)))
    yield Target("manifest", manifest.to_json(), parse_manifest, frozenset({manifest}))
    log_key = Ed25519PrivateKey.generate()
    checkpoint = Checkpoint("log.example/pets", 7, bytes(range(32)))
    vkeys = [vkey_of(checkpoint.origin, log_key)]
    signed = sign_checkpoint(checkpoint, log_key)
    yield Target("checkpoint", signed, lambda one: verify_checkpoint(one, vkeys), frozenset({checkpoint}))


def read_targets(documents: Mapping[str, bytes]) -> Iterator[Target]:
    """Yield documents that are read and not believed: as evidence, or as a list of addresses by a suffix in the name.

    There is no one answer that a mutant must give, so any is taken; what must not come is a foreign exception.
    """
    for name, document in documents.items():
        if name.endswith((".csv", ".jsonl", ".parquet", ".arrow")):
            yield Target(name, document, lambda one, n=name: bool(read_url_list(one, name=n)), _READ)  # type: ignore[misc] # bound now
        else:
            yield Target(name, document, lambda one: bool(inspect_evidence(one).form), _READ)


def _pq_target() -> Target:
    key, content = PqKey(mldsa65().MLDSA65PrivateKey.generate()), b"the list"
    keys = [key.public]
    return Target("post-quantum", key.sign(content), lambda one: verify_pq(one, content, keys), frozenset(keys))


def _bundle_target(name: str, bundle: bytes, verify: Callable[[bytes], object]) -> Target:
    """Return a target with all that a bundle may say: with its times, or with less of them where that is enough."""
    said = set()
    for drop in ((), ("timestampVerificationData",), ("inclusionPromise",), ("tlogEntries",)):
        document: Any = json.loads(bundle)
        material = document["verificationMaterial"]
        for part in drop:
            for holder in (material, *material["tlogEntries"]):
                holder.pop(part, None)
        try:
            said.add(verify(json.dumps(document).encode()))
        except MillcertError:
            continue
    return Target(name, bundle, verify, frozenset(said))


def _plain(found: VerifiedSignature | VerifiedEnvelope) -> object:
    """Leave out the digest of the bundle's own bytes: that is how a record tells mutants apart."""
    if isinstance(found, VerifiedEnvelope):
        return replace(found, signature=replace(found.signature, bundle_sha256=""))
    return replace(found, bundle_sha256="")


def read_documents() -> Mapping[str, bytes]:
    """Return good documents of the forms that are read and not believed, made here."""
    digest = b"a" * 64
    rows = [{"url": "https://a.example/1.png", "sha256": "a" * 64, "size": 7, "fetched_at": "2026-03-04T05:06:07Z"}]
    rows += [{"url": "https://b.example:8443/2?x=%20", "sha256": "b" * 64, "path": "cat/2.png"}]
    header = b"url,sha256,size,fetched_at,path\n"
    croissant = {
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "pets",
        "distribution": [{"@type": "cr:FileObject", "@id": "a", "contentUrl": "a.csv", "sha256": "a" * 64}],
    }
    evidence = {target.name: target.document for target in targets() if target.name != "checkpoint"}
    return evidence | {
        "list.csv": header + b"https://a.example/1.png," + digest + b",7,2026-03-04T05:06:07Z,cat/1.png\n",
        "list.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows),
        "croissant": json.dumps(croissant).encode(),
        "checksums": digest + b"  a/b.txt\n" + b"b" * 128 + b" *x\nSHA384 (z) = " + b"c" * 96 + b"\n",
        "bag": digest + b"  data/b.txt\n",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + digest + b"\nsize 12\n",
        "dvc": b"outs:\n- md5: " + b"a" * 32 + b"\n  size: 3\n  path: x\n",
    }
