"""Tokens that become tied to a label: found where they are planted, silent where only chance moves them."""

import math

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.drift import DriftLimits
from millcert.checks.drift_tokens import TokenDrift, _largest_count, token_drifts
from millcert.checks.profile import Profile, ProfileSpec, add_batch, empty_profile, merge_profiles
from millcert.checks.profile_compare import compare_profiles
from millcert.checks.sketch_tokens import NO_TOKENS, TokenNames, TokenTable, count_tokens
from millcert.errors import UsageError

KEY = b"k" * 32
LABELS = ["cat", "dog", "fox"]
WORDS = np.array([f"w{number}" for number in range(2000)])


def rows(seed: int, count: int = 4000) -> tuple[list[list[str]], np.ndarray]:
    """Documents of ten words of Zipf frequencies; each word prefers a label."""
    random = np.random.default_rng(seed)
    shares = 1 / np.arange(1, len(WORDS) + 1)
    label = random.integers(0, 3, count)
    drawn = random.choice(len(WORDS), (count, 12), p=shares / shares.sum())
    # A word of the label's own third is twice as probable.
    keep = (drawn % 3 == label[:, None]) | (random.random(drawn.shape) < 0.5)
    return [WORDS[words[kept]].tolist() for words, kept in zip(drawn, keep, strict=True)], label


def table(documents: list[list[str]], label: np.ndarray, limit: int = 1 << 18) -> TokenTable:
    return count_tokens(pa.array(documents, pa.list_(pa.string())), label, LABELS, limit=limit, key=KEY)


def compare(
    one: tuple[list[list[str]], np.ndarray], other: tuple[list[list[str]], np.ndarray], limit: int = 1 << 18
) -> tuple[list[TokenDrift], int]:
    counts = [dict(zip(LABELS, np.bincount(side[1], minlength=3).tolist(), strict=True)) for side in (one, other)]
    return token_drifts(
        table(*one, limit),
        table(*other, limit),
        (counts[0], counts[1]),
        limit=0.1,
        tolerated=0.05,
        family_alpha=0.01,
        listed=10,
    )


def planted(seed: int, word: str, share: float) -> tuple[list[list[str]], np.ndarray]:
    documents, label = rows(seed)
    for at in np.random.default_rng(seed).choice(len(label), int(share * len(label)), replace=False).tolist():
        documents[at] = [*documents[at], word]
        label[at] = 2
    return documents, label


def named(found: list[TokenDrift], word: str) -> list[TokenDrift]:
    names = TokenNames([one.token for one in found], KEY)
    names.add(pa.array([[word]]))
    return [one for one in found if word in names.found()[one.token]]


@pytest.mark.parametrize("seed", range(4))
def test_two_draws_of_the_same_words_do_not_drift(seed: int) -> None:
    found, count = compare(rows(seed), rows(100 + seed))

    assert count == 0
    assert len(found) == 1
    assert not found[0].drift.is_drift


@pytest.mark.parametrize("word", ["cf", "w300"])
@pytest.mark.parametrize("limit", [1 << 18, 1500])
def test_a_planted_trigger_is_the_strongest_finding(word: str, limit: int) -> None:
    found, count = compare(rows(1), planted(2, word, 0.02), limit)

    assert count >= 1
    assert named(found[:1], word)
    assert (found[0].label, found[0].drift.is_drift) == ("fox", True)
    assert found[0].current_share > found[0].reference_share + 0.1


def test_a_token_that_only_becomes_more_frequent_does_not_drift() -> None:
    documents, label = rows(3)
    flooded = [[*words, "news"] if at % 3 == 0 else words for at, words in enumerate(documents)]
    before, before_label = rows(4)
    known = [[*words, "news"] if at % 30 == 0 else words for at, words in enumerate(before)]

    _, count = compare((known, before_label), (flooded, label))

    assert count == 0


def test_a_known_token_that_moves_to_another_label_drifts_though_it_stands_as_often() -> None:
    documents, label = rows(5)
    before, before_label = rows(6)
    one = [[*words, "moved"] if each == 0 else words for words, each in zip(before, before_label, strict=True)]
    other = [[*words, "moved"] if each == 1 else words for words, each in zip(documents, label, strict=True)]

    found, count = compare((one, before_label), (other, label))

    assert count == 1
    assert (found[0].label, found[0].reference_share, found[0].current_share) == ("dog", 0.0, 1.0)


def test_a_label_that_the_reference_lacks_has_its_tokens_too() -> None:
    one = count_tokens(pa.array(["a b"] * 500), np.zeros(500, dtype=np.int64), ["x"], limit=10, key=KEY)
    other = count_tokens(pa.array(["a b", "a"] * 250), np.tile([0, 1], 250), ["x", "y"], limit=10, key=KEY)

    found, count = token_drifts(
        one, other, ({"x": 500}, {"x": 250, "y": 250}), limit=0.1, tolerated=0.05, family_alpha=0.01, listed=5
    )

    assert count == 1
    assert (found[0].label, round(found[0].current_share, 3)) == ("y", 0.5)


def test_nothing_is_compared_with_nothing() -> None:
    some = table(*rows(1, 20))
    counts = {"cat": 20}

    assert token_drifts(some, NO_TOKENS, (counts, {}), limit=0.1, tolerated=0, family_alpha=0.01, listed=5) == ([], 0)
    assert token_drifts(NO_TOKENS, some, ({}, counts), limit=0.1, tolerated=0, family_alpha=0.01, listed=5) == ([], 0)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95])
@pytest.mark.parametrize("before", [0, 3, 200])
def test_the_largest_count_that_chance_explains_holds_its_level(share: float, before: int) -> None:
    """Null 1: P(K > k) of the binomial is below the level at which k was taken."""
    alpha = 1e-3
    largest = int(_largest_count(np.array([before]), share, alpha)[0])

    total = before + largest + 1
    tail = sum(
        math.exp(
            math.lgamma(total + 1)
            - math.lgamma(k + 1)
            - math.lgamma(total - k + 1)
            + k * math.log(share)
            + (total - k) * math.log(1 - share)
        )
        for k in range(largest + 1, total + 1)
    )
    assert tail <= alpha


@pytest.mark.parametrize("name", ["", "1f", "1f:", "xy:44", "1f:45", "1f:-1", "1f:4", ":"])
def test_what_is_no_name_of_a_token_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no token"):
        TokenNames([name], KEY)


def profile(seed: int, word: str = "") -> Profile:
    documents, label = planted(seed, word, 0.02) if word else rows(seed)
    batch = pa.RecordBatch.from_pydict(
        {
            "text": pa.array([" ".join(words) for words in documents]),
            "label": pa.array([LABELS[each] for each in label]),
        }
    )
    spec = ProfileSpec("5a" * 32, label="label", tokens=("text",))
    halves = [add_batch(empty_profile(spec, batch.schema), batch.slice(at, 2000)) for at in (0, 2000)]
    return merge_profiles(halves)


def test_profiles_name_the_token_and_share_the_family_with_the_other_comparisons() -> None:
    limits = DriftLimits()

    clean = compare_profiles(profile(1), profile(2), limits)
    found = compare_profiles(profile(1), profile(2, "cf"), limits)

    assert not clean.is_drift
    assert [one.subject.part for one in found.found] == ["tokens"]
    subject = found.found[0].subject
    assert (subject.source, subject.column, subject.detail.rpartition(" ")[2]) == ("", "text", "fox")
    assert found.found[0].drift.measure == "token_label"
    others = [one for one in found.compared if one.drift.measure not in ("token_label", "pushed_share")]
    assert found.alpha == limits.family_alpha / 3 / len(others)
