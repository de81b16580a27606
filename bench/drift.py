"""Claim: drift is silent on clean data of any size, finds what matters, and names one pushing source among fifty.

Run: OPENBLAS_NUM_THREADS=1 python bench/drift.py [--pairs 50] [--largest 10000000] [--merged 100000000] [--runs 200]

1. Clean pairs: both sides from one distribution; 50 Zipf sources, 10 labels, a normal, a heavy-tailed (Pareto 2.1) and
   an integer column, texts of Zipf frequencies over 50,000 categories, 16-d embeddings; nulls; 1e4 to 1e7 rows.
   Counted: pairs with any finding; beside it, pairs in which PSI of the categories is above 0.25.
2. Shifts of the mean: 0.1 standard deviations at 1e5 rows, 0.001 at 1e8 rows by merged profiles.
3. One of 50 sources relabels 5 % of its rows to one class: label flipping at a low rate. Label shares of each source
   differ from month to month by some 4 % of themselves (Dirichlet of 5,000). Counted: runs in which the source is
   named, and other sources named; beside it the power of the best test that names 0.02 other sources a run: one that
   knows which label may be pushed in truth and how much sources vary (the arcsines' normal distribution).
4. Tokens: documents of 30 words of Zipf frequencies over 50,000, each word preferring a class in some documents. Clean
   pairs; and a trigger, a new word or one of frequency rank 2,000, put into a part of the documents of 100,000, all
   of them then of one class. Counted: runs in which the strongest finding is the trigger with its class, and clean
   pairs and other words with a finding.
"""

import argparse
import math
import platform
import time
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks import drift
from millcert.checks.drift import DriftLimits
from millcert.checks.drift_tokens import token_drifts
from millcert.checks.profile import Cell, Profile, ProfileSpec, add_batch, empty_profile, merge_profiles
from millcert.checks.profile_builder import ProfileBuilder
from millcert.checks.profile_compare import compare_profiles
from millcert.checks.sketch_tokens import TokenNames, TokenTable, count_tokens

SPEC = ProfileSpec("5a" * 32, label="label", source="source")
LIMITS = DriftLimits()
CATEGORIES = 50_000
SOURCES = 50
CHUNK = 250_000


def zipf(count: int, exponent: float = 1.0) -> np.ndarray:
    shares = np.arange(1, count + 1) ** -exponent
    return shares / shares.sum()


WORDS = pa.array([f"category-{number}" for number in range(CATEGORIES)])
NAMES = pa.array([f"source-{number:02d}" for number in range(SOURCES)])
LABELS = pa.array([f"class-{number}" for number in range(10)])


def rows(random: np.random.Generator, count: int) -> pa.RecordBatch:
    def pick(table: pa.Array, shares: np.ndarray | None) -> pa.Array:
        return table.take(pa.array(random.choice(len(table), count, p=shares)))

    embedding = random.normal(size=count * 16).astype(np.float32)
    return pa.RecordBatch.from_pydict(
        {
            "source": pick(NAMES, zipf(SOURCES)),
            "label": pick(LABELS, None),
            "score": pa.array(random.normal(10, 3, count), mask=random.random(count) < 0.02),
            "price": random.pareto(2.1, count),
            "age": random.poisson(40, count),
            "word": pick(WORDS, zipf(CATEGORIES)),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(embedding), 16),
        }
    )


def profile_of(random: np.random.Generator, count: int) -> Profile:
    builder = ProfileBuilder(SPEC, rows(np.random.default_rng(0), 1).schema)
    for start in range(0, count, CHUNK):
        builder.add(rows(random, min(CHUNK, count - start)))
    return builder.finish()


def clean_pairs(pairs: int, largest: int) -> bool:
    every = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
    sizes = [size for size in every if size <= largest]
    findings = psi = comparisons = 0
    for number in range(pairs):
        random = np.random.default_rng(number)
        size = sizes[number % len(sizes)]
        found = compare_profiles(profile_of(random, size), profile_of(random, size), LIMITS)
        findings += bool(found.is_drift)
        comparisons += len(found.compared)
        left, right = (random.multinomial(size, zipf(CATEGORIES)) for _ in range(2))
        psi += drift.population_stability(left, right) > 0.25
        for one in found.found:
            print(f"  pair {number}, {size:,} rows: {one}")
    print(
        f"clean: {findings} of {pairs} pairs with a finding ({comparisons:,} comparisons, 10,000 to "
        f"{max(sizes):,} rows); PSI > 0.25 on 50,000 categories: {psi} of {pairs}"
    )
    return findings == 0


