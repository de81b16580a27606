"""Better out-of-fold probabilities from a sample of rows: discriminants moved towards logistic regression.

Each step is a sum over rows in whole numbers, so their order has no say, and few numbers for each weight are held:

  1. The discriminant's logits are divided by a temperature, since rows are not normal and it is too sure (Guo et al.,
     "On calibration of modern neural networks", ICML 2017, section 4).
  2. Each step adds the gradient of multinomial logistic regression for each fold's training rows, at a few candidates.
     The step is the gradient by the fixed covariance of the rows and each class's mean curvature p (1 - p): one Newton
     step with the Hessian's factors averaged apart (as in Martens and Grosse, "Optimizing neural networks with
     Kronecker-factored approximate curvature", ICML 2015). Boehning's bound (1992), 1/2 in place of the curvature,
     always climbs, but takes some ten times as many steps.
  3. The last one also offers a pool with a discriminant that sees the signed roots of the columns, too (linear opinion
     pool; Wolpert, "Stacked generalization", 1992).

Which candidate a fold's model takes is decided by the likelihood of the given labels on the rows of the other folds,
each under the model that was not trained on it; to stay put is always a candidate, so a step that only fits the
training rows is not taken. No label that is known to be clean has a part in it.

Labels are wrong here and there, which is what the models are for. So likelihoods and gradients are those of a mixture
with random labels, under which a label that a model is sure is wrong hardly counts (Bootkrajang, Kaban, "Label-noise
robust logistic regression and its applications", ECML 2012); how many random ones there are is chosen by likelihood,
too. And no candidate is taken under which fewer rows agree with their label: the number of wrong answers is a loss that
random flips do not bend (Ghosh, Kumar, Sastry, "Robust loss functions under label noise for deep neural networks", AAAI
2017).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from millcert.checks.discriminant import Discriminant, softmax, spread_of_columns
from millcert.checks.exact import ExactMatrix, ExactSum, quantise_rows
from millcert.checks.label_quality import self_confidence
from millcert.checks.moments import Moments

#: What logits are divided by: equal steps of their logarithm.
TEMPERATURES = (1.0, 2**0.5, 2.0, 2**1.5, 4.0)
#: Parts of a step; no step first, so that it wins where likelihoods are equal.
STEPS = (0.0, 0.25, 0.5, 1.0)
#: The weight of the discriminant with roots in the pool.
POOLED = (0.0, 0.5, 1.0)
#: Wider embeddings are not given roots: the products of twice the columns take four times the memory.
MAX_ROOTED_WIDTH = 256
#: With more columns, or more weights, only the temperature is chosen: gradients of all folds would not fit.
MAX_REFINED_WIDTH = 1024
MAX_REFINED_WEIGHTS = 2**17
#: Residuals and curvatures are whole multiples of 2**-14, so 2**31 rows of 18 bits sum below 2**63.
_RESIDUAL_BITS = 14
#: Log-likelihoods are whole multiples of 2**-20.
_LIKELIHOOD_BITS = 20
#: The part of labels that are random ones, as gradients take it: a label that a model is sure is wrong hardly counts.
#: Our choice: benchmarks have 3 % on average (Northcutt, Athalye, Mueller, 2021), crowds up to some 20 %.
NOISE_FLOOR = 0.1
#: The parts that likelihoods are asked for; the likeliest of them is taken, with the candidate. With none of them the
#: wrong labels, each worth as much as hundreds of right ones, choose the temperature and the steps.
RANDOM_SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)
_PRODUCT_ROWS = 2**12
#: Probabilities of one candidate held at a time.
_MAX_PROBABILITIES = 2**19


@dataclass(frozen=True, eq=False)
class FoldModel:
    """The class probabilities of one fold, and what its next step needs.

    base: the discriminant of the given columns, which centres rows.
    weights: float64 (d, K), offset: float64 (K,): logits of a centred row, as refined so far.
    direction, offset_direction: of the next step, shaped as they; None where there is none.
    metric: float64 (d, d), the shrunk covariance of all training rows; None where no gradient is taken.
    rows: how many it was trained on.
    rooted: the discriminant with roots; None without.
    temperature: of `rooted`.
    pooled: the weight of `rooted` in the pool, in [0, 1].
    linear: the exact form of `weights`.
    """

    base: Discriminant
    weights: np.ndarray
    offset: np.ndarray
    metric: np.ndarray | None
    rows: int
    rooted: Discriminant | None
    direction: np.ndarray | None = None
    offset_direction: np.ndarray | None = None
    temperature: float = 1.0
    pooled: float = 0.0
    linear: ExactMatrix | None = None

    @classmethod
    def of(cls, base: Discriminant, rooted: Discriminant | None, training: Moments) -> "FoldModel":
        """Return the model that starts from discriminants.

        Args:
            base: of the given columns.
            rooted: of `with_roots` of them, or None.
            training: the moments that `base` was fitted to.
        """
        width, classes = base.weights.whole.shape
        metric = None
        if width <= MAX_REFINED_WIDTH and width * classes <= MAX_REFINED_WEIGHTS:
            covariance = training.covariance()
            metric = (1 - base.shrinkage) * covariance
            metric[np.diag_indices(width)] += base.shrinkage * spread_of_columns(covariance)
        weights = base.weights.whole * base.weights.scale
        return cls(base, weights, base.offset, metric, training.count, rooted)

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Return class probabilities, float64 (n, K), rows sum to 1; the same bits for a row in any batch.

        Args:
            rows: float32 (n, d), finite, without roots.
        """
        linear = self.linear or ExactMatrix.of(self.weights)
        plain = softmax(linear.apply(rows.astype(np.float64) - self.base.centre) + self.offset)
        if self.rooted is None or not self.pooled:
            return plain
        pooled: np.ndarray = (1 - self.pooled) * plain + self.pooled * self._rooted(rows, self.temperature)
        return pooled

    def _rooted(self, rows: np.ndarray, temperature: float) -> np.ndarray:
        if self.rooted is None:
            return np.zeros((len(rows), len(self.offset)))
        return softmax(self.rooted.logits(with_roots(rows)) / temperature)

    def candidates(self, *, is_first: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weights and offsets to choose from: temperatures at first, then parts of the step."""
        if is_first:
            return [(self.weights / value, self.offset / value) for value in TEMPERATURES]
        if self.direction is None or self.offset_direction is None:
            return [(self.weights, self.offset)]
        return [(self.weights + part * self.direction, self.offset + part * self.offset_direction) for part in STEPS]


@dataclass(frozen=True, eq=False)
class RefineSums:
    """What one pass adds up for one fold's model, in whole numbers; merges in any order.

    likelihood: int64 (C, S), of the fold's own rows under each candidate and part of random labels. agreeing: int64
        (C,), how many of them have the given label as the likeliest. rooted: int64 (T, S), as the first, of `rooted` by
        temperature; empty without one.
    gradient: exponent of rows -> int64 (d, C K), of the other folds' rows; empty where no gradient is taken.
    residual, curvature: int64 (C K,), of the other folds' rows.

    Size: 8 x d x C x K bytes for each of 1 to 3 exponents.
    """

    likelihood: np.ndarray
    agreeing: np.ndarray
    rooted: np.ndarray
    gradient: Mapping[int, np.ndarray]
    residual: np.ndarray
    curvature: np.ndarray

    def merge(self, others: Iterable["RefineSums"]) -> "RefineSums":
        """Return the sums of the rows of this and the others."""
        parts = [self, *others]
        gradient = {key: value.copy() for key, value in self.gradient.items()}
        for part in parts[1:]:
            for key, value in part.gradient.items():
                gradient[key] = gradient[key] + value if key in gradient else value
        return RefineSums(
            sum_of([part.likelihood for part in parts]),
            sum_of([part.agreeing for part in parts]),
            sum_of([part.rooted for part in parts]),
            gradient,
            sum_of([part.residual for part in parts]),
            sum_of([part.curvature for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class ChoiceSums:
    """What the last read adds up for one fold: its own rows under each last candidate.

    likelihood, agreeing: as in `RefineSums`.
    confidence: of width C x K, the sums of p(given label) by candidate and class.
    samples: int64 (K,).
    """

    likelihood: np.ndarray
    agreeing: np.ndarray
    confidence: ExactSum
    samples: np.ndarray

    def merge(self, others: Iterable["ChoiceSums"]) -> "ChoiceSums":
        """Return the sums of the rows of this and the others."""
        parts = [self, *others]
        confidence = self.confidence.merge(part.confidence for part in parts[1:])
        likelihood, agreeing = (sum_of([part[at] for part in map(_counts, parts)]) for at in range(2))
        return ChoiceSums(likelihood, agreeing, confidence, sum_of([part.samples for part in parts]))


def sum_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum of arrays of whole numbers, at least one."""
    return np.asarray(np.sum(parts, axis=0), dtype=np.int64)


def with_roots(rows: np.ndarray) -> np.ndarray:
    """Return rows and their signed roots, float32 (n, 2 d): sign(x) sqrt(|x| m) for the row's largest magnitude m.

    Args:
        rows: float32 (n, d), finite.

    The unit of the roots is that of the columns, so nothing depends on the scale of the embedding, and the exponent of
    a quantised row stays the same, so the sums of the first d columns are those of the rows alone.
    """
    size = np.abs(rows)
    largest = size.max(axis=1, keepdims=True, initial=0.0)
    share = np.divide(size, largest, out=np.zeros_like(size), where=largest > 0)
    return np.concatenate([rows, np.copysign(np.sqrt(share) * largest, rows)], axis=1)


def refined(
    models: Sequence[FoldModel], label: np.ndarray, rows: np.ndarray, fold: np.ndarray, *, steps: int
) -> tuple[tuple[FoldModel, ...], np.ndarray]:
    """Return the models that score, and each class's mean out-of-fold p(given label), float64 (K,).

    A class without rows has the mean of all rows.

    Args:
        models: one for each fold.
        label: int64 (n,), columns of the probabilities.
        rows: float32 (n, d), finite.
        fold: int64 (n,).
        steps: how many the models take.
    """
    classes = len(models[0].offset)
    step = max(1, _MAX_PROBABILITIES // classes)
    slices = [slice(start, start + step) for start in range(0, max(1, len(label)), step)]
    moved = tuple(models)
    for number in range(steps):
        parts = [refine_sums(moved, label[at], rows[at], fold[at], is_first=number == 0) for at in slices]
        sums = {key: parts[0][key].merge(part[key] for part in parts[1:]) for key in parts[0]}
        moved = refine(moved, sums, is_first=number == 0)
    found: dict[str, list[ChoiceSums]] = {}
    for at in slices:
        for key, part in choice_sums(moved, label[at], rows[at], fold[at]).items():
            found.setdefault(key, []).append(part)
    settled, samples, confidence = settle(moved, {key: parts[0].merge(parts[1:]) for key, parts in found.items()})
    everything = float(confidence.sum()) / max(1, int(samples.sum()))
    return settled, np.where(samples > 0, confidence / np.maximum(samples, 1), everything)


def refine_sums(
    models: Sequence[FoldModel], label: np.ndarray, rows: np.ndarray, fold: np.ndarray, *, is_first: bool
) -> dict[str, RefineSums]:
    """Return the sums of samples for each fold's model, by fold.

    Args:
        models: one for each fold.
        label: int64 (n,), columns of the probabilities.
        rows: float32 (n, d), finite.
        fold: int64 (n,).
        is_first: whether temperatures are the candidates.

    Cost: folds x candidates x d x K multiplications and as many exponentials less d for a row.
    """
    sums = {}
    for index, model in enumerate(models):
        candidates = model.candidates(is_first=is_first)
        own, others = np.flatnonzero(fold == index), np.flatnonzero(fold != index)
        matrix = ExactMatrix.of(np.concatenate([weights for weights, _ in candidates], axis=1))
        offset = np.concatenate([value for _, value in candidates])
        centred = rows[own].astype(np.float64) - model.base.centre
        probs = _probabilities(matrix.apply(centred) + offset, len(candidates))
        likelihood = np.array([_likelihood(label[own], part) for part in probs], dtype=np.int64)
        agreeing = np.array([_agreeing(label[own], part) for part in probs], dtype=np.int64)
        size = len(TEMPERATURES) if is_first and model.rooted is not None else 0
        rooted = np.zeros((size, len(RANDOM_SHARES)), dtype=np.int64)
        if is_first and model.rooted is not None:
            logits = model.rooted.logits(with_roots(rows[own]))
            rooted[:] = [_likelihood(label[own], softmax(logits / value)) for value in TEMPERATURES]
        part = RefineSums(likelihood, agreeing, rooted, {}, *np.zeros((2, len(offset)), dtype=np.int64))
        for start in range(0, len(others) if model.metric is not None else 0, _PRODUCT_ROWS):
            chosen = others[start : start + _PRODUCT_ROWS]
            part = part.merge([_gradient(model, matrix, offset, label[chosen], rows[chosen], part)])
        sums[str(index)] = part
    return sums


def refine(models: Sequence[FoldModel], sums: Mapping[str, RefineSums], *, is_first: bool) -> tuple[FoldModel, ...]:
    """Return the models at their best candidates, with the direction of the next step.

    Args:
        models: as in the pass.
        sums: of all samples.
        is_first: as in the pass.
    """
    parts = [sums[str(index)] for index in range(len(models))]
    chosen = choose([part.likelihood for part in parts], [part.agreeing for part in parts])
    warmth = choose([part.rooted for part in parts], [np.zeros(len(part.rooted), dtype=np.int64) for part in parts])
    return tuple(
        _moved(model, sums[str(index)], chosen[index], warmth[index], is_first=is_first)
        for index, model in enumerate(models)
    )


def choice_sums(
    models: Sequence[FoldModel], label: np.ndarray, rows: np.ndarray, fold: np.ndarray
) -> dict[str, ChoiceSums]:
    """Return what `settle` needs, by fold; arguments as in `refine_sums`."""
    sums = {}
    for index in np.unique(fold).tolist():
        own, model = np.flatnonzero(fold == index), models[index]
        given, classes = label[own], len(models[index].offset)
        last = last_candidates(model)
        likelihood = np.zeros((len(last), len(RANDOM_SHARES)), dtype=np.int64)
        agreeing = np.zeros(len(last), dtype=np.int64)
        confidence = ExactSum.zero(len(last) * classes)
        for place, candidate in enumerate(last):
            probs = candidate.probabilities(rows[own])
            likelihood[place], agreeing[place] = _likelihood(given, probs), _agreeing(given, probs)
            confidence = confidence.add_at(given + place * classes, self_confidence(given, probs))
        samples = np.bincount(given, minlength=classes).astype(np.int64)
        sums[str(index)] = ChoiceSums(likelihood, agreeing, confidence, samples)
    return sums


def settle(
    models: Sequence[FoldModel], sums: Mapping[str, ChoiceSums]
) -> tuple[tuple[FoldModel, ...], np.ndarray, np.ndarray]:
    """Return the models that score, the samples of each class, int64 (K,), and their sums of p(given), float64 (K,).

    Args:
        models: as in the pass.
        sums: of all samples; a fold without any has no sums.
    """
    classes, size = len(models[0].offset), len(last_candidates(models[0]))
    none = np.zeros((size, len(RANDOM_SHARES)), np.int64)
    nothing = ChoiceSums(none, none[:, 0], ExactSum.zero(size * classes), np.zeros(classes, np.int64))
    parts = [sums.get(str(index), nothing) for index in range(len(models))]
    chosen = choose([part.likelihood for part in parts], [part.agreeing for part in parts])
    settled = [last_candidates(model)[place] for model, place in zip(models, chosen, strict=True)]
    confidence = np.zeros(classes)
    for part, place in zip(parts, chosen, strict=True):
        confidence += part.confidence.value()[place * classes : (place + 1) * classes]
    return tuple(settled), sum_of([part.samples for part in parts]), confidence


def last_candidates(model: FoldModel) -> list[FoldModel]:
    """Return the models to choose from in the end: parts of the last step, each alone and in the pool."""
    done = replace(model, metric=None, direction=None, offset_direction=None)
    last = []
    for weights, offset in model.candidates(is_first=False):
        linear = ExactMatrix.of(weights)
        shares = POOLED if model.rooted is not None else POOLED[:1]
        last += [replace(done, weights=weights, offset=offset, linear=linear, pooled=share) for share in shares]
    return last


def choose(likelihood: Sequence[np.ndarray], agreeing: Sequence[np.ndarray]) -> list[int]:
    """Return for each fold the candidate that is likeliest on the other folds' rows, the first of equals.

    The first candidate stays put. One under which fewer of these rows agree with their label is not taken, however
    likely: the number of wrong answers is a loss that label noise does not bend, and likelihood is none.

    Args:
        likelihood: for each fold int64 (C, S), of its own rows, which its model was not trained on, by part of random
            labels; a candidate is as likely as under its likeliest part.
        agreeing: for each fold int64 (C,), how many of these agree with their label.
    """
    if not len(likelihood[0]):
        return [0] * len(likelihood)
    total, agreed = sum_of(list(likelihood)), sum_of(list(agreeing))
    chosen = []
    for own, own_agreed in zip(likelihood, agreeing, strict=True):
        left = agreed - own_agreed
        allowed = np.flatnonzero(left >= left[0])
        chosen.append(int(allowed[(total - own)[allowed].max(axis=1).argmax()]))
    return chosen


def label_weights(label: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return how far each label is believed, float64 (n,), in [0, 1]: the chance that it is no random one."""
    believed = (1 - NOISE_FLOOR) * self_confidence(label, probs)
    weights: np.ndarray = believed / (believed + NOISE_FLOOR / probs.shape[1])
    return weights


def _probabilities(logits: np.ndarray, candidates: int) -> list[np.ndarray]:
    return [softmax(part) for part in np.split(logits, candidates, axis=1)]


def _likelihood(label: np.ndarray, probs: np.ndarray) -> np.ndarray:
    given = self_confidence(label, probs)[:, None]
    shares = np.array(RANDOM_SHARES)
    logs = np.log((1 - shares) * given + shares / probs.shape[1])
    return np.rint(logs * 2.0**_LIKELIHOOD_BITS).astype(np.int64).sum(axis=0)


def _agreeing(label: np.ndarray, probs: np.ndarray) -> int:
    return int((probs.argmax(axis=1) == label).sum())


def _counts(part: ChoiceSums) -> tuple[np.ndarray, np.ndarray]:
    return part.likelihood, part.agreeing


def _gradient(
    model: FoldModel, matrix: ExactMatrix, offset: np.ndarray, label: np.ndarray, rows: np.ndarray, like: RefineSums
) -> RefineSums:
    whole, exponent = quantise_rows(rows.astype(np.float64) - model.base.centre)
    probs = _probabilities(matrix.apply_quantised(whole, exponent) + offset, len(like.likelihood))
    table = np.concatenate(probs, axis=1)
    curvature = np.rint(table * (1 - table) * 2.0**_RESIDUAL_BITS).astype(np.int64).sum(axis=0)
    for place, part in enumerate(probs):
        table[np.arange(len(label)), label + place * len(model.offset)] -= 1
        block = slice(place * len(model.offset), (place + 1) * len(model.offset))
        table[:, block] *= label_weights(label, part)[:, None]
    residual = np.rint(-table * 2.0**_RESIDUAL_BITS)
    gradient = {
        int(value): (whole[exponent == value].T @ residual[exponent == value]).astype(np.int64)
        for value in np.unique(exponent)
    }
    zero = np.zeros_like(like.likelihood), np.zeros_like(like.agreeing), np.zeros_like(like.rooted)
    return RefineSums(*zero, gradient, residual.astype(np.int64).sum(axis=0), curvature)


def _moved(model: FoldModel, sums: RefineSums, chosen: int, warmth: int, *, is_first: bool) -> FoldModel:
    weights, offset = model.candidates(is_first=is_first)[chosen]
    temperature = TEMPERATURES[warmth] if is_first else model.temperature
    moved = replace(model, weights=weights, offset=offset, temperature=temperature)
    if model.metric is None:
        return moved
    classes = len(offset)
    part = slice(chosen * classes, (chosen + 1) * classes)
    gradient = np.zeros_like(weights)
    for exponent in sorted(sums.gradient):
        gradient += sums.gradient[exponent][:, part].astype(np.float64) * 2.0**exponent
    # Both sums are in the unit of a residual, and so is a curvature of one sample: units and the number of rows cancel.
    curvature = np.maximum(sums.curvature[part].astype(np.float64), 1.0)
    direction = np.linalg.solve(model.metric, gradient) / curvature
    return replace(moved, direction=direction, offset_direction=sums.residual[part] / curvature)
