"""The columns of an embedding in which a direction lies: what decided, where columns have no names of their own."""

import numpy as np

from millcert.checks.base import MAX_TOP_FEATURES


def top_columns(role: str, direction: np.ndarray) -> tuple[tuple[str, float], ...]:
    """Return the columns with most of a direction, strongest first, each with its share of the squared length.

    Args:
        role: whose columns they are, such as "embedding_self".
        direction: float (d,), in the embedding's own columns; one of zeros has no columns.
    """
    square = np.square(np.asarray(direction, dtype=np.float64))
    total = float(square.sum())
    if not total:
        return ()
    order = np.lexsort((np.arange(len(square)), -square))[:MAX_TOP_FEATURES]
    return tuple((f"{role} column {place}", float(square[place] / total)) for place in order.tolist() if square[place])
