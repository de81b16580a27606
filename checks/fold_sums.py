"""Out-of-fold models from one read: the sums of all folds less those of one fold train that fold's model.

Rows go to a fold by their digest, so exact duplicates share a fold and cannot vouch for each other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.class_columns import in_order
from millcert.checks.digest_sample import keyed
from millcert.checks.discriminant import Discriminant, Target
from millcert.checks.exact import quantise_rows
from millcert.checks.fold_refinement import FoldModel
from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError


@dataclass(frozen=True)
class OutOfFold:
    """One model for each fold, trained on all the others.

    classes: the columns of the probabilities.
    skipped: classes that are left out -> their samples.
    discriminants: one for each fold.
    """

    classes: tuple[str, ...]
    skipped: Mapping[str, int]
    discriminants: tuple[Discriminant, ...]


@dataclass(frozen=True)
class RefinableFolds:
    """As `OutOfFold`, with models that `millcert.checks.fold_refinement` moves."""

    classes: tuple[str, ...]
    skipped: Mapping[str, int]
    models: tuple[FoldModel, ...]


def fold_of(key: np.ndarray, folds: int, seed: int | None = None) -> np.ndarray:
    """Return the fold of each sample, int64 (n,): the first 8 bytes of its digest, hashed, modulo the number of folds.

    Args:
        key: uint64 (n,), the first 8 bytes of the sample digest, big-endian.
        folds: at least 2.
        seed: keys the hash, so that who does not know it cannot choose samples that share a fold; None for no hash.
    """
    hashed = key if seed is None else keyed(key, seed)
    return (hashed % np.uint64(folds)).astype(np.int64)


def sum_by_fold(label: pa.StringArray, embedding: np.ndarray, fold: np.ndarray) -> dict[str, Moments]:
    """Return the sums of each fold ("3": with products) and of each class in it ("3/cat": without).

    Args:
        label: (n,).
        embedding: float32 (n, d).
        fold: int64 (n,).
    """
    encoded = label.dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    whole, exponent = quantise_rows(embedding)
    width = embedding.shape[1]
    sums: dict[str, Moments] = {}
    for index in np.unique(fold).tolist():
        in_fold = np.flatnonzero(fold == index)
        sums[str(index)] = Moments.zero(width).add_rows(embedding[in_fold])
        for code in np.unique(codes[in_fold]).tolist():
            rows = in_fold[codes[in_fold] == code]
            without = Moments.zero(width, keeps_products=False)
            sums[f"{index}/{names[code]}"] = without.add_quantised(whole[rows], exponent[rows])
    return sums


def fit_folds(
    sums: Mapping[str, Moments],
    *,
    folds: int,
    classes: tuple[str, ...],
    skip_rare: bool,
    shrinkage: float | None,
    target: Target = "identity",
) -> OutOfFold:
    """Return the models of all folds.

    A class is rare where all its rows are in one fold: that fold's model cannot know it.

    Args:
        sums: of all the data, by the keys of `sum_by_fold`.
        folds: how many folds there are, rows in them or not.
        classes: the wanted order of columns, or empty for the labels in order; those without rows are left out.
        skip_rare: leave rare classes out, and do not raise.
        shrinkage: see `Discriminant.fit`.
        target: likewise.

    Raises:
        NotEnoughSamplesError: fewer than 2 classes are left, or a class is rare.
    """
    order, skipped, training = training_sums(sums, folds=folds, classes=classes, skip_rare=skip_rare)
    fit = partial(Discriminant.fit, columns=len(order), shrinkage=shrinkage, target=target)
    models = (fit(all_of, rest) for all_of, rest in training)
    return OutOfFold(order, skipped, tuple(models))


def fit_fold_models(
    sums: Mapping[str, Moments],
    *,
    folds: int,
    classes: tuple[str, ...],
    skip_rare: bool,
    shrinkage: float | None,
    has_roots: bool,
) -> RefinableFolds:
    """Return the models of all folds, ready for `millcert.checks.fold_refinement`.

    Args:
        sums: as in `fit_folds`.
        folds: see `fit_folds`, as classes, skip_rare, shrinkage.
        classes: likewise.
        skip_rare: likewise.
        shrinkage: likewise.
        has_roots: whether the sums are of `with_roots` of the rows.

    Raises:
        NotEnoughSamplesError: as `fit_folds`.
    """
    order, skipped, training = training_sums(sums, folds=folds, classes=classes, skip_rare=skip_rare)
    fit = partial(Discriminant.fit, columns=len(order), shrinkage=shrinkage, target="variances")
    models = []
    for everything, rest in training:
        rooted, pooled, parts = None, everything, rest
        if has_roots:
            rooted = fit(everything, rest)
            width = everything.dimension // 2
            pooled, parts = everything.first_columns(width), [part.first_columns(width) for part in rest]
        base = fit(pooled, parts)
        models.append(FoldModel.of(base, rooted, pooled))
    return RefinableFolds(order, skipped, tuple(models))


def second_opinion(
    models: OutOfFold, classes: tuple[str, ...], rows: np.ndarray, fold: np.ndarray, label: pa.StringArray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest class of each row, int64 (n,), a place in `classes`, and its probability, float64 (n,).

    The class is -1 where the models do not judge the row: its own class is too rare for them.

    Args:
        models: of another view.
        classes: among them all that the models know.
        rows: float32 (n, d).
        fold: int64 (n,).
        label: (n,).
    """
    place = np.array([classes.index(name) for name in models.classes], dtype=np.int64)
    likeliest, sure = np.full(len(rows), -1), np.zeros(len(rows))
    for index in np.unique(fold).tolist():
        own = np.flatnonzero(fold == index)
        probs = models.discriminants[index].probabilities(rows[own])
        top = probs.argmax(axis=1)
        likeliest[own], sure[own] = place[top], probs[np.arange(len(own)), top]
    is_rare = pc.is_in(label, value_set=pa.array(list(models.skipped), pa.string())).to_numpy(zero_copy_only=False)
    return np.where(is_rare, -1, likeliest), sure


