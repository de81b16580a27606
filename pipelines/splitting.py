"""Large files in spans: one worker reads some row groups of a file, another one the next.

A Parquet file of more than `spool_memory_bytes` is cut where row groups end, into spans of at least half of that. Where
it is cut depends on the file's bytes and the limits only, and what a run finds does not depend on it at all: sums merge
exactly (checks/base.py, rule 3), rows keep their numbers, and what a file has one of (its row tree, its leaves, its
findings, its admitted copy) is put together of its spans in order (join_shards.py, join_scores.py).

Not cut: files of other formats, whose records have no place that is known before all before them are read; files with
views beside them, which are read from the first row on; any file where a suite asks for the order of rows; a file
whose row groups share bytes, which only a hostile one does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from millcert.pipelines.blocks import BlockReader, blocks_place, read_blocks
from millcert.pipelines.formats import HEAD_BYTES, ReadLimits
from millcert.pipelines.formats.parquet import read_footer
from millcert.pipelines.formats.parquet_footer import Footer
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.records import Span, WorkItem
from millcert.pipelines.spool import Spooled, read_verified

_TAIL_BYTES = 8
#: Some writers' column chunks end a little behind where the footer says (PARQUET-816); the library reads on so far.
_SLACK_BYTES = 128
#: Expectations of each row and the one before it.
_ORDERED = ("expect_column_values_to_be_increasing", "expect_column_values_to_be_decreasing")


def may_be_split(plan: VetPlan, item: WorkItem) -> bool:
    """Say whether a file is one that is read in spans, as far as that is known before it is read."""
    is_ordered = plan.suite is not None and any(one["type"] in _ORDERED for one in plan.suite.expectations)
    is_large = item.format == "parquet" and item.size_bytes > plan.limits.spool_memory_bytes
    return is_large and not plan.view_columns and not is_ordered


def unit_count(plan: VetPlan) -> int:
    """Return about how many units of work there are in a pass."""
    return sum(
        max(1, item.size_bytes // _span_bytes(plan.limits)) if may_be_split(plan, item) else 1 for item in plan.items
    )


def plan_spans(footer: Footer, size_bytes: int, limits: ReadLimits) -> tuple[Span, ...]:
    """Return how a Parquet file of that size is cut; nothing where it is read as a whole."""
    sizes = [sum(chunk.size_bytes for chunk in group.chunks) for group in footer.groups]
    if sum(sizes) > size_bytes:
        return ()
    wanted, cuts, held = _span_bytes(limits), [0], 0
    for number, size in enumerate(sizes):
        held += size
        if held >= wanted:
            cuts.append(number + 1)
            held = 0
    if held or cuts[-1] == 0:
        cuts.append(len(sizes))
    cuts[-1] = len(sizes)  # groups without bytes, at the end
    starts = list(pairwise(cuts))
    if len(starts) < 2:
        return ()
    spans, first_row = [], 0
    for number, (first, end) in enumerate(starts):
        spans.append(Span(number, len(starts), first, end, first_row, sum(sizes[first:end])))
        first_row += sum(group.rows for group in footer.groups[first:end])
    return tuple(spans)


def _span_bytes(limits: ReadLimits) -> int:
    return max(1, limits.spool_memory_bytes // 2)


@contextmanager
def open_unit(item: WorkItem, staging: str, limits: ReadLimits) -> Iterator[Spooled]:
    """Hold the bytes of a unit of work, all of them verified, for as long as the context lasts.

    Of a span there is what its row groups and the file's footer need; the rest of the file reads as zeros.

    Raises:
        As `read_verified` and `read_blocks`.
    """
    if item.span is None:
        with read_verified(item.uri, expected_sha256=item.sha256, limits=limits) as spooled:
            yield spooled
        return
    with open_blocks(item, staging, limits, item.span.size_bytes) as reader:
        footer = require_footer(reader, item, limits)
        require_groups(reader, footer, item.span.first_group, item.span.end_group)
        yield Spooled(reader.file, item.sha256, item.size_bytes)


def open_blocks(item: WorkItem, staging: str, limits: ReadLimits, filled_bytes: int) -> Any:
    """Return `read_blocks` of a file that has a list of blocks."""
    return read_blocks(
        item.uri,
        item.size_bytes,
        blocks_uri=blocks_place(staging, item.name),
        blocks_sha256=item.blocks_sha256,
        limits=limits,
        filled_bytes=filled_bytes,
    )


def require_footer(reader: BlockReader, item: WorkItem, limits: ReadLimits) -> Footer:
    """Return what a Parquet file's footer says, after its bytes were verified.

    Raises:
        HostileDataError: it is no Parquet file, or its footer breaks a bound.
    """
    size = item.size_bytes
    reader.require([(0, HEAD_BYTES), (size - _TAIL_BYTES, size)])
    reader.file.seek(size - _TAIL_BYTES)
    footer_bytes = int.from_bytes(reader.file.read(4), "little")
    if footer_bytes <= limits.max_metadata_bytes:  # else `read_footer` refuses it
        reader.require([(size - _TAIL_BYTES - footer_bytes, size)])
    return read_footer(reader.file, limits, name=item.name)  # type: ignore[arg-type]


def require_groups(reader: BlockReader, footer: Footer, first: int, end: int) -> None:
    """Have the bytes of row groups [first, end) there."""
    reader.require(
        [
            (chunk.start, chunk.start + chunk.size_bytes + _SLACK_BYTES)
            for group in footer.groups[first:end]
            for chunk in group.chunks
        ]
    )
