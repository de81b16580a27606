"""Whose word counts in the ledger: signed, by somebody who has the role, under the roles that were in force."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from millcert.errors import IntegrityError, LedgerError, PolicyError, SignatureError, UsageError
from millcert.provenance.act import (
    PAYLOAD_TYPE,
    Act,
    act_entry,
    envelope_of,
    is_act,
    parse_act,
    read_signed,
    require_reason,
    sign_act,
    verify_act,
)
from millcert.provenance.dsse import pae, verify_envelope
from millcert.provenance.ledger import Entry, Ledger
from millcert.provenance.ledger_entry import parse_entry
from millcert.provenance.roles import Person, RoleBook, parse_book, role_faults
from millcert.provenance.standing import book_act, is_wanted, read_standing, require_book, said_of
from millcert.testing.role_people import OFFICE, key_of, office, public_key_of, record_roles, say
from millcert.testing.sample_runs import ORIGIN, signed_ledger

AT = "2026-11-23T03:00:00Z"
BOOK = office()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with signed_ledger(tmp_path) as opened:
        record_roles(opened, BOOK, by="bo", at=AT)
        yield opened


def act(kind: str = "revocation", book: RoleBook = BOOK, **changes: Any) -> Act:
    fields: dict[str, Any] = {"kind": kind, "subject": "source:x", "recorded_at": AT, "ledger": ORIGIN}
    return Act(**{**fields, "roles_sha256": book.sha256, "said": {"reason": "r"}, **changes})


def faults(ledger: Ledger) -> list[str]:
    return [one.fault for one in read_standing(ledger).judged if one.logged.entry.kind != "access_policy"]


def signed_by_hand(said: Act, name: str) -> Entry:
    """Return an act that somebody signed without our tools, which would have refused."""
    signature = key_of(name).sign(pae(PAYLOAD_TYPE, said.payload()))
    return act_entry(said, public_key_of(name).sha256, signature)


def test_an_act_of_somebody_with_the_role_counts(ledger: Ledger) -> None:
    index = say(ledger, act(), by="ana", book=BOOK)

    (judged,) = list(read_standing(ledger).counting("revocation"))
    assert (judged.logged.index, judged.person and judged.person.name, judged.counts) == (index, "ana", True)
    assert judged.book_sha256 == BOOK.sha256
    assert said_of(judged, {"reason": str}) == {"reason": "r"}
    with pytest.raises(IntegrityError):
        said_of(judged, {"other": str})


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (signed_by_hand(act(), "cy"), "role"),
        (signed_by_hand(act(), "ed"), "role"),
        (signed_by_hand(act("approval"), "ana"), "role"),
        (signed_by_hand(act(), "zoe"), "unknown_key"),
        (signed_by_hand(act(ledger="other.example/l"), "ana"), "other_ledger"),
        (signed_by_hand(act(roles_sha256="ab" * 32), "ana"), "other_roles"),
        (Entry("revocation", "source:x", AT, {"reason": "r"}), "unsigned"),
        (Entry("erasure", "ab" * 32, AT, {"run": "x"}), "unsigned"),
        (Entry("revocation", "source:x", AT, {"format": "millcert-act-1"}), "malformed"),
    ],
)
def test_what_nobody_with_the_role_signed_is_listed_and_has_no_effect(ledger: Ledger, entry: Entry, fault: str) -> None:
    ledger.append([entry])

    standing = read_standing(ledger)
    assert faults(ledger) == [fault]
    assert list(standing.counting(entry.kind)) == []
    assert [one.fault for one in standing.refused] == [fault]
    assert standing.refused[0].message


def test_each_single_changed_word_breaks_the_signature(ledger: Ledger) -> None:
    good = sign_act(act(), key_of("ana"), BOOK)
    other = {"kind": "withdrawal", "subject": "source:y", "recorded_at": "2026-11-23T03:00:01Z"}
    changed = [Entry(**{**vars(good), name: value}) for name, value in other.items()]
    changed.append(Entry(good.kind, good.subject, good.recorded_at, {**good.body, "said": {"reason": "s"}}))
    changed.append(Entry(good.kind, good.subject, good.recorded_at, {**good.body, "signature": "AAAA"}))
    ledger.append(changed)

    assert faults(ledger) == ["signature"] * 5


def test_an_act_verifies_as_a_dsse_envelope_for_tools_that_know_nothing_of_millcert() -> None:
    entry = sign_act(act(), key_of("ana"), BOOK)

    envelope = envelope_of(entry)

    assert verify_envelope(envelope, [key_of("ana").public_key()], payload_type=PAYLOAD_TYPE) == act().payload()
    assert read_signed(entry.leaf()) == entry


def test_the_same_words_signed_again_are_the_same_leaf(ledger: Ledger) -> None:
    assert say(ledger, act(), by="ana", book=BOOK) == say(ledger, act(), by="ana", book=BOOK)


@pytest.mark.parametrize(("kind", "by"), [("approval", "ana"), ("revocation", "cy"), ("revocation", "zoe")])
def test_who_may_not_say_it_is_told_before_anything_is_logged(kind: str, by: str) -> None:
    with pytest.raises(UsageError):
        sign_act(act(kind), key_of(by), BOOK)


def test_an_act_under_other_roles_than_the_signer_s_is_not_signed() -> None:
    with pytest.raises(UsageError, match="other roles"):
        sign_act(act(roles_sha256="00" * 32), key_of("ana"), BOOK)


def test_before_there_are_roles_nothing_counts(tmp_path: Path) -> None:
    with signed_ledger(tmp_path) as ledger:
        ledger.append([sign_act(act(), key_of("ana"), BOOK), Entry("erasure", "ab" * 32, AT, {"run": "x"})])

        assert faults(ledger) == ["no_roles"]
        assert read_standing(ledger).book is None


def test_an_old_act_keeps_its_standing_when_its_speaker_leaves(ledger: Ledger) -> None:
    say(ledger, act(), by="ana", book=BOOK)
    smaller = office({"bo": ("approver",)})
    record_roles(ledger, smaller, by="bo", at=AT)
    ledger.append([signed_by_hand(act(book=smaller, subject="source:later"), "ana")])
    ledger.append([signed_by_hand(act(subject="source:old-roles"), "ana")])

    assert faults(ledger) == ["", "unknown_key", "other_roles"]
    assert [book.sha256 for _, book in read_standing(ledger).books] == [BOOK.sha256, smaller.sha256]


@pytest.mark.parametrize(
    ("people", "by"),
    [
        ({**OFFICE, "zoe": ("approver",)}, "zoe"),
        ({**OFFICE, "ana": ("approver",)}, "ana"),
        ({"di": ("reviewer",), "bo": ("approver",)}, "di"),
    ],
    ids=["a stranger names himself", "a reviewer names herself", "an approver who goes"],
)
def test_roles_change_only_by_somebody_who_is_approver_before_and_after(
    ledger: Ledger, people: dict[str, tuple[str, ...]], by: str
) -> None:
    changed = office(people)
    change = book_act(changed, BOOK, ledger=ORIGIN, recorded_at=AT)
    ledger.append([signed_by_hand(change, by)])

    standing = read_standing(ledger)
    assert standing.book is not None
    assert standing.book.sha256 == BOOK.sha256
    assert [one.fault for one in standing.refused] == ["role"]


def test_a_second_beginning_of_the_roles_is_refused(ledger: Ledger) -> None:
    mine = office({"zoe": ("approver",)})
    ledger.append([signed_by_hand(book_act(mine, None, ledger=ORIGIN, recorded_at=AT), "zoe")])

    assert [one.fault for one in read_standing(ledger).refused] == ["other_roles"]


def test_a_book_that_breaks_its_own_rules_is_no_book(ledger: Ledger) -> None:
    document = BOOK.to_document()
    document["people"][0]["keys"] = document["people"][1]["keys"]
    change = act("access_policy", said={"book": document, "previous": BOOK.sha256})
    ledger.append([signed_by_hand(change, "bo")])

    assert [one.fault for one in read_standing(ledger).refused] == ["malformed"]


def test_a_gate_goes_on_only_with_its_own_policy_s_roles(ledger: Ledger, tmp_path: Path) -> None:
    standing = read_standing(ledger)
    require_book(standing, BOOK)
    require_book(standing, None)
    with pytest.raises(PolicyError, match="others"):
        require_book(standing, office({"bo": ("approver",)}))
    with pytest.raises(UsageError, match="in force already"):
        book_act(BOOK, standing.book, ledger=ORIGIN, recorded_at=AT)
    (tmp_path / "b").mkdir()
    with signed_ledger(tmp_path / "b") as empty, pytest.raises(PolicyError, match="has none in force"):
        require_book(read_standing(empty), BOOK)


def test_an_act_that_was_cut_out_of_the_database_is_missed(ledger: Ledger, tmp_path: Path) -> None:
    """`find` proves what it returns; who looks for revocations must know that none was hidden."""
    import sqlite3

    say(ledger, act(), by="ana", book=BOOK)
    ledger.append([Entry("verdict", "ab" * 32, AT, {})])
    for change in ("UPDATE entries SET kind = 'note' WHERE idx = 1", "DELETE FROM entries WHERE idx = 1"):
        with sqlite3.connect(tmp_path / "ledger.db") as edited:
            edited.execute("DROP TRIGGER IF EXISTS entries_no_update")
            edited.execute("DROP TRIGGER IF EXISTS entries_no_delete")
            edited.execute(change)
        edited.close()
        if "kind" in change:
            assert faults(ledger) == [""]
    with pytest.raises(LedgerError, match="newest checkpoint"):
        read_standing(ledger)


def test_a_look_at_the_bytes_misses_no_act() -> None:
    assert is_wanted(sign_act(act(), key_of("ana"), BOOK).leaf())
    assert is_wanted(Entry("erasure", "x", AT, {}).leaf())
    assert not is_wanted(Entry("verdict", "x", AT, {}).leaf())


@pytest.mark.parametrize(
    ("people", "options", "words"),
    [
        ({"ana": ("reviewer",)}, {}, "nobody is an approver"),
        ({"bo": ("approver", "king")}, {}, "'king' is no role"),
        ({"bo": ("approver",)}, {"kinds": {"approval": ("reviewer",)}}, "an approver's act"),
        ({"bo": ("approver",)}, {"kinds": {"reinstatement": ("approver", "auditor")}}, "an approver's act"),
        ({"bo": ("approver",)}, {"kinds": {"verdict": ("approver",)}}, "no kind of act"),
        ({"bo": ("approver",)}, {"kinds": {"revocation": ()}}, "expected some of"),
    ],
)
def test_a_book_that_lets_too_much_through_is_refused(
    people: dict[str, tuple[str, ...]], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(PolicyError, match=words):
        office(people, **options)


def test_nobody_is_two_people() -> None:
    twice = (Person("bo", (public_key_of("bo"),), ("approver",)), Person("rob", (public_key_of("bo"),), ("reviewer",)))
    with pytest.raises(PolicyError, match="nobody is two"):
        RoleBook(twice)
    namesakes = (
        Person("bo", (public_key_of("bo"),), ("approver",)),
        Person("bo", (public_key_of("ana"),), ("reviewer",)),
    )
    with pytest.raises(PolicyError, match="already"):
        RoleBook(namesakes)


def test_a_book_has_one_form_and_one_digest() -> None:
    people = list(BOOK.people)
    assert RoleBook(tuple(reversed(people))).sha256 == BOOK.sha256
    assert parse_book(BOOK.to_document()) == BOOK or parse_book(BOOK.to_document()).sha256 == BOOK.sha256
    document = BOOK.to_document()
    document["people"].reverse()
    with pytest.raises(IntegrityError, match="one form"):
        parse_book(document)
    for damage in (
        {**BOOK.to_document(), "people": [1]},
        {**BOOK.to_document(), "kinds": {"approval": "approver"}},
        {**BOOK.to_document(), "people": [{"identities": [1], "keys": [], "name": "x", "roles": []}]},
    ):
        with pytest.raises(IntegrityError):
            parse_book(damage)
    assert role_faults({}) == []


def test_an_act_read_from_elsewhere_is_held_to_its_form() -> None:
    good = sign_act(act(), key_of("ana"), BOOK)
    assert verify_act(good, public_key_of("ana"), ledger=ORIGIN) == act()
    with pytest.raises(SignatureError, match="for the ledger"):
        verify_act(good, public_key_of("ana"), ledger="x")
    with pytest.raises(SignatureError, match="does not verify"):
        verify_act(good, public_key_of("bo"), ledger=ORIGIN)
    for name, value in (("key_sha256", "x"), ("signature", "x"), ("format", "millcert-act-2")):
        with pytest.raises(IntegrityError):
            parse_act(Entry(good.kind, good.subject, good.recorded_at, {**good.body, name: value}))
    assert not is_act(Entry("verdict", "x", AT, good.body))
    with pytest.raises(LedgerError):
        read_signed(b"{}")
    assert parse_entry(rfc8785.dumps(parse_entry(good.leaf()).__dict__)) == good


@pytest.mark.parametrize("reason", ["", "x" * 501, "a\nb", "\u202e"])
def test_a_reason_is_words(reason: str) -> None:
    with pytest.raises(UsageError):
        require_reason(reason)
