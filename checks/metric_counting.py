"""Kernels that count distinct things: what they measure waits, is dealt to partitions, and is tallied at the end.

The part named "" waits; the parts named "00" to "ff" are partitions (`millcert.checks.metric_distinct`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from millcert.checks import metric_distinct as distinct
from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_distinct import Distinct
from millcert.checks.metric_tally import NUMBER_ONLY, Tally, Wanted, combine, tally
from millcert.errors import InternalError

#: A part: as it is measured, or once `Counting.total` has reduced it.
Part: TypeAlias = Distinct | Tally


class Counting:
    """Folding, dealing, merging and reducing of distinct values.

    keep: places that each value keeps. wanted: what the results need.
    """

    keep: int
    wanted: Wanted

    def fold(self, name: str, part: Distinct, new: Distinct) -> Distinct:
        """See `Kernel`."""
        return distinct.append_dealt(part, new, self.keep) if name else distinct.append(part, new, self.keep)

    def merge(self, name: str, parts: Sequence[Part]) -> Part:
        """See `Kernel`; a part that is reduced already is the whole of its partition.

        Raises:
            InternalError: it met another one.
        """
        if len(parts) == 1 and isinstance(parts[0], Tally):
            return parts[0]
        merged: Distinct = ()
        for part in _unreduced(parts):
            merged = self.fold(name, merged, part)
        return merged

    def is_full(self, part: Distinct) -> bool:
        """Return whether what waits is enough to be dealt."""
        return distinct.is_full(part)

    def entries(self, part: Part) -> int:
        """Return how many entries a part holds."""
        return 0 if isinstance(part, Tally) else sum(len(each.keys) for each in part)

    def deal(self, part: Distinct) -> Iterator[tuple[str, Distinct]]:
        """Yield (name, part) of all that waits."""
        for partition, own in distinct.deal(part, self.keep):
            yield f"{partition:02x}", own

    def total(self, parts: Iterable[Part]) -> Tally:
        """Return all that the results need of one partition, of which no other part may follow.

        Args:
            parts: at least one; may be gone through several times, a few at once in memory.

        Raises:
            InternalError: a part that is reduced already is not the only one.
        """
        first = list(islice(parts, 2))
        if len(first) == 1 and isinstance(first[0], Tally):
            return first[0]
        return tally(_Unreduced(parts), self.keep, self.wanted)

    def conclude(self, parts: Mapping[str, Part]) -> Tally:
        """Return all that the results need, of all partitions."""
        return combine([self.total([parts[name]]) for name in sorted(parts)], self.keep)


class _Unreduced:
    """Parts that may be gone through several times."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Distinct]:
        return _unreduced(self._parts)


def _unreduced(parts: Iterable[Part]) -> Iterator[Distinct]:
    for part in parts:
        if isinstance(part, Tally):
            raise InternalError("A partition of distinct values was reduced before all of it was there.")
        yield part


@dataclass(frozen=True)
class CountDistinct(Counting):
    """The distinct values of a column."""

    column: str
    keep: int
    wanted: Wanted = NUMBER_ONLY

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, Distinct]]:
        """See `Kernel`."""
        part = distinct.measure_column(view.column(self.column), view.file, view.rows, self.keep)
        if part:
            yield "", part

    def or_also(self, other: "CountDistinct") -> "CountDistinct":
        """Return the kernel that answers for both, of one column."""
        return CountDistinct(self.column, max(self.keep, other.keep), self.wanted | other.wanted)
