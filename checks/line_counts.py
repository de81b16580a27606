"""Counts of samples by their position along lines, exact and mergeable, on bins that grow with the distance.

A line's bins start at its mode: 32 an octave of (1 + distance in spreads), so a fine grid where most samples are and
about 3 % of the distance far out. A bin is read off the bits of a float64, the same on every machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from millcert.checks.flagging import BufferedCounts, Counts
from millcert.checks.mixture import Histogram
from millcert.checks.valley import Middle

#: Bins an octave, as a power of two: a multiple of the windows' cells (`millcert.checks.valley`).
_BIN_BITS = 5
#: Bins of a line, half of them on each side of the mode: 16 octaves; what is farther out counts in the last.
BINS = 1024
_HALF = BINS // 2
_MANTISSA_BITS = 52
_ONE_BITS = 1023 << _BIN_BITS  # what the bits of float64's 1.0 start with
_SOURCES_NAMED = 16
#: Samples of a class whose positions wait to be told apart by source: 24 kB (our choice; changes no result).
_MOST_WAITING = 4096


@dataclass(frozen=True, eq=False)
class LineCounts:
    """Positions of a class's samples along its lines, by source; immutable, mergeable in any order.

    by_source: counts of keys, line x 1,024 + bin.
    waiting: keys, uint16 (n, lines), and which of their rows each source gave; told apart when there are many.
    """

    by_source: Mapping[str, BufferedCounts]
    waiting: tuple[tuple[np.ndarray, tuple[tuple[str, slice], ...]], ...] = ()

    @classmethod
    def zero(cls) -> "LineCounts":
        """Return the counts of nothing."""
        return cls({})

    def add(
        self, positions: np.ndarray, middle: tuple[Middle, ...], sources: tuple[tuple[str, slice], ...]
    ) -> "LineCounts":
        """Return the counts with samples added.

        Args:
            positions: float64 (n, lines), finite.
            middle: of each line.
            sources: each source's rows, as `millcert.checks.class_rows` gives them.
        """
        return _bounded(LineCounts(self.by_source, (*self.waiting, (line_keys(positions, middle), sources))))

    def merge(self, others: Iterable["LineCounts"]) -> "LineCounts":
        """Return the counts of all samples of this and the others."""
        parts = [self, *others]
        gathered: dict[str, list[BufferedCounts]] = {}
        for lines in parts:
            for source, counts in lines.by_source.items():
                gathered.setdefault(source, []).append(counts)
        by_source = {source: counts[0].merge(counts[1:]) for source, counts in sorted(gathered.items())}
        return _bounded(LineCounts(by_source, tuple(keys for lines in parts for keys in lines.waiting)))

    def told_apart(self) -> "LineCounts":
        """Return the same with nothing waiting."""
        if not self.waiting:
            return self
        gathered: dict[str, list[np.ndarray]] = {}
        for keys, sources in self.waiting:
            for source, part in sources:
                gathered.setdefault(source, []).append(keys[part])
        found = dict(self.by_source)
        for source, parts in gathered.items():
            found[source] = found.get(source, BufferedCounts.zero()).add(np.concatenate(parts))
        return LineCounts(found)

    def all_sources(self) -> Counts:
        """Return the counts of all sources together; nothing may wait."""
        return Counts.zero().merge(counts.settled() for counts in self.by_source.values())

    def fractions_above(self, line: int, middle: Middle, sign: float, border: float) -> dict[str, float]:
        """Return the share of each source's samples above the border, for the sources with the most of them."""
        above = {}
        for source, every in self.by_source.items():
            histogram = histogram_of(every.settled(), line, middle)
            is_above = histogram.positions * sign > border
            above[source] = (float(histogram.counts[is_above].sum()), histogram.samples)
        worst = sorted(above.items(), key=lambda item: (-item[1][0], item[0]))[:_SOURCES_NAMED]
        return {source: count / total for source, (count, total) in worst if count}


def histogram_of(counts: Counts, line: int, middle: Middle) -> Histogram:
    """Return the histogram of one line."""
    found = counts.at(line * BINS, (line + 1) * BINS)
    return Histogram(_centres(found.keys % BINS, middle), found.counts.astype(np.float64))


def line_keys(positions: np.ndarray, middle: tuple[Middle, ...]) -> np.ndarray:
    """Return the keys of positions, uint16 (n, lines), ascending with the position on each line."""
    away = positions - np.array([one.mode for one in middle])
    away /= np.array([one.spread for one in middle])
    size = np.abs(away)
    size += 1.0
    steps = size.view(np.int64)
    steps >>= _MANTISSA_BITS - _BIN_BITS
    steps -= _ONE_BITS
    np.minimum(steps, _HALF - 1, out=steps)
    steps ^= -(away < 0).astype(np.int64)  # -1 - steps where below the mode
    steps += _HALF + BINS * np.arange(positions.shape[1])
    return steps.astype(np.uint16)


def _centres(bins: np.ndarray, middle: Middle) -> np.ndarray:
    steps = np.where(bins >= _HALF, bins - _HALF, _HALF - 1 - bins)
    octave, part = np.divmod(steps, 1 << _BIN_BITS)
    away = np.ldexp(1.0 + (part + 0.5) / (1 << _BIN_BITS), octave.astype(np.int64)) - 1.0
    return np.asarray(middle.mode + middle.spread * np.where(bins >= _HALF, away, -away))


def _bounded(lines: LineCounts) -> LineCounts:
    return lines if sum(len(keys) for keys, _ in lines.waiting) <= _MOST_WAITING else lines.told_apart()
