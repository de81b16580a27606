"""What the first full read found of a file's spans, put together in order: one worker, a small part of a read.

The row tree of a span begins where the records before it end, unless one of them is malformed: a malformed record is no
row. Spans behind such a one are decoded again here, because their subtrees stand at other places than they were built
for.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from millcert.checks.sample_digest import sample_digests
from millcert.errors import HostileDataError, InternalError, MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.part_files import PartFiles
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.read import leaf_hashes
from millcert.pipelines.records import Note, ShardFacts, SpanFacts, fault_from
from millcert.pipelines.sample_leaves import LeafFacts, part_stem, read_leaves
from millcert.pipelines.span_tree import SpanJoiner
from millcert.pipelines.splitting import open_unit
from millcert.provenance.merkle import TreeBuilder


class JoinShards(beam.PTransform):
    """In: SpanFacts. Out: tags `shards` (ShardFacts, one a file) and `notes` (Fault)."""

    def __init__(self, plan: VetPlan, dataset: AsSingleton) -> None:
        super().__init__()
        self._plan = plan
        self._dataset = dataset

    def expand(self, spans: PCollection[SpanFacts]) -> Any:
        """Bring the spans of a file together, and join them."""
        outputs = (
            spans
            | "ByFile" >> beam.Map(_by_file).with_output_types(tuple[str, SpanFacts])
            | "GroupSpans" >> beam.GroupByKey()
            | "Join" >> beam.ParDo(JoinShardSpans(self._plan), self._dataset).with_outputs("notes", main="shards")
        )
        outputs.shards.element_type = ShardFacts
        outputs.notes.element_type = Note
        return outputs


def _by_file(facts: SpanFacts) -> tuple[str, SpanFacts]:
    return facts.name, facts


class JoinShardSpans(beam.DoFn):
    """Joins the spans of one file."""

    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def process(self, grouped: tuple[str, Iterable[SpanFacts]], dataset: DatasetFacts) -> Iterator[Any]:
        """Yield the file's facts, or what is wrong with it."""
        name, found = grouped
        try:
            shard = self._joined(name, in_order(found), dataset)
        except MillcertError as error:
            yield TaggedOutput("notes", fault_from(error, file=name))
            return
        if shard is not None:
            yield shard

    def _joined(self, name: str, spans: list[SpanFacts], dataset: DatasetFacts) -> ShardFacts | None:
        if not spans:
            return None
        item, limits = dataset.item(name), self._plan.limits
        allowed = limits.decoded_limit_bytes(item.size_bytes)
        if sum(one.decoded_bytes for one in spans) > allowed:
            raise HostileDataError(
                f"{name} has {item.size_bytes} bytes and decodes to more than {allowed} bytes.",
                hint="If the data is meant to be so repetitive, raise the limits max_decoded_ratio or "
                "decoded_floor_bytes.",
                path=name,
                limit_bytes=allowed,
            )
        tree = TreeBuilder()
        for one in spans:
            if tree.size == one.span.first_row:
                for subtree in one.subtrees:
                    tree.append_subtree(*subtree)
            else:
                self._append_rows(tree, one, dataset)
        self._join_leaves(name, spans)
        return ShardFacts(name, sum(one.records for one in spans), tree.size, tree.root().hex())

    def _append_rows(self, tree: TreeBuilder, one: SpanFacts, dataset: DatasetFacts) -> None:
        unit, limits, before = dataset.item(one.name)._replace(span=one.span), self._plan.limits, tree.size
        with open_unit(unit, self._plan.staging, limits) as spooled:
            for decoded in dataset.decode(unit, spooled.file, limits):
                tree.extend(leaf_hashes(sample_digests(decoded.batch)))
        if tree.size - before != one.rows:
            raise InternalError(f"{one.name}: a span has {one.rows} rows at first and {tree.size - before} again.")

    def _join_leaves(self, name: str, spans: list[SpanFacts]) -> None:
        """Write the upper levels of the file's tree, and last what there is of it all."""
        staging = self._plan.staging
        files = PartFiles(part_stem(staging, name))
        joiner, runs, records = SpanJoiner(files), list[int](), 0
        for one in spans:
            facts, together = read_leaves(staging, one.unit)
            joiner.add(part_stem(staging, one.unit), together, facts.records)
            runs += facts.runs
            records += facts.records
        size, root = joiner.end()
        if size != records:
            raise InternalError(f"{name}: {records} leaves were written, {size} were joined.")
        files.end(LeafFacts(size, sum(runs), root.hex(), joiner.levels, tuple(runs), len(spans))._asdict())


def in_order(found: Iterable[Any]) -> list[Any]:
    """Return what was found of a file's spans in their order; nothing where one is missing, which is a fault already.

    A bundle that was done twice tells the same twice.
    """
    spans = {one.span.number: one for one in found}
    count = next(iter(spans.values())).span.spans if spans else 0
    return [spans[number] for number in range(count)] if sorted(spans) == list(range(count)) else []
