"""A token that becomes tied to a label: what a planted trigger does, and what frequencies alone do not show.

For each token and label: how much of the token's rows carry the label, less what the reference leads one to expect. It
drifts if that reaches the limit and chance does not explain it; there are two nulls, and both must fail:
  1. The pair is as frequent as before. Given j of its rows in the reference and k now, k is binomial among j + k with
     the share of the current rows (the conditional test of two Poisson rates: Przyborowski and Wilenski, Biometrika 31
     (1940)), bounded by Chernoff's inequality: P(K >= k) <= exp(-(j + k) KL(k / (j + k), share)).
  2. The token has the label as often as before, whatever its own frequency: Hoeffding's inequality for two shares; only
     where the reference has 100 rows of the token. A rarer or new token is held against its few rows and one more that
     has the labels of all rows.
So a token that only becomes more frequent does not drift, and a new token does as soon as its rows carry one label far
more often than all rows do. A natural new topic does that, too: the finding names it, and people decide.
"""

import math
from typing import NamedTuple

import numpy as np

from millcert.checks.drift import LEAST_ROWS, Drift
from millcert.checks.prefix_table import KEY_BITS, at_level
from millcert.checks.sketch_tokens import TokenTable

_KEY = np.uint64((1 << KEY_BITS) - 1)


class TokenDrift(NamedTuple):
    """One token and label.

    token: the upper bits of its keyed hash, hex, and how many bits of the 44: "1c...:44". label: the label.
    drift: `reference_rows` and `current_rows` are the token's rows. reference_share, current_share: of them, how many
        carry the label; of a token that the reference lacks, how many of all rows do.
    """

    token: str
    label: str
    drift: Drift
    reference_share: float
    current_share: float


def token_drifts(
    reference: TokenTable,
    current: TokenTable,
    rows: tuple[dict[str, int], dict[str, int]],
    *,
    limit: float,
    tolerated: float,
    family_alpha: float,
    listed: int,
) -> tuple[list[TokenDrift], int]:
    """Return the drifting pairs, the strongest first (one pair that does not drift where none does), and their number.

    Args:
        reference: tokens of the reference, against its labels.
        current: the same of the current data, made with the same key.
        rows: how many rows each side has of each label, reference first.
        limit: from which shift of a token's label share on it matters.
        tolerated: up to which shift a true difference is natural.
        family_alpha: shared among all pairs of the current data.
        listed: how many are returned at most; all that drift are counted.
    """
    pairs = _pairs_of(reference, current, rows)
    if pairs is None:
        return [], 0
    alpha = family_alpha / len(pairs.now)
    value = pairs.now / pairs.token_now - pairs.expected
    # Where the value is below the limit the null needs no care: such a pair does not drift.
    near = np.argsort(-value, kind="stable")
    near = near[value[near] >= min(limit, float(value[near[0]]))]
    null = _null_quantile(pairs, near, tolerated, alpha)
    is_drift = (value[near] >= limit) & (value[near] > null)
    strength = value[near] / np.maximum(limit, null)
    order = np.lexsort((near, -strength, ~is_drift))
    count = int(is_drift.sum())
    shown = order[: min(listed, max(1, count))]
    return [pairs.shown(int(near[at]), float(value[near[at]]), limit, float(null[at])) for at in shown.tolist()], count


class _Pairs(NamedTuple):
    """All pairs of the current data, each (p,): rows of the pair before and now, of its token, and what is expected."""

    level: int
    labels: tuple[str, ...]
    keys: np.ndarray
    label_at: np.ndarray
    before: np.ndarray
    now: np.ndarray
    token_before: np.ndarray
    token_now: np.ndarray
    expected: np.ndarray
    share_now: float

    def shown(self, at: int, value: float, limit: float, null: float) -> TokenDrift:
        rows = int(self.token_before[at]), int(self.token_now[at])
        bits = KEY_BITS - self.level
        return TokenDrift(
            f"{int(self.keys[at]):0{(bits + 3) // 4}x}:{bits}",
            self.labels[int(self.label_at[at])],
            Drift("token_label", max(0.0, value), limit, null, *rows),
            float(self.before[at]) / rows[0] if rows[0] else float(self.expected[at]),
            float(self.now[at]) / rows[1],
        )


def _pairs_of(reference: TokenTable, current: TokenTable, rows: tuple[dict[str, int], dict[str, int]]) -> _Pairs | None:
    totals = [sum(side.values()) for side in rows]
    if not len(current.table.rows) or not all(totals):
        return None
    level = max(reference.table.level, current.table.level)
    old, new = at_level(reference.table, level), at_level(current.table, level)
    labels = current.labels
    # The reference's pairs under the current labels' numbers; a label that only it has has no current pair.
    place = {label: at for at, label in enumerate(labels)}
    number = np.array([place.get(label, -1) for label in reference.labels] or [-1], dtype=np.int64)[old.groups]
    known = number >= 0
    old_rows = (number[known].astype(np.uint64) << np.uint64(KEY_BITS)) | old.keys[known]
    order = np.argsort(old_rows)
    before = _looked_up(new.rows, old_rows[order], old.counts[known][order])
    token_now = _looked_up(new.keys, *_by_token(new.keys, new.counts))
    token_before = _looked_up(new.keys, *_by_token(old.keys, old.counts))
    overall = np.array([rows[0].get(label, 0) for label in labels], dtype=np.float64) / totals[0]
    expected = (before + overall[new.groups]) / (token_before + 1)
    share = totals[1] / sum(totals)
    now = new.counts
    return _Pairs(level, labels, new.keys, new.groups, before, now, token_before, token_now, expected, share)


def _by_token(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct keys, ascending, and their counts over all labels."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(inverse, weights=counts, minlength=len(distinct)).astype(np.int64)


def _looked_up(wanted: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the counts of wanted keys, 0 where one is not among the sorted `keys`."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, counts[at], 0)


def _null_quantile(pairs: _Pairs, some: np.ndarray, tolerated: float, alpha: float) -> np.ndarray:
    """Return what the value stays below while either null holds and the true shift is tolerated."""
    before, token_before, token_now = pairs.before[some], pairs.token_before[some], pairs.token_now[some]
    by_rate = _largest_count(before, pairs.share_now, alpha) / token_now - pairs.expected[some]
    hoeffding = np.sqrt(math.log(2 / alpha) / 2 * (1 / token_now + 1 / np.maximum(token_before, 1)))
    return tolerated + np.maximum(by_rate, np.where(token_before >= LEAST_ROWS, hoeffding, 0.0))


def _largest_count(before: np.ndarray, share: float, alpha: float) -> np.ndarray:
    """Return the largest k that chance explains at a level, given j before, by bisection on Chernoff's bound."""
    bound = math.log(1 / alpha)
    j = before.astype(np.float64)
    low = j * share / (1 - share)
    high = 2 * low + bound
    while (is_short := _chernoff(high, j, share) < bound).any():
        high = np.where(is_short, 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        is_explained = _chernoff(middle, j, share) < bound
        low, high = np.where(is_explained, middle, low), np.where(is_explained, high, middle)
    return np.floor(high)


def _chernoff(k: np.ndarray, j: np.ndarray, share: float) -> np.ndarray:
    """Return (j + k) KL(k / (j + k), share)."""
    total = k + j
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(k > 0, k * np.log(k / (total * share)), 0.0)
        second = np.where(j > 0, j * np.log(j / (total * (1 - share))), 0.0)
    return first + second