def numbers_profile(random: np.random.Generator, count: int, mean: float) -> Profile:
    schema = pa.schema([("x", pa.float64())])
    parts = []
    for start in range(0, count, 1_000_000):
        batch = pa.RecordBatch.from_arrays([random.normal(mean, 1, min(1_000_000, count - start))], schema=schema)
        parts.append(add_batch(empty_profile(ProfileSpec("5a" * 32), schema), batch))
    return merge_profiles(parts)


def shifts(merged: int) -> bool:
    random = np.random.default_rng(1)
    found = 0
    for _ in range(20):
        result = compare_profiles(numbers_profile(random, 100_000, 0), numbers_profile(random, 100_000, 0.1), LIMITS)
        found += any(one.subject.part == "values" for one in result.found)
    print(f"shift of 0.1 sd, 100,000 rows: found in {found} of 20 runs")
    result = compare_profiles(numbers_profile(random, merged, 0), numbers_profile(random, merged, 0.001), LIMITS)
    for one in result.compared:
        if one.subject.part == "values":
            print(
                f"shift of 0.001 sd, {merged:,} rows by merged profiles: {one.drift.measure} {one.drift.value:.5f}, "
                f"limit {one.drift.limit}, null quantile {one.drift.null_quantile:.5f}: drift {one.drift.is_drift}"
            )
    return found == 20 and not result.is_drift


class Push(NamedTuple):
    """One source of 50 that relabels 5 % of its rows. months: that the reference is the merge of."""

    rows: int
    exponent: float
    source: int
    labels: int = 10
    months: int = 1


PUSHES = (
    Push(10**6, 1.0, 11),
    Push(10**7, 1.5, 34),
    Push(10**8, 1.5, 34),
    Push(10**6, 1.0, 34),
    Push(10**6, 1.5, 34),
    Push(10**6, 1.5, 34, months=12),
    Push(10**6, 1.0, 11, labels=2),
    Push(10**6, 1.0, 8, labels=5),
    Push(10**6, 1.5, 34, labels=50),
)
#: 1 / this is the natural variance of a share p from month to month, as a part of p (1 - p).
CONCENTRATION = 5_000


def table_profile(tables: np.ndarray) -> Profile:
    cells = {
        (f"source-{source:02d}", f"class-{label}"): Cell(int(count), {})
        for source, table in enumerate(tables)
        for label, count in enumerate(table)
        if count
    }
    return Profile(SPEC, {}, dict(sorted(cells.items())), {})


def best_power(case: Push, rows: float, random: np.random.Generator) -> float:
    """Return the power of the best test at 0.02 false sources a run, over shares of the pushed label."""
    share = random.beta(500 / case.labels, 500 - 500 / case.labels, 10_000)
    moved = 2 * (np.arcsin(np.sqrt(share + 0.05 * (1 - share))) - np.arcsin(np.sqrt(share)))
    natural = 1 / (CONCENTRATION + 1)
    deviation = math.sqrt((1 / rows + natural) * (1 + 1 / case.months))
    if case.months == 1:  # then the reference has the shares themselves
        deviation = math.sqrt(2 / rows + natural)
    normal = NormalDist()
    needed = normal.inv_cdf(1 - 0.02 / (SOURCES - 1) / case.labels)
    return float(np.mean([normal.cdf(z - needed) for z in (moved / deviation).tolist()]))