def training_sums(
    sums: Mapping[str, Moments], *, folds: int, classes: tuple[str, ...], skip_rare: bool
) -> tuple[tuple[str, ...], dict[str, int], list[tuple[Moments, list[Moments]]]]:
    """Return the classes, the skipped ones with their samples, and for each fold the sums of all rows but its own.

    The latter are of all of these rows, and of each class: the classes, then the skipped ones. Arguments and errors as
    of `fit_folds`.
    """
    by_class: dict[str, dict[int, Moments]] = {}
    for key, part in sums.items():
        fold, is_of_class, label = key.partition("/")
        if is_of_class:
            by_class.setdefault(label, {})[int(fold)] = part
    rare = sorted(label for label, parts in by_class.items() if len(parts) == 1)
    if rare and not skip_rare:
        raise NotEnoughSamplesError(
            f"All samples of {len(rare)} classes fall into one of {folds} folds: {', '.join(map(repr, rare[:5]))}. "
            "No model can be trained for them.",
            hint="Merge or remove classes this small, give more folds, or set rare_classes to skip.",
            classes=tuple(rare),
        )
    judged = [label for label in by_class if label not in rare]
    order = tuple(label for label in classes if label in judged) if classes else in_order(judged)
    if len(order) < 2:
        raise NotEnoughSamplesError(
            f"Label noise needs 2 classes with samples in 2 folds, found {len(order)}.",
            hint="Check which column of the policy is the label.",
        )
    totals = {label: _sum_of(parts.values()) for label, parts in by_class.items()}
    pooled = {int(key): part for key, part in sums.items() if "/" not in key}
    everything = _sum_of(pooled.values())
    training = []
    for index in range(folds):
        rest = [_less(totals[label], by_class[label].get(index)) for label in (*order, *rare)]
        training.append((_less(everything, pooled.get(index)), rest))
    return order, {label: totals[label].count for label in rare}, training


def _sum_of(parts: Iterable[Moments]) -> Moments:
    first, *others = parts
    return first.merge(others)


def _less(total: Moments, part: Moments | None) -> Moments:
    return total if part is None else total.subtract(part)
