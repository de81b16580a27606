"""What `label_noise` makes its out-of-fold probabilities from: an embedding, or numbers made of text or a table."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa

from millcert.checks import columns
from millcert.checks.fold_refinement import MAX_ROOTED_WIDTH, with_roots
from millcert.checks.fold_sums import sum_by_fold
from millcert.checks.moments import Moments
from millcert.checks.text_grams import gram_rows
from millcert.errors import InvalidSampleError

View: TypeAlias = Literal["embedding_external", "embedding_self", "pred_probs", "text", "features"]

VIEWS: tuple[str, ...] = get_args(View)
#: What the keys of sums begin with where rows have their roots.
ROOTS = "roots:"
#: Buckets of a text's words and pairs of words.
TEXT_WIDTH = 512
#: The sums of wider tables would not fit on a worker.
MAX_TABLE_WIDTH = 2048


def view_rows(batch: pa.RecordBatch, view: View, seed: int) -> np.ndarray:
    """Return what the models see, float32 (n, d), finite.

    Texts become hashed words and pairs of words (`gram_rows`, width 512). Table columns become asinh(x), which keeps
    signs and small numbers and turns large ones into their logarithm, so that one column in thousands and one in
    fractions fit into a row.

    Args:
        batch: with the view's column.
        view: any but "pred_probs".
        seed: of the hash of texts.

    Raises:
        MissingColumnError: there is no such column.
        InvalidSampleError: a value is null or not finite, or a table is wider than 2048.
    """
    if view == "text":
        return gram_rows(columns.strings(batch, "text").to_pylist(), width=TEXT_WIDTH, seed=seed)
    if view == "features":
        table = columns.features(batch)
        if table.shape[1] > MAX_TABLE_WIDTH:
            raise InvalidSampleError(
                f"label_noise takes at most {MAX_TABLE_WIDTH} table columns, got {table.shape[1]}.",
                hint="Make an embedding of them: millcert embed.",
                column="features",
            )
        return np.arcsinh(table).astype(np.float32)
    return columns.matrix(batch, view)


def sums_of(label: pa.StringArray, rows: np.ndarray, fold: np.ndarray, *, refine: int) -> dict[str, Moments]:
    """Return the sums of `sum_by_fold`; with roots, each key begins with `ROOTS`.

    Args:
        label: (n,).
        rows: float32 (n, d).
        fold: int64 (n,).
        refine: passes to come; with any, rows that are narrow enough get their signed roots.
    """
    if not refine or rows.shape[1] > MAX_ROOTED_WIDTH:
        return sum_by_fold(label, rows, fold)
    return {ROOTS + key: part for key, part in sum_by_fold(label, with_roots(rows), fold).items()}


def without_roots_mark(sums: Mapping[str, Moments]) -> tuple[dict[str, Moments], bool]:
    """Return the sums by the keys of `sum_by_fold`, and whether they are of rows with roots.

    Raises:
        InvalidSampleError: some are and some are not, so rows have different widths.
    """
    marked = {key.startswith(ROOTS) for key in sums}
    if len(marked) > 1:
        raise InvalidSampleError(
            "Embeddings have different widths.", hint="All samples must have embeddings of one width."
        )
    return {key.removeprefix(ROOTS): part for key, part in sums.items()}, marked == {True}