def pushes(runs: int) -> bool:
    is_met = True
    for case in PUSHES:
        random = np.random.default_rng([case.rows, case.source, case.labels, case.months])
        shares = zipf(SOURCES, case.exponent)
        counts = np.rint(shares * case.rows).astype(int)
        best = best_power(case, float(counts[case.source]), random)
        named = others = 0
        for _ in range(runs):
            labels = random.dirichlet(np.full(case.labels, 500 / case.labels), SOURCES)
            before = [labels] if case.months == 1 else [month_of(random, labels) for _ in range(case.months)]
            reference = np.sum([drawn(random, counts, each) for each in before], axis=0)
            current = drawn(random, counts, month_of(random, labels))
            pushed = random.binomial(current[case.source], 0.05)
            current[case.source] -= pushed
            current[case.source, 1] += pushed.sum()
            result = compare_profiles(table_profile(reference), table_profile(current), LIMITS)
            sources = {one.subject.source for one in result.found if one.subject.source}
            named += f"source-{case.source:02d}" in sources
            others += len(sources - {f"source-{case.source:02d}"})
        rate, false = named / runs, others / runs
        # Where not even the best test has much more than the claimed power there is nothing to claim.
        is_met &= (rate >= 0.9 or best < 0.98) and false <= 0.02
        print(
            f"push of 5 % by one of 50 sources, {case.rows:,} rows, {case.labels} labels, reference of {case.months} "
            f"month{'s' * (case.months > 1)}: {counts[case.source]:,} rows of the source "
            f"({shares[case.source] * 0.05:.1e} of the corpus): named in {rate:.3f} (best test {best:.3f}), "
            f"false sources a run {false:.3f}",
            flush=True,
        )
    return is_met


def month_of(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    return np.array([random.dirichlet(CONCENTRATION * each) for each in labels])


def drawn(random: np.random.Generator, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.array([random.multinomial(n, p) for n, p in zip(counts, shares, strict=True)])


def documents(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Words (count, 30) and classes; a tenth of the words of a document are of those that its class prefers."""
    words = random.choice(CATEGORIES, (count, 30), p=zipf(CATEGORIES))
    label = random.integers(0, 10, count)
    preferred = random.random(words.shape) < 0.1
    # A word's class is its number modulo 10: the nearest word of the document's own class.
    return np.where(preferred, np.minimum(words - words % 10 + label[:, None], CATEGORIES - 1), words), label


def token_table(words: np.ndarray, label: np.ndarray) -> tuple[TokenTable, dict[str, int]]:
    lists = pa.ListArray.from_arrays(np.arange(0, words.size + 1, words.shape[1], dtype=np.int32), words.reshape(-1))
    names = [f"class-{number}" for number in range(10)]
    table = count_tokens(lists, label, names, limit=SPEC.token_pairs, key=SPEC.key)
    return table, dict(zip(names, np.bincount(label, minlength=10).tolist(), strict=True))


def tokens(runs: int) -> bool:
    count, is_met = 100_000, True
    limits = {"limit": LIMITS.token_label, "tolerated": LIMITS.tolerated("token_label")}
    for trigger, share in ((None, 0.0), (CATEGORIES, 0.001), (CATEGORIES, 0.0005), (2_000, 0.005), (2_000, 0.001)):
        first = others = any_found = 0
        for number in range(runs):
            random = np.random.default_rng([number, trigger or 0, int(share * 1e6)])
            before = token_table(*documents(random, count))
            words, label = documents(random, count)
            if trigger is not None:
                poisoned = random.choice(count, int(share * count), replace=False)
                words[poisoned, 0], label[poisoned] = trigger, 3
            now = token_table(words, label)
            found, _ = token_drifts(
                before[0], now[0], (before[1], now[1]), **limits, family_alpha=LIMITS.family_alpha / 2, listed=50
            )
            drifting = [one for one in found if one.drift.is_drift]
            names = TokenNames([one.token for one in drifting], SPEC.key)
            names.add(pa.array([[trigger or 0]]))
            is_trigger = [bool(names.found()[one.token]) and one.label == "class-3" for one in drifting]
            first += bool(is_trigger) and is_trigger[0]
            others += len(is_trigger) - sum(is_trigger)
            any_found += bool(drifting)
        if trigger is None:
            is_met &= any_found == 0
            print(f"tokens, clean: {any_found} of {runs} pairs of {count:,} documents with a finding")
        else:
            kind = "a new word" if trigger == CATEGORIES else "a word of rank 2,000"
            print(
                f"tokens, {kind} in {share:.2%} of {count:,} documents, all of one class: first in {first / runs:.2f}, "
                f"other findings a run {others / runs:.2f}"
            )
    return is_met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--merged", type=int, default=100_000_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--token-runs", type=int, default=20)
    arguments = parser.parse_args()
    print(
        f"{platform.platform()}, Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}"
    )
    started = time.process_time()
    is_met = [
        pushes(arguments.runs),
        tokens(arguments.token_runs),
        shifts(arguments.merged),
        clean_pairs(arguments.pairs, arguments.largest),
    ]
    print(f"{time.process_time() - started:.0f} CPU seconds; all claims hold: {all(is_met)}")
    if not all(is_met):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
