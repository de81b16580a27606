"""Mutants of everything that is verified: each is refused with an error of ours, or says the same as the good one."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import IntegrityError, InternalError, SignatureError, UsageError
from millcert.testing.sigstore_fuzz import Target, fuzz, read_documents, read_targets, targets
from millcert.testing.sigstore_mutants import mutants

READ = read_documents()
TARGETS = {target.name: target for target in targets()}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_mutant_leaks_an_exception_or_says_something_else(name: str) -> None:
    """docs/formats/trust.md lists what may differ; `python bench/fuzz_provenance.py` makes 100,000 mutants."""
    tally = fuzz(TARGETS[name], seed=7, count=250)
    assert tally.finds == []
    assert sum(tally.refused.values()) > 100


@pytest.mark.parametrize("target", list(read_targets(READ)), ids=list(READ))
def test_no_mutant_of_what_is_only_read_leaks_an_exception(target: Target) -> None:
    tally = fuzz(target, seed=7, count=250)
    assert tally.finds == []
    assert tally.same > 0
    assert sum(tally.refused.values()) > 40


@given(
    data=st.binary(max_size=400),
    head=st.sampled_from([b"", b"{", b"outs:", b"url\n", b"-----BEGIN CERTIFICATE-----\n"]),
)
def test_any_bytes_are_read_or_refused(data: bytes, head: bytes) -> None:
    documents = {
        "evidence": head + data,
        "list.csv": head + data,
        "list.jsonl": head + data,
        "list.parquet": head + data,
    }
    for target in read_targets(documents):
        with suppress(UsageError, IntegrityError):
            target.verify(target.document)


def test_the_same_seed_gives_the_same_mutants() -> None:
    data = TARGETS["manifest"].document
    assert list(mutants(data, seed=1, count=50)) == list(mutants(data, seed=1, count=50))
    assert list(mutants(data, seed=1, count=50)) != list(mutants(data, seed=2, count=50))


def test_a_leak_a_bug_and_a_wrong_answer_are_finds() -> None:
    """The fuzzer finds what it is for."""

    def verify(data: bytes) -> object:
        match (data or b"\x02")[0] % 4:
            case 0:
                raise ValueError("leaked")
            case 1:
                raise InternalError("bug")
            case 2:
                raise SignatureError("refused", reason="signature")
        return "something else"

    tally = fuzz(Target("all", b"\x03\x01\x02", verify, frozenset()), seed=1, count=300)
    assert {what.split(":")[0] for what, _ in tally.finds} == {"leaked ValueError", "a bug of ours", "accepted"}
    assert tally.refused["integrity.signature signature"] > 0
