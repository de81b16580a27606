"""Nothing that verifies remembers its last call: every ordered pair of cases gives the answers of each case alone."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise, product

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from millcert.errors import MillcertError
from millcert.provenance.attestation import verify_attestation
from millcert.provenance.bundle import verify_bundle, verify_envelope
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.trust import KeyRule, SignerRule, SourceRule, TrustRoot, load_trust_root, verify_source
from millcert.testing.sigstore import Flaw, PrivateSigstore
from millcert.testing.sigstore_entries import public_der

ISSUER = "https://accounts.private.test"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
ALICE, BOB = SignerRule(ISSUER, "alice@data.example"), SignerRule(ISSUER, "bob@data.example")
BY_KEY = KeyRule(parse_public_key(public_der(KEY)))
UNLOGGED = KeyRule(parse_public_key(public_der(KEY)), is_unlogged_accepted=True)
FOUND = Manifest("pets", (FileEntry("cat/1.png", 1, "a" * 64),))
LIST = FOUND.to_json()


def pinned(kit: PrivateSigstore) -> TrustRoot:
    return load_trust_root(kit.trusted_root(), hashlib.sha256(kit.trusted_root()).hexdigest())


KIT, OTHER = PrivateSigstore(now=NOW), PrivateSigstore(now=NOW, domain="other.test")
ROOTS = {"own": pinned(KIT), "other": pinned(OTHER)}
STATEMENT = json.dumps(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "list", "digest": {"sha256": hashlib.sha256(LIST).hexdigest()}}],
        "predicateType": "https://own.example/v1",
        "predicate": {},
    }
).encode()
STRIPPED = json.loads(KIT.sign_artifact_by_key(LIST, KEY))
del STRIPPED["verificationMaterial"]["tlogEntries"]
SUBJECTS: dict[str, bytes] = {
    "by alice": KIT.sign_artifact(LIST, identity="alice@data.example", issuer=ISSUER),
    "by alice, Rekor v1": KIT.sign_artifact(LIST, identity="alice@data.example", issuer=ISSUER, rekor=1),
    "by bob": KIT.sign_artifact(LIST, identity="bob@data.example", issuer=ISSUER),
    "by alice elsewhere": OTHER.sign_artifact(LIST, identity="alice@data.example", issuer=ISSUER),
    "by key": KIT.sign_artifact_by_key(LIST, KEY),
    "by key, unlogged": json.dumps(STRIPPED).encode(),
    "statement by alice": KIT.sign_dsse(STATEMENT, identity="alice@data.example", issuer=ISSUER),
    "of another file": KIT.sign_artifact(b"other", identity="alice@data.example", issuer=ISSUER),
    "forged": KIT.sign_artifact(
        LIST, identity="alice@data.example", issuer=ISSUER, flaw=Flaw(has_other_signing_key=True)
    ),
    "no bundle": b"{}",
}
SIGNERS: dict[str, SignerRule | KeyRule] = {"alice": ALICE, "bob": BOB, "key": BY_KEY, "unlogged key": UNLOGGED}
#: Name of a case -> bundle, signer, trusted root. The other root and bob for some subjects only: pairs are many.
CASES: dict[str, tuple[bytes, SignerRule | KeyRule, TrustRoot]] = {
    f"{subject} / {signer} / {root}": (bundle, rule, ROOTS[root])
    for (subject, bundle), (signer, rule), root in product(SUBJECTS.items(), SIGNERS.items(), ROOTS)
    if (signer in {"alice", "unlogged key"} and root == "own")
    or (subject in {"by alice", "by key", "by alice elsewhere"} and (root == "own" or signer == "alice"))
}
WAYS: dict[str, Callable[[bytes, SignerRule | KeyRule, TrustRoot], object]] = {
    "bundle": lambda bundle, rule, root: verify_bundle(LIST, bundle, root=root, identity=rule),
    "envelope": lambda bundle, rule, root: verify_envelope(bundle, root=root, identity=rule),
    "attestation": lambda bundle, rule, root: verify_attestation(
        bundle, hashlib.sha256(LIST).hexdigest(), root=root, identity=rule
    ),
    "source": lambda bundle, rule, root: verify_source(
        FOUND, LIST, bundle, SourceRule("pets", "**", signed_by=(rule,)), root
    ),
}


def answer(way: str, case: str) -> object:
    bundle, rule, root = CASES[case]
    try:
        return WAYS[way](bundle, rule, root)
    except MillcertError as error:
        return (type(error).__name__, error.message)


def every_ordered_pair(names: list[str]) -> list[str]:
    """The shortest walk in which each name is followed once by each: Lyndon words of length 1 and 2, joined."""
    walk = []
    for position, name in enumerate(names):
        walk.append(name)
        for later in names[position + 1 :]:
            walk += [name, later]
    return [*walk, names[0]]


def test_the_walk_has_every_ordered_pair() -> None:
    walk = every_ordered_pair(list("abcd"))
    assert sorted(pairwise(walk)) == sorted(product("abcd", repeat=2))


@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_ordered_pair_of_subject_and_policy_gives_the_answers_of_each_alone(way: str) -> None:
    """Rule 5 of provenance/trust.py: what was verified or refused a moment ago changes nothing."""
    names = [case for case in CASES if way == "bundle" or case in FEW]
    alone = {case: answer(way, case) for case in names}
    assert len(set(map(str, alone.values()))) > 2
    assert all(answer(way, case) == alone[case] for case in every_ordered_pair(names))


#: For the ways that end in the same verification: one case of each kind.
FEW = frozenset(case for case in CASES if case.endswith(("/ alice / own", "/ unlogged key / own")))
