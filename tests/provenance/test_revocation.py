"""What is revoked is refused, wherever it went, until an approver lifts it; and nobody is asked who does not know."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import (
    ConsistencyError,
    InconclusiveError,
    IntegrityError,
    LedgerError,
    RevokedError,
    RollbackError,
    SignatureError,
    StoreError,
    UsageError,
)
from millcert.provenance.certificate import Certificate, issue_certificate, verify_certificate
from millcert.provenance.clearance import clear_by_ledger, clear_by_list
from millcert.provenance.declared_use import DeclaredUse, declared_uses, use_act
from millcert.provenance.dsse import parse_envelope, sign_envelope
from millcert.provenance.ledger import Entry, Ledger
from millcert.provenance.ledger_reader import read_ledger
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.named_sample import forget_sample, name_sample, named_folder, named_samples
from millcert.provenance.revocation import (
    Facts,
    Revocation,
    active_revocations,
    all_revocations,
    facts_of,
    is_own,
    refuse_revoked,
    reinstatement_act,
    revocation_act,
    revocation_from,
    touches,
)
from millcert.provenance.revocation_list import PAYLOAD_TYPE, export_list, verify_list
from millcert.provenance.roles import RoleBook
from millcert.provenance.standing import read_standing
from millcert.provenance.state import StateFolder
from millcert.testing.role_people import office, record_roles, say
from millcert.testing.sample_runs import ORIGIN, signed_ledger

AT = "2026-11-23T03:00:00Z"
NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
BOOK = office()
GATE = Ed25519PrivateKey.from_private_bytes(b"g" * 32)
ABOUT = {"ledger": ORIGIN, "roles_sha256": BOOK.sha256, "recorded_at": AT}
SHA = hashlib.sha256(b"label\ncat\n").hexdigest()
SOURCE = {"name": "north", "identity": "data@north.example", "issuer": "https://issuer.example"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with signed_ledger(tmp_path) as opened:
        record_roles(opened, BOOK, by="bo", at=AT)
        yield opened


def certified(ledger: Ledger, verdict: dict[str, Any] | None = None, *, name: str = "pets") -> Certificate:
    said = {"decision": "admitted", "sources": [SOURCE], **(verdict or {})}
    data = issue_certificate(
        manifest=Manifest(name, (FileEntry("a.csv", 10, SHA),)),
        verdict=said,
        policy_digest="aa" * 32,
        trusted_root_digest=None,
        input_root="bb" * 32,
        code_version="0.1.0",
        time_verified=AT,
        key=GATE,
        ledger=ledger,
    )
    return verify_certificate(data, gate_keys=[GATE.public_key()], ledger_vkeys=ledger.vkeys)


def revoke(ledger: Ledger, revocation: Revocation, *, by: str = "ana") -> Revocation:
    index = say(ledger, revocation_act(revocation, **ABOUT), by=by, book=BOOK)
    return next(one for one in active_revocations(read_standing(ledger)) if one.index == index)


FACTS = Facts(
    sources=(("north", "data@north.example", "https://issuer.example"),),
    output_root="0c" * 32,
    input_root="bb" * 32,
    files=frozenset({SHA}),
    verified_at=AT,
    samples=frozenset({"5a" * 32}),
)


@pytest.mark.parametrize(
    ("revocation", "touched"),
    [
        (Revocation("source", "north", "r"), True),
        (Revocation("source", "south", "r"), False),
        (Revocation("signer", "data@north.example", "r"), True),
        (Revocation("signer", "data@north.example", "r", issuer="https://issuer.example"), True),
        (Revocation("signer", "data@north.example", "r", issuer="https://other.example"), False),
        (Revocation("signer", "north", "r"), False),
        (Revocation("file", SHA, "r"), True),
        (Revocation("file", "ff" * 32, "r"), False),
        (Revocation("file", "ff" * 32, "r", inputs=("bb" * 32,)), True),
        (Revocation("sample", "5a" * 32, "r"), True),
        (Revocation("sample", "5b" * 32, "r"), False),
        (Revocation("sample", "5b" * 32, "r", inputs=("ee" * 32, "bb" * 32)), True),
        (Revocation("dataset", "0c" * 32, "r"), True),
        (Revocation("dataset", "bb" * 32, "r"), False),
        (Revocation("source", "north", "r", since=AT), True),
        (Revocation("source", "north", "r", since="2026-11-23T03:00:00.5Z"), False),
    ],
)
def test_a_revocation_touches_what_it_names_and_nothing_else(revocation: Revocation, touched: bool) -> None:
    assert touches(revocation, FACTS) is touched


def test_where_it_cannot_be_told_a_revocation_touches() -> None:
    """Rule 2: a certificate whose verdict does not say its sources."""
    unknown = replace(FACTS, sources=None)
    assert touches(Revocation("source", "south", "r"), unknown)
    assert touches(Revocation("signer", "x", "r"), unknown)
    assert not touches(Revocation("file", "ff" * 32, "r"), unknown)


@pytest.mark.parametrize("sources", [None, "north", ["north"], [{"name": "north"}], [{**SOURCE, "issuer": 1}]])
def test_a_verdict_that_does_not_say_its_sources_soundly_does_not_say_them(ledger: Ledger, sources: object) -> None:
    assert facts_of(certified(ledger, {"sources": sources})).sources is None


def test_what_is_revoked_is_refused_until_an_approver_lifts_it(ledger: Ledger) -> None:
    certificate = certified(ledger)
    assert clear_by_ledger(certificate, ledger, now=NOW).revocations == 0

    found = revoke(ledger, Revocation("source", "north", "the signing key leaked, SEC-481"))
    with pytest.raises(RevokedError, match="SEC-481") as refused:
        clear_by_ledger(certificate, ledger, now=NOW)
    assert (refused.value.details["leaf"], refused.value.details["target"]) == (found.leaf, "source:north")

    lift = reinstatement_act(found, reason="another key", **ABOUT)
    with pytest.raises(UsageError):
        say(ledger, lift, by="ana", book=BOOK)
    say(ledger, lift, by="bo", book=BOOK)
    assert clear_by_ledger(certificate, ledger, now=NOW).revocations == 0
    ((_, end),) = all_revocations(read_standing(ledger))
    assert end is not None

    revoke(ledger, Revocation("source", "north", "and again"))
    with pytest.raises(RevokedError, match="and again"):
        clear_by_ledger(certificate, ledger, now=NOW)


def test_a_revocation_by_nobody_in_particular_has_no_effect(ledger: Ledger) -> None:
    certificate = certified(ledger)
    ledger.append([Entry("revocation", "source:north", AT, Revocation("source", "north", "r").said())])

    assert clear_by_ledger(certificate, ledger, now=NOW).revocations == 0


def test_a_revocation_that_no_reader_understands_refuses_everything(ledger: Ledger) -> None:
    certificate = certified(ledger)
    said = {**Revocation("source", "north", "r").said(), "more": 1}
    good = revocation_act(Revocation("source", "north", "r"), **ABOUT)
    say(ledger, replace(good, said=said), by="ana", book=BOOK)

    with pytest.raises(IntegrityError):
        clear_by_ledger(certificate, ledger, now=NOW)


@pytest.mark.parametrize("said", [{"value": ""}, {"inputs": [1]}, {"value": "south"}, {"reason": ""}])
def test_words_that_are_no_revocation_are_an_integrity_error(ledger: Ledger, said: dict[str, Any]) -> None:
    good = revocation_act(Revocation("source", "north", "r"), **ABOUT)
    say(ledger, replace(good, said={**good.said, **said}), by="ana", book=BOOK)

    with pytest.raises(IntegrityError):
        active_revocations(read_standing(ledger))


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "planet"},
        {"value": ""},
        {"value": "a\nb"},
        {"target": "file", "value": "north"},
        {"since": "yesterday"},
        {"inputs": ("x",)},
        {"inputs": ("ab" * 32,) * 701},
        {"reason": ""},
    ],
)
def test_a_revocation_of_nothing_in_particular_is_not_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Revocation(**{"target": "source", "value": "north", "reason": "r", **wrong})


def test_a_copy_of_the_ledger_that_is_too_old_clears_nothing(ledger: Ledger) -> None:
    certificate = certified(ledger)
    with pytest.raises(InconclusiveError) as refused:
        clear_by_ledger(certificate, ledger, now=NOW + timedelta(days=8))
    assert refused.value.details["reason"] == "stale"
    assert clear_by_ledger(certificate, ledger, now=NOW + timedelta(days=8), max_age=None).known_from == "ledger"


def test_a_ledger_that_lost_the_certificate_or_is_another_one_clears_nothing(ledger: Ledger, tmp_path: Path) -> None:
    certificate = certified(ledger)
    (tmp_path / "b").mkdir()
    with signed_ledger(tmp_path / "b") as other:
        record_roles(other, BOOK, by="bo", at=AT)
        with pytest.raises(RollbackError):
            clear_by_ledger(certificate, other, now=NOW)
        other.append([Entry("verdict", "x", AT, {})])
        with pytest.raises(ConsistencyError, match="not the one"):
            clear_by_ledger(certificate, other, now=NOW)
    elsewhere = replace(certificate, checkpoint=replace(certificate.checkpoint, origin="x.example"))
    with pytest.raises(LedgerError, match=r"the certificate's is x\.example"):
        clear_by_ledger(elsewhere, ledger, now=NOW)


def test_an_override_that_is_over_takes_its_certificate_with_it(ledger: Ledger) -> None:
    used = {"leaf": "ab" * 32, "expires_at": "2026-11-23T05:00:00Z"}
    certificate = certified(ledger, {"overrides": [used]})

    assert clear_by_ledger(certificate, ledger, now=NOW).overrides == ("ab" * 32,)
    with pytest.raises(RevokedError, match=r"ended at 2026-11-23T05:00:00Z"):
        clear_by_ledger(certificate, ledger, now=NOW + timedelta(hours=1))


@pytest.mark.parametrize("used", [1, ["x"], [{"leaf": "ab"}], [{"leaf": "ab", "expires_at": "never"}]])
def test_a_verdict_whose_overrides_cannot_be_read_is_not_cleared(ledger: Ledger, used: object) -> None:
    with pytest.raises(IntegrityError, match="overrides are malformed"):
        clear_by_ledger(certified(ledger, {"overrides": used}), ledger, now=NOW)


def test_a_list_says_what_the_ledger_says_while_it_counts(ledger: Ledger) -> None:
    certificate = certified(ledger)
    empty = export_list(ledger, GATE, now=NOW)
    revoke(ledger, Revocation("file", SHA, "poisoned", inputs=("bb" * 32,)))
    full = export_list(ledger, GATE, now=NOW)
    keys: dict[str, Any] = {"gate_keys": [GATE.public_key()], "ledger_vkeys": ledger.vkeys}

    known = verify_list(empty, **keys, now=NOW)
    assert clear_by_list(certificate, known, now=NOW).known_from == "list"
    with pytest.raises(RevokedError, match="poisoned"):
        clear_by_list(certificate, verify_list(full, **keys, now=NOW), now=NOW)
    assert verify_list(full, **keys, now=NOW).revocations == active_revocations(read_standing(ledger))
    for later, reason in ((timedelta(days=7), "expired"), (timedelta(minutes=-6), "not_yet")):
        with pytest.raises(InconclusiveError) as refused:
            verify_list(empty, **keys, now=NOW + later)
        assert refused.value.details["reason"] == reason
    stranger = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    with pytest.raises(SignatureError):
        verify_list(full, gate_keys=[stranger.public_key()], ledger_vkeys=ledger.vkeys, now=NOW)
    other = replace(known, checkpoint=replace(known.checkpoint, origin="x.example"))
    with pytest.raises(LedgerError, match="the certificate of"):
        clear_by_list(certificate, other, now=NOW)
    with pytest.raises(UsageError, match="10 days"):
        export_list(ledger, GATE, now=NOW, valid=timedelta(days=11))


def test_every_single_flipped_byte_of_a_list_is_refused(ledger: Ledger) -> None:
    revoke(ledger, Revocation("source", "north", "r"))
    data = export_list(ledger, GATE, now=NOW)

    for at in range(len(data)):
        if b"keyid" in data[max(0, at - 80) : at + 6]:
            continue  # a label that proves nothing
        with pytest.raises((IntegrityError, InconclusiveError)):
            verify_list(
                data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
                gate_keys=[GATE.public_key()],
                ledger_vkeys=ledger.vkeys,
                now=NOW,
            )


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"issued_at": "now"},
        {"revocations": [1]},
        {"withdrawn": [1]},
        {"expires_at": "2027-11-23T03:00:00Z"},
        {"revocations": [{**Revocation("source", "x", "r").said()}]},
    ],
)
def test_a_list_that_the_gate_signed_is_still_held_to_its_form(ledger: Ledger, change: dict[str, Any]) -> None:
    value = {**json.loads(parse_envelope(export_list(ledger, GATE, now=NOW)).payload), **change}
    data = sign_envelope(json.dumps(value).encode(), GATE, payload_type=PAYLOAD_TYPE).to_json()
    with pytest.raises((IntegrityError, InconclusiveError)):
        verify_list(data, gate_keys=[GATE.public_key()], ledger_vkeys=ledger.vkeys, now=NOW)
    with pytest.raises(IntegrityError):
        revocation_from({"inputs": []})


def test_the_reader_without_a_toolkit_sees_the_same_ledger(ledger: Ledger, tmp_path: Path) -> None:
    certificate = certified(ledger)
    revoke(ledger, Revocation("dataset", certificate.manifest.root, "r"))

    with read_ledger(tmp_path / "ledger.db", ledger.vkeys) as plain:
        assert plain.size == ledger.size
        assert plain.checkpoint() == ledger.checkpoint()
        assert plain.find(kind="certificate") == ledger.find(kind="certificate")
        assert plain.find(text="PETS") == ledger.find(text="PETS")
        assert plain.verify().root == ledger.verify().root
        assert read_standing(plain) == read_standing(ledger)
        with pytest.raises(RevokedError):
            clear_by_ledger(certificate, plain, now=NOW)
        with pytest.raises(UsageError, match="reading only"):
            plain.append([Entry("verdict", "x", AT, {})])
    with pytest.raises(UsageError, match="no ledger at"):
        read_ledger(tmp_path / "none.db", ledger.vkeys)
    (tmp_path / "bad.db").write_bytes(b"no database at all, but long enough to look at" * 50)
    with pytest.raises(LedgerError, match="damaged"):
        read_ledger(tmp_path / "bad.db", ledger.vkeys)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError):
        read_ledger(tmp_path / "folder.db", ledger.vkeys)


def test_a_model_s_declared_use_is_found_again(ledger: Ledger) -> None:
    certificate = certified(ledger)
    leaf = ledger.get(certificate.index).leaf_hash.hex()
    use = DeclaredUse("fraud-v9", "ab" * 32, leaf, "pets", certificate.manifest.root)
    say(ledger, use_act(use, **ABOUT), by="cy", book=BOOK)

    ((found, judged),) = declared_uses(read_standing(ledger))
    assert (found, judged.person and judged.person.name) == (use, "cy")
    for wrong in ({"model": ""}, {"model_sha256": "x"}):
        with pytest.raises(UsageError):
            replace(use, **wrong)
    bad = use_act(use, **ABOUT)
    say(ledger, replace(bad, said={**bad.said, "model": ""}), by="cy", book=BOOK)
    with pytest.raises(IntegrityError):
        declared_uses(read_standing(ledger))


def test_a_named_sample_is_kept_once_and_can_be_forgotten(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    assert named_samples(state) == {}

    name = name_sample(state, b"d" * 32)

    assert name_sample(state, b"d" * 32) == name != name_sample(state, b"e" * 32)
    assert named_samples(state)[name] == b"d" * 32
    assert (named_folder(state) / name).stat().st_mode & 0o077 == 0
    assert forget_sample(state, b"d" * 32) == (name,)
    assert name not in named_samples(state)
    (named_folder(state) / name).write_bytes(b"x" * 64)
    with pytest.raises(LedgerError, match="not the sample"):
        named_samples(state)
    with pytest.raises(UsageError):
        name_sample(state, b"short")


def test_one_refusal_names_the_first_revocation_and_counts_the_others() -> None:
    several = [Revocation("source", "north", "first", by="ana"), Revocation("file", SHA, "second")]
    with pytest.raises(RevokedError, match="and 1 more") as refused:
        refuse_revoked(several, FACTS, what="It")
    assert refused.value.details["count"] == 2
    refuse_revoked([], FACTS, what="It")


def test_nobody_lifts_the_revocation_of_what_he_signs_himself(tmp_path: Path) -> None:
    people = tuple(replace(one, identities=("bo@lab.example",)) if one.name == "bo" else one for one in office().people)
    book = RoleBook(people)
    about = {"ledger": ORIGIN, "roles_sha256": book.sha256, "recorded_at": AT}
    with signed_ledger(tmp_path) as ledger:
        record_roles(ledger, book, by="bo", at=AT)
        say(ledger, revocation_act(Revocation("signer", "bo@lab.example", "r"), **about), by="ana", book=book)
        (found,) = active_revocations(read_standing(ledger))
        say(ledger, reinstatement_act(found, reason="it is fine", **about), by="bo", book=book)
        assert active_revocations(read_standing(ledger)) == (found,)
        assert is_own(found, None)

        by_another = say(ledger, reinstatement_act(found, reason="key replaced", **about), by="di", book=book)

        ((_, end),) = all_revocations(read_standing(ledger))
        assert end is not None
        assert end.logged.index == by_another
