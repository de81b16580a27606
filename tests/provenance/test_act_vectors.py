"""The acts in tests/vectors read as they always did: leaf hashes, signatures, standing, and what follows from them."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from millcert.errors import LedgerError
from millcert.provenance.act import ACT_KINDS
from millcert.provenance.declared_use import declared_uses
from millcert.provenance.erasure import tombstone_from
from millcert.provenance.ledger import LoggedEntry
from millcert.provenance.ledger_entry import parse_entry
from millcert.provenance.override import list_overrides
from millcert.provenance.revocation import all_revocations
from millcert.provenance.roles import DEFAULT_KINDS
from millcert.provenance.standing import Standing, judge_acts
from millcert.provenance.timestamp import instant

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "0.2.0" / "acts"
CASES: dict[str, Any] = json.loads((VECTORS / "cases.json").read_text())
LEAVES = (VECTORS / "leaves.jsonl").read_bytes().splitlines()
KEYS: dict[str, str] = json.loads((VECTORS / "keys.json").read_text())


def read(leaves: Sequence[bytes]) -> Standing:
    entries = [
        LoggedEntry(index, hashlib.sha256(b"\x00" + leaf).digest(), parse_entry(leaf))
        for index, leaf in enumerate(leaves)
    ]
    return judge_acts(entries, CASES["origin"], len(entries))


def test_every_leaf_has_its_hash_and_every_act_its_standing() -> None:
    standing = read(LEAVES)

    judged = {one.logged.index: one for one in standing.judged}
    for case, leaf in zip(CASES["entries"], LEAVES, strict=True):
        one = judged.get(case["index"])
        assert hashlib.sha256(b"\x00" + leaf).hexdigest() == case["leaf_hash"]
        assert (None if one is None else one.fault or "counts") == case["standing"], case
        assert ("" if one is None or one.person is None else one.person.name) == case["by"], case
    assert [[index, book.sha256] for index, book in standing.books] == CASES["books"]


def test_what_follows_from_the_acts_is_what_it_was() -> None:
    standing = read(LEAVES)

    revocations = [
        {"index": one.index, "subject": one.subject, "lifted_by": None if end is None else end.logged.index}
        for one, end in all_revocations(standing)
    ]
    overrides = [
        {"index": one.index, "scope": one.override.scope, "state": one.state}
        for one in list_overrides(standing, instant(CASES["at"]))
    ]
    uses = [{"index": act.logged.index, "model": use.model} for use, act in declared_uses(standing)]
    assert (revocations, overrides, uses) == (CASES["revocations"], CASES["overrides"], CASES["declared_uses"])


def test_the_vectors_have_every_kind_and_every_fault() -> None:
    standing = read(LEAVES)

    assert {one.logged.entry.kind for one in standing.judged if one.counts} == set(DEFAULT_KINDS) == ACT_KINDS
    assert {one.fault for one in standing.refused} == {
        "malformed",
        "no_roles",
        "other_ledger",
        "other_roles",
        "role",
        "signature",
        "unknown_key",
        "unsigned",
    }
    states = {one["state"] for one in CASES["overrides"]}
    assert states == {"approved", "waiting", "self_approved", "expired", "withdrawn", "too_long"}


def test_tombstones_of_before_and_under_roles_say_the_same_words() -> None:
    old, new = (tombstone_from(parse_entry(LEAVES[index])) for index in (1, 30))

    assert (old.leaves, old.reason, old.scope) == (("12" * 32,), "ticket 6", "samples")
    assert (new.leaves, new.reason, new.run) == (("12" * 32, "13" * 32), "ticket 7", "34" * 32)


@pytest.mark.parametrize("case", [one for one in CASES["entries"] if one["standing"] == "counts"], ids=str)
def test_who_knows_only_the_specifications_verifies_each_signature(case: dict[str, Any]) -> None:
    """The format's page, RFC 8785 and DSSE, written out here: no code of ours but the data."""
    entry = json.loads(LEAVES[case["index"]])
    body = entry["body"]
    payload = rfc8785.dumps(
        {
            "kind": entry["kind"],
            "ledger": body["ledger"],
            "recorded_at": entry["recorded_at"],
            "roles_sha256": body["roles_sha256"],
            "said": body["said"],
            "subject": entry["subject"],
        }
    )
    kind = b"application/vnd.millcert.act.v1+json"
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    spki = base64.b64decode(KEYS[body["key_sha256"]], validate=True)
    key, signature = serialization.load_der_public_key(spki), base64.b64decode(body["signature"], validate=True)

    assert hashlib.sha256(spki).hexdigest() == body["key_sha256"]
    for data, is_sound in [(signed, True), (signed + b" ", False)]:
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, data)
            else:
                assert isinstance(key, ec.EllipticCurvePublicKey)
                key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
            verified = True
        except InvalidSignature:
            verified = False
        assert verified == is_sound


@pytest.mark.parametrize("index", [4, 13])
def test_an_act_with_any_one_byte_flipped_does_not_count(index: int) -> None:
    before = LEAVES[:4] if index == 4 else LEAVES[:5]
    for at in range(len(LEAVES[index])):
        flipped = bytearray(LEAVES[index])
        flipped[at] ^= 1
        try:
            standing = read([*before, bytes(flipped)])
        except LedgerError:
            continue
        assert not [one for one in standing.judged if one.logged.index == len(before) and one.counts], at
