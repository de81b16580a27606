"""Row conditions: which rows an expectation is about at all, as Great Expectations on pandas picks them.

pandas has two truth values here, not three: a comparison with null does not hold, and `!=` and "not in" with null do.
A filter is a frozen tree of tests on single columns, so it can be shared by all expectations that have the same one.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_conditions import Condition, Verdicts

#: Comparisons of texts, by the name of the Arrow function.
TextComparison = Literal["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]


class RowFilter(Protocol):
    """A frozen dataclass that says which rows of a batch are meant."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The user's columns that it reads."""
        ...

    def mask(self, view: BatchView) -> np.ndarray:
        """Return whether each row is meant, bool (n,)."""
        ...


@dataclass(frozen=True)
class ComparesText:
    """Expects texts that compare so with another one, by code points. A `Condition`."""

    comparison: TextComparison
    text: str

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        answers = getattr(pc, self.comparison)(values, pa.scalar(self.text, values.type))
        return Verdicts(answers.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class ValueHolds:
    """Rows whose value meets a condition; `on_null` says whether a null does."""

    column: str
    condition: Condition
    on_null: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowFilter`."""
        return (self.column,)

    def mask(self, view: BatchView) -> np.ndarray:
        """See `RowFilter`."""
        column = view.column(self.column)
        meant = np.full(len(view), self.on_null)
        meant[column.present_at] = self.condition.judge(column.present).expected
        return meant


@dataclass(frozen=True)
class ValueIsNull:
    """Rows whose value is null or NaN, or with `is_negated` all others."""

    column: str
    is_negated: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowFilter`."""
        return (self.column,)

    def mask(self, view: BatchView) -> np.ndarray:
        """See `RowFilter`."""
        is_null = view.column(self.column).is_null
        return ~is_null if self.is_negated else is_null


@dataclass(frozen=True)
class AllOf:
    """Rows that every part means."""

    parts: tuple[RowFilter, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowFilter`."""
        return _columns(self.parts)

    def mask(self, view: BatchView) -> np.ndarray:
        """See `RowFilter`."""
        return reduce(np.logical_and, [part.mask(view) for part in self.parts])


@dataclass(frozen=True)
class AnyOf:
    """Rows that some part means."""

    parts: tuple[RowFilter, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowFilter`."""
        return _columns(self.parts)

    def mask(self, view: BatchView) -> np.ndarray:
        """See `RowFilter`."""
        return reduce(np.logical_or, [part.mask(view) for part in self.parts])


@dataclass(frozen=True)
class Not:
    """Rows that a filter does not mean."""

    part: RowFilter

    @property
    def columns(self) -> tuple[str, ...]:
        """See `RowFilter`."""
        return self.part.columns

    def mask(self, view: BatchView) -> np.ndarray:
        """See `RowFilter`."""
        return ~self.part.mask(view)


def _columns(parts: tuple[RowFilter, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part.columns))
