"""What each file says of its columns, and in what spans it is read: the last look before any sample is read."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from millcert.errors import InternalError, MillcertError
from millcert.pipelines.dataset import VerifiedFiles
from millcert.pipelines.formats import HEAD_BYTES, SchemaFacts, decode, detect_format, read_schema
from millcert.pipelines.formats.parquet import plan_steps
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.records import FileSchema, WorkItem, fault_from, groups_of
from millcert.pipelines.roles import TEXT_ROLES, is_list, vector_width
from millcert.pipelines.splitting import open_blocks, open_unit, plan_spans, require_footer
from millcert.pipelines.work_keeping import WorkKeeper
from millcert.pipelines.work_keys import work_name

#: Up to here what a file may decode to at once is found out once, and travels with it: so many numbers at most.
SMALL_BYTES, MAX_STEPS = 1 << 20, 8


class DescribeFiles(beam.PTransform):
    """In: WorkItem of data files. Out: tags `schemas` (FileSchema) and `units` (WorkItem: what the passes read).

    Reads every file once, of large Parquet files the footer and the first rows; from verified bytes only.
    """

    def __init__(self, plan: VetPlan, verified: AsSingleton) -> None:
        super().__init__()
        self._plan = plan
        self._verified = verified

    def expand(self, items: PCollection[WorkItem]) -> Any:
        """Break fusion, so that files spread over the workers, and read the schema."""
        outputs = (
            items
            | "Spread" >> beam.Reshuffle()
            | "Describe" >> beam.ParDo(_DescribeFile(self._plan), self._verified).with_outputs("units", main="schemas")
        )
        outputs.schemas.element_type = FileSchema
        outputs.units.element_type = WorkItem
        return outputs


class _DescribeFile(beam.DoFn):
    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def setup(self) -> None:
        self._keeper = WorkKeeper(self._plan)

    def process(self, item: WorkItem, verified: VerifiedFiles) -> Iterator[Any]:
        if verified.faults:
            return
        keeper, name = self._keeper, ""
        if keeper.wants(item.size_bytes):
            policy = (self._plan.declared_schema, self._plan.roles, self._plan.limits)
            name = work_name("describe", verified.files[item.name], policy=policy, state=())
        recalled = keeper.recall(name) if name else None
        found = self._described(item, verified) if recalled is None else recalled.value
        if name and recalled is None and found.fault is None:
            keeper.remember(name, found, ())
        yield found._replace(work=keeper.done("describe", item.name, is_reused=recalled is not None))
        for span in found.spans or (None,):
            yield TaggedOutput("units", item._replace(span=span, steps=found.steps))

    def _described(self, item: WorkItem, verified: VerifiedFiles) -> FileSchema:
        plan, facts, widths, steps = self._plan, None, dict[str, int](), tuple[int, ...]()
        try:
            units = self._units(verified.files[item.name])
            for unit in units:
                with open_unit(unit, plan.staging, plan.limits) as spooled:
                    if facts is None:
                        facts = self._facts(item, spooled.file)
                        steps = self._steps(unit, spooled.file)
                    if _add_widths(widths, plan, unit, spooled.file, facts.schema):
                        break
            if facts is None:
                raise InternalError(f"{item.name}: there is nothing to read.")
            schema = facts.schema.serialize().to_pybytes()
            spans = tuple(unit.span for unit in units if unit.span is not None)
            return FileSchema(item.name, schema, facts.is_inferred, widths, None, spans=spans, steps=steps)
        except MillcertError as error:
            return FileSchema(item.name, b"", False, {}, fault_from(error, file=item.name))

    def _units(self, known: WorkItem) -> tuple[WorkItem, ...]:
        """Return the spans of a file, or the file."""
        if not known.blocks_sha256:
            return (known,)
        limits = self._plan.limits
        with open_blocks(known, self._plan.staging, limits, limits.max_metadata_bytes) as reader:
            spans = plan_spans(require_footer(reader, known, limits), known.size_bytes, limits)
        return tuple(known._replace(span=span) for span in spans) or (known,)

    def _steps(self, unit: WorkItem, file: Any) -> tuple[int, ...]:
        """Return the steps of a small Parquet file: looking through its pages costs more than decoding them.

        The bytes are held to the file's digest here and in each later read, so what is found of them stays true.
        """
        if unit.format != "parquet" or unit.size_bytes > SMALL_BYTES:
            return ()
        steps = plan_steps(file, self._plan.limits, name=unit.name)
        return steps if len(steps) <= MAX_STEPS else ()

    def _facts(self, item: WorkItem, file: Any) -> SchemaFacts:
        file.seek(0)
        found = detect_format(item.name, file.read(HEAD_BYTES))
        facts = read_schema(found, file, self._plan.limits, name=item.name)
        if self._plan.declared_schema is not None and facts.is_inferred:
            return SchemaFacts(self._plan.declared_schema, is_inferred=False)
        return facts


def _add_widths(widths: dict[str, int], plan: VetPlan, unit: WorkItem, file: Any, schema: pa.Schema) -> bool:
    """Add the length of each role's lists as the first row has it; say whether all are known."""
    wanted = {
        role: column
        for role, column in plan.roles.items()
        if isinstance(column, str) and role not in TEXT_ROLES
        if schema.get_field_index(column) >= 0 and is_list(schema.field(column).type)
    }
    for role, column in wanted.items():
        if pa.types.is_fixed_size_list(schema.field(column).type):
            widths[role] = schema.field(column).type.list_size
    if len(widths) == len(wanted):
        return True
    for decoded in decode(unit.data_format, file, schema, plan.limits, name=unit.name, groups=groups_of(unit)):
        for role, column in wanted.items():
            if role not in widths:
                width = vector_width(decoded.batch.column(schema.get_field_index(column)))
                if width:
                    widths[role] = width
        if len(widths) == len(wanted):
            return True
    return False
