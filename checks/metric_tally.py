"""What the results need of a partition of distinct values, once all of it is together: figures and repeated values.

Most values of a column that should be unique stand once; of them only their number is kept. So what travels on is as
large as what a suite's author has to hear of, not as the column. A partition of very many entries is gone through in
slices, so memory does not grow with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import family, ticks
from millcert.checks.metric_distinct import Distinct, Rows, Run, member_keys, merge
from millcert.checks.metric_listing import NOTHING, Listing, merge_listings, sort_places
from millcert.checks.metric_partitions import hash_keys, slice_of

#: Entries of a partition, and bytes of its values, that are counted at once.
MAX_ENTRIES, MAX_BYTES = 1_000_000, 96 << 20
#: The most values that a result of "most common value" may list; a tie among more is no answer that anyone reads.
MAX_MODES = 10_000
#: The most values of which a divergence is computed: GX lists each of them, with its weight.
MAX_TABLE = 100_000
#: What a partition, one of 256, keeps of a table or of most common values; one with more is of a column with too many.
MAX_KEPT, MAX_KEPT_BYTES = MAX_TABLE // 25, 1 << 20
#: How many values GX lists of a set's difference.
MAX_LISTED = 20


@dataclass(frozen=True)
class Wanted:
    """What the results need of a column's distinct values, beside their number.

    is_repeated: the values that stand more than once, and their first rows. is_modes: the most common values.
    is_table: every value with its count. sets: how the column differs from each of these.
    """

    is_repeated: bool = False
    is_modes: bool = False
    is_table: bool = False
    sets: tuple[tuple[Any, ...], ...] = ()

    def __or__(self, other: "Wanted") -> "Wanted":
        """Return what either wants."""
        return Wanted(
            self.is_repeated or other.is_repeated,
            self.is_modes or other.is_modes,
            self.is_table or other.is_table,
            tuple(dict.fromkeys((*self.sets, *other.sets))),
        )


NUMBER_ONLY, REPEATED = Wanted(), Wanted(is_repeated=True)


class Difference(NamedTuple):
    """How the values differ from a set: how many are not in it, the first of those, and which members there are."""

    others: int
    first_others: pa.Array
    found: pa.Array


class Tally(NamedTuple):
    """What is known of some partitions; figures that are not wanted are of nothing.

    considered: rows. distinct: different values.
    unexpected: rows whose value stands more than once. listing: the first of them. repeated: their values, each once.
    most: how often the most common value stands. modes: how many are as common. first_modes: the first of those, none
        of a partition that has too many of them.
    table: every value, and its count; None where they are too many, fewer than `distinct` where a partition's were.
    differences: one for each wanted set.
    elsewhere: what tells where `repeated` stands, if whoever made the tally put it away; a result does not need it.
    """

    considered: int
    distinct: int
    unexpected: int
    listing: Listing
    repeated: pa.Array | None
    most: int
    modes: int
    first_modes: pa.Array | None
    table: tuple[pa.Array, np.ndarray] | None
    differences: tuple[Difference, ...]
    elsewhere: Any = None


EMPTY = Tally(0, 0, 0, NOTHING, None, 0, 0, None, None, ())


def tally(parts: Iterable[Distinct], keep: int, wanted: Wanted) -> Tally:
    """Return the tally of one partition.

    Args:
        parts: all of its parts; gone through once to count, and once for each slice.
        keep: how many places are listed.
        wanted: what is needed.
    """
    entries, size = 0, 0
    for part in parts:
        entries += sum(len(each.keys) for each in part)
        size += sum(each.keys.nbytes for each in part)
    slices = max(-(-entries // MAX_ENTRIES), -(-size // MAX_BYTES))
    if slices <= 1:
        return _capped(_of_pieces([each for part in parts for each in part if len(each.keys)], keep, wanted))
    tallies = [_capped(_of_pieces(list(_sliced(parts, number, slices)), keep, wanted)) for number in range(slices)]
    return _capped(combine(tallies, keep))


def _capped(found: Tally) -> Tally:
    """Return a tally of a partition without what it has too much of: as much in each of 256 would fill a driver."""
    if found.table is not None and _is_too_much(found.table[0]):
        found = found._replace(table=None)
    if found.first_modes is not None and _is_too_much(found.first_modes):
        found = found._replace(first_modes=found.first_modes.slice(0, 0))
    return found


def _is_too_much(keys: pa.Array) -> bool:
    return len(keys) > MAX_KEPT or keys.nbytes > MAX_KEPT_BYTES


def combine(tallies: Iterable[Tally], keep: int) -> Tally:
    """Return the tally of several partitions, which have no value in common."""
    full = [each for each in tallies if each.considered]
    if len(full) <= 1:
        return full[0] if full else EMPTY
    most = max(each.most for each in full)
    commonest = [each for each in full if each.most == most]
    distinct = sum(each.distinct for each in full)
    tables = [each.table for each in full if each.table is not None] if distinct <= MAX_TABLE else []
    return Tally(
        considered=sum(each.considered for each in full),
        distinct=distinct,
        unexpected=sum(each.unexpected for each in full),
        listing=merge_listings(keep, [each.listing for each in full]),
        repeated=_concat([each.repeated for each in full]),
        most=most,
        modes=sum(each.modes for each in commonest),
        first_modes=_first(_concat([each.first_modes for each in commonest]), MAX_MODES),
        table=(pa.concat_arrays([keys for keys, _ in tables]), np.concatenate([counts for _, counts in tables]))
        if tables
        else None,
        differences=tuple(
            _combine_differences(several) for several in zip(*[e.differences for e in full], strict=True)
        ),
    )


def _combine_differences(several: Sequence[Difference]) -> Difference:
    first = _first(_concat([each.first_others for each in several]), MAX_LISTED)
    return Difference(sum(each.others for each in several), first, pa.concat_arrays([each.found for each in several]))


def _of_pieces(pieces: list[Run | Rows], keep: int, wanted: Wanted) -> Tally:
    if not pieces:
        return EMPTY
    keys, counts = _counts_of(pieces)
    considered = int(counts.sum()) if counts is not None else len(keys)
    result = EMPTY._replace(considered=considered, distinct=len(keys))
    if wanted.is_table:
        result = result._replace(table=(keys, np.ones(len(keys), dtype=np.int64) if counts is None else counts))
    if wanted.is_modes:
        most = 1 if counts is None else int(counts.max())
        modes = keys if counts is None else keys.filter(pa.array(counts == most))
        result = result._replace(most=most, modes=len(modes), first_modes=_first(modes, MAX_MODES))
    if wanted.is_repeated and counts is not None:
        is_repeated = counts > 1
        repeated = keys.filter(pa.array(is_repeated))
        repeated = repeated.take(pc.sort_indices(repeated))  # in whatever order the parts came
        result = result._replace(
            unexpected=int(counts[is_repeated].sum()), repeated=repeated, listing=_listing(pieces, repeated, keep)
        )
    sets = [member_keys(keys.type, members) for members in wanted.sets]
    return result._replace(differences=tuple(_difference(keys, members) for members in sets))


def _counts_of(pieces: list[Run | Rows]) -> tuple[pa.Array, np.ndarray | None]:
    """Return the distinct keys and how often each stands, None where each stands once."""
    if all(isinstance(piece, Rows) for piece in pieces):
        keys = pa.concat_arrays([piece.keys for piece in pieces])
        if family(keys.type) in ("int", "date", "timestamp"):
            numbers = np.sort(ticks(keys))
            is_first = np.concatenate([[True], numbers[1:] != numbers[:-1]])
            if is_first.all():
                return keys, None
            starts = np.flatnonzero(is_first)
            distinct = pa.array(numbers[starts]).cast(_integers(keys.type)).cast(keys.type)
            return distinct, np.diff(np.append(starts, len(numbers)))
        found = keys.value_counts()
        if len(found) == len(keys):
            return keys, None
        return found.field("values"), np.asarray(found.field("counts").to_numpy(zero_copy_only=False))
    (run,) = merge([tuple(pieces)], 0)
    return run.keys, (run.counts.astype(np.int64) if int(run.counts.max()) > 1 else None)


def _integers(data_type: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(data_type):
        return data_type
    return pa.int32() if pa.types.is_date32(data_type) else pa.int64()


def _listing(pieces: list[Run | Rows], repeated: pa.Array, keep: int) -> Listing:
    """Return the first places of values that stand more than once."""
    if keep <= 0 or not len(repeated):
        return NOTHING
    chosen = [piece for each in pieces for piece in _among(each, repeated)]
    (run,) = merge([tuple(chosen)], keep)
    files = [run.files[i] for i in run.place_file.tolist()]
    rows = run.place_row.astype(np.int64)
    first = sort_places(files, rows)[:keep]
    values = run.keys.take(pa.array(run.place_key[first].astype(np.int64)))
    return Listing(tuple(files[i] for i in first), rows[first], values)


def _among(each: Run | Rows, repeated: pa.Array) -> Iterator[Run | Rows]:
    is_chosen = pc.is_in(each.keys, value_set=repeated).to_numpy(zero_copy_only=False)
    if is_chosen.any():
        yield _chosen(each, is_chosen)


def _sliced(parts: Iterable[Distinct], number: int, slices: int) -> Iterator[Run | Rows]:
    for part in parts:
        for each in part:
            is_chosen = slice_of(hash_keys(each.keys), slices) == number
            if is_chosen.any():
                yield _chosen(each, is_chosen)


def _chosen(each: Run | Rows, is_chosen: np.ndarray) -> Run | Rows:
    keys = each.keys.filter(pa.array(is_chosen))
    if isinstance(each, Rows):
        own = (None if numbers is None else numbers[is_chosen] for numbers in (each.file, each.row))
        return Rows(keys, each.files, *own)
    place = np.cumsum(is_chosen) - 1
    kept = is_chosen[each.place_key]
    place_key = place[each.place_key[kept]]
    return Run(keys, each.counts[is_chosen], each.files, place_key, each.place_file[kept], each.place_row[kept])


def _difference(keys: pa.Array, members: pa.Array) -> Difference:
    others = keys.filter(pc.invert(pc.is_in(keys, value_set=members)))
    found = members.filter(pc.is_in(members, value_set=keys))
    return Difference(len(others), _first(others, MAX_LISTED), found)


def _first(keys: pa.Array | None, most: int) -> pa.Array | None:
    return None if keys is None else keys.take(pc.sort_indices(keys)[:most])


def _concat(arrays: Iterable[pa.Array | None]) -> pa.Array | None:
    full = [each for each in arrays if each is not None]
    return pa.concat_arrays(full) if full else None
