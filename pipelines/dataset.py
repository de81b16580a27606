"""Before any sample is read: are the files what their sources signed, and what do they hold?

Order, so that no byte of an unverified file reaches a parser:
  1. HashFiles      every file's bytes, data and auxiliary, through SHA-256;
  2. VerifySources  each source's files against its signed manifest, under the policy's trust rules;
  3. DescribeFiles  the schema of each verified file, from bytes that meet the digest of step 1 (describe.py);
  4. PlanDataset    one schema for all files, the columns that play the roles, the metrics that expectations need.
A failure at any step is a `Fault` in `DatasetFacts`; later passes then read nothing and the driver raises it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsList, AsSingleton, PCollection

from millcert.checks.metric_plan import MetricPlan
from millcert.errors import (
    InternalError,
    ManifestError,
    MillcertError,
    StoreError,
    UntrustedSourceError,
    UsageError,
)
from millcert.pipelines.blocks import blocks_place, hash_in_blocks
from millcert.pipelines.fields import decode_permitted, permitted_schema
from millcert.pipelines.file_table import FileTable
from millcert.pipelines.formats import Decoded, DecodedBudget, ReadLimits, SchemaFacts, merge_schemas
from millcert.pipelines.gx_process import plan_apart
from millcert.pipelines.output import recorded_outputs
from millcert.pipelines.plan import PlannedSource, VetPlan
from millcert.pipelines.records import Fault, FileDigest, FileSchema, WorkItem, fault_from
from millcert.pipelines.roles import RolePlan, plan_roles
from millcert.pipelines.splitting import may_be_split
from millcert.pipelines.view_rows import view_schema
from millcert.pipelines.work_keeping import WorkKeeper
from millcert.pipelines.work_keys import work_name
from millcert.pipelines.work_report import StepWork, sum_work
from millcert.provenance.digest_algorithms import DigestAlgorithm, FoundDigests
from millcert.provenance.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest
from millcert.provenance.pq_signature import MAX_PQ_BYTES, PQ_SUFFIX
from millcert.provenance.trust import VerifiedSource, verify_source

#: A bundle over a manifest has some 10 kB; beyond this it is no bundle.
MAX_BUNDLE_BYTES = 4 * 1024 * 1024
#: A bundle with a statement may list every file.
MAX_ENVELOPE_BUNDLE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class VerifiedFiles:
    """The outcome of steps 1 and 2.

    files: every file by name, data and auxiliary, with its digest. signed: source -> the manifest that its signer
    signed. work: how many files were read for it.
    """

    files: Mapping[str, WorkItem]
    sources: Mapping[str, VerifiedSource]
    signed: Mapping[str, Manifest]
    faults: tuple[Fault, ...]
    work: tuple[StepWork, ...] = ()


@dataclass(frozen=True)
class DatasetFacts:
    """What every pass knows of the data set: the outcome of all four steps.

    schema: of the samples. stored_schema: of all columns that the files have, where the policy drops some. work: how
    many files were read for it.
    """

    files: Mapping[str, WorkItem]
    sources: Mapping[str, VerifiedSource]
    signed: Mapping[str, Manifest]
    faults: tuple[Fault, ...]
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    roles: RolePlan = field(default_factory=lambda: RolePlan(()))
    metrics: MetricPlan | None = None
    stored_schema: pa.Schema | None = None
    work: tuple[StepWork, ...] = ()

    @property
    def dropped(self) -> tuple[str, ...]:
        """Columns of the files that are in no sample."""
        stored = () if self.stored_schema is None else self.stored_schema.names
        return tuple(name for name in stored if self.schema.get_field_index(name) < 0)

    @property
    def kept_columns(self) -> frozenset[str] | None:
        """Columns that are written; None for all."""
        return frozenset(self.schema.names) if self.dropped else None

    def decode(
        self,
        item: WorkItem,
        file: BinaryIO,
        limits: ReadLimits,
        budget: DecodedBudget | None = None,
        columns: frozenset[str] | None = None,
    ) -> Iterator[Decoded]:
        """Yield a data file's samples, or those of a span; see `millcert.pipelines.formats.decode`."""
        return decode_permitted(item, file, self.stored_schema or self.schema, self.schema, limits, budget, columns)

    @property
    def role_columns(self) -> frozenset[str]:
        """Columns of the samples that play a role."""
        named = {name for one in self.roles.columns for name in (one.column, *one.more)}
        return frozenset(named & set(self.schema.names))

    @property
    def signers(self) -> frozenset[str]:
        """Identities that signed a source of the data."""
        signatures = [source.signature for source in self.sources.values()]
        return frozenset(one.identity for one in signatures if one is not None)

    def item(self, name: str) -> WorkItem:
        """Return the file of that name with the digest that every read must meet."""
        found = self.files.get(name)
        if found is None or not found.sha256:
            raise InternalError(f"File {name!r} was not hashed before it was read.")
        return found

    def unit(self, item: WorkItem) -> WorkItem:
        """Return a file, or the same span of it, with the digest that every read must meet."""
        return self.item(item.name)._replace(span=item.span, steps=item.steps)


class HashFiles(beam.PTransform):
    """In: WorkItem without digest. Out: FileDigest. Reads every file once."""

    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, items: PCollection[WorkItem]) -> PCollection[FileDigest]:
        """Break fusion, so that files spread over the workers, and hash."""
        return items | "Spread" >> beam.Reshuffle() | "Hash" >> beam.ParDo(_HashFile(self._plan))


class _HashFile(beam.DoFn):
    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan
        self._algorithms = {planned.rule.name: planned.rule.digests for planned in plan.sources}

    def setup(self) -> None:
        self._keeper = WorkKeeper(self._plan)

    def process(self, item: WorkItem) -> Iterator[FileDigest]:
        keeper, algorithms = self._keeper, self._algorithms.get(item.source, ())
        name = _hash_name(item, algorithms, self._plan.limits) if keeper.wants(item.size_bytes) else ""
        recalled = keeper.recall(name) if name else None
        if recalled is not None and recalled.is_placed:
            yield recalled.value._replace(work=keeper.done("hash", item.name, is_reused=True))
            return
        blocks_uri = blocks_place(self._plan.staging, item.name) if may_be_split(self._plan, item) else ""
        with recorded_outputs() as written:
            found = hash_item(item, algorithms, self._plan.limits, blocks_uri=blocks_uri)
        # If the file changed while it was hashed, its name did too. Only this run may believe it: it is bound to the
        # digest from here on, and every read that is left to do is held to it.
        if name and found.fault is None and name == _hash_name(item, algorithms, self._plan.limits):
            keeper.remember(name, found, written, is_lasting=False)
        yield found._replace(work=keeper.done("hash", item.name, is_reused=False))


def _hash_name(item: WorkItem, algorithms: Sequence[DigestAlgorithm], limits: ReadLimits) -> str:
    """Return the name of a local file's digests, by all that the file system says of it; "" of any other file."""
    if "://" in item.uri:
        return ""
    try:
        found = os.stat(item.uri)  # noqa: PTH116 - as digest_cache.py
    except OSError:
        return ""
    state = (item.uri, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)
    return work_name("hash", item, policy=(tuple(map(str, algorithms)), limits), state=state)


def hash_item(
    item: WorkItem, algorithms: Sequence[DigestAlgorithm], limits: ReadLimits, *, blocks_uri: str = ""
) -> FileDigest:
    """Return a file's digests: SHA-256, and others of the same bytes as they are asked for; a fault as a value.

    Those of its blocks go to `blocks_uri`, where there is one.
    """
    try:
        found = hash_in_blocks(item.uri, limits, algorithms, blocks_uri=blocks_uri)
        known = item._replace(sha256=found.sha256, size_bytes=found.size_bytes, blocks_sha256=found.blocks_sha256)
        return FileDigest(known, None, tuple(sorted(found.others.items())))
    except MillcertError as error:
        return FileDigest(item, fault_from(error, file=item.name))


class VerifySources(beam.PTransform):
    """In: FileDigest of all files. Out: one `VerifiedFiles`."""

    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, digests: PCollection[FileDigest]) -> PCollection[VerifiedFiles]:
        """Verify every source on one worker: some milliseconds a source."""
        once = digests.pipeline | "Once" >> beam.Impulse()
        return once | "Verify" >> beam.Map(_verify_once, AsList(digests), self._plan).with_output_types(VerifiedFiles)


def _verify_once(_: bytes, digests: list[FileDigest], plan: VetPlan) -> VerifiedFiles:
    return verify_files(plan, digests)


def verify_files(plan: VetPlan, digests: list[FileDigest]) -> VerifiedFiles:
    """Return what is known of all files, with a fault for each source that is not what the policy trusts."""
    files = FileTable(digest.item for digest in digests)
    faults = [digest.fault for digest in digests if digest.fault is not None]
    expected = {item.name for item in (*plan.items, *plan.auxiliary)}
    if set(files) != expected or len(digests) != len(expected):
        error = InternalError(f"{len(expected)} files were to be hashed, {len(digests)} were.")
        faults.append(fault_from(error))
    others = {digest.item.name: dict(digest.others) for digest in digests if digest.others}
    sources: dict[str, VerifiedSource] = {}
    signed: dict[str, Manifest] = {}
    if not faults:
        for planned in plan.sources:
            name = planned.rule.name
            try:
                sources[name], manifest = _verify(plan, planned, files, others)
                if manifest is not None:
                    signed[name] = manifest
            except MillcertError as error:
                faults.append(fault_from(error, file=name))
    return VerifiedFiles(files, sources, signed, tuple(sorted(faults)), sum_work(digest.work for digest in digests))


def _verify(
    plan: VetPlan, planned: PlannedSource, files: Mapping[str, WorkItem], others: FoundDigests
) -> tuple[VerifiedSource, Manifest | None]:
    outside = [
        item.name
        for item in files.values()
        if item.source == planned.rule.name and not item.name.startswith(planned.prefix)
    ]
    if outside and planned.manifest_uri:
        raise ManifestError(
            f"Source {planned.rule.name!r}: {outside[0]!r} is outside {planned.prefix!r}, the folder of its manifest.",
            hint="Put the manifest at the top of the source's folder, or name it in the policy (sources[].manifest).",
        )
    actual = Manifest(
        name=planned.rule.name,
        files=tuple(
            FileEntry(path=item.name.removeprefix(planned.prefix), size_bytes=item.size_bytes, sha256=item.sha256)
            for item in files.values()
            if item.source == planned.rule.name
        ),
    )
    rule = planned.rule
    max_bundle_bytes = MAX_ENVELOPE_BUNDLE_BYTES if rule.form == "model_signing" else MAX_BUNDLE_BYTES
    manifest = _read_small(planned.manifest_uri, MAX_MANIFEST_BYTES)
    bundle = _read_small(planned.bundle_uri, max_bundle_bytes)
    if rule.needs_trust_root and plan.trust_root is None:
        raise UntrustedSourceError(
            f"Source {rule.name!r} must be signed, but the policy pins no trusted root.",
            hint="Add trust.trusted_root and trust.trusted_root_sha256 to the policy.",
        )
    verified = verify_source(
        actual,
        manifest,
        bundle,
        rule,
        plan.trust_root,
        is_selection=planned.is_selection,
        attestations=_attestations(planned),
        pq_bytes=_pq_signature(planned),
        digests={
            item.name.removeprefix(planned.prefix): others[item.name]
            for item in files.values()
            if item.source == rule.name and item.name in others
        },
    )
    return verified, verified.manifest


def _attestations(planned: PlannedSource) -> Mapping[str, bytes]:
    """Return the attestations that are there, by the place that the rule gives them."""
    place = planned.rule.manifest_path
    if not planned.manifest_uri.endswith(place):
        return {}
    base = planned.manifest_uri.removesuffix(place)
    found = {one.bundle: _read_small(base + one.bundle, MAX_ENVELOPE_BUNDLE_BYTES) for one in planned.rule.attestations}
    return {bundle: data for bundle, data in found.items() if data is not None}


def _pq_signature(planned: PlannedSource) -> bytes | None:
    if not planned.rule.pq_keys or not planned.manifest_uri:
        return None
    return _read_small(planned.manifest_uri + PQ_SUFFIX, MAX_PQ_BYTES)


def _read_small(uri: str, max_bytes: int) -> bytes | None:
    """Return the bytes of a small file, None if there is none."""
    if not uri:
        return None
    try:
        if not FileSystems.exists(uri):
            return None
        with FileSystems.open(uri, compression_type="uncompressed") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise StoreError(
            f"Cannot read {uri}: {error}", hint="Check the path and the rights, then run again."
        ) from error
    if len(data) > max_bytes:
        raise ManifestError(f"{uri} has more than {max_bytes:,} bytes.", hint="That is no manifest and no bundle.")
    return bytes(data)


class PlanDataset(beam.PTransform):
    """In: FileSchema of all data files. Out: one `DatasetFacts`."""

    def __init__(self, plan: VetPlan, verified: AsSingleton) -> None:
        super().__init__()
        self._plan = plan
        self._verified = verified

    def expand(self, schemas: PCollection[FileSchema]) -> PCollection[DatasetFacts]:
        """Merge what the files say on one worker."""
        once = schemas.pipeline | "Once" >> beam.Impulse()
        return once | "Plan" >> beam.Map(_plan_once, self._verified, AsList(schemas), self._plan).with_output_types(
            DatasetFacts
        )


def _plan_once(_: bytes, verified: VerifiedFiles, schemas: list[FileSchema], plan: VetPlan) -> DatasetFacts:
    return plan_dataset(plan, verified, schemas)


def plan_dataset(plan: VetPlan, verified: VerifiedFiles, schemas: list[FileSchema]) -> DatasetFacts:
    """Return one schema, role plan and metric plan for all files; disagreements and wrong columns are faults."""
    facts = _planned_dataset(plan, verified, schemas)
    return replace(facts, work=(*verified.work, *sum_work(described.work for described in schemas)))


def _planned_dataset(plan: VetPlan, verified: VerifiedFiles, schemas: list[FileSchema]) -> DatasetFacts:
    faults = list(verified.faults)
    faults += [described.fault for described in schemas if described.fault is not None]
    if faults:
        return DatasetFacts(verified.files, verified.sources, verified.signed, tuple(sorted(faults)))
    ordered = sorted(schemas, key=lambda described: described.name)
    widths: dict[str, int] = {}
    for described in ordered:
        for role, width in described.widths.items():
            widths.setdefault(role, width)
    try:
        if not ordered:
            raise UsageError("The data set has no data file.", hint="Name a file, a folder or a glob that has some.")
        schema = merge_schemas(
            [
                (described.name, SchemaFacts(pa.ipc.read_schema(pa.py_buffer(described.schema)), described.is_inferred))
                for described in ordered
            ]
        )
        stored = schema
        schema, dropped = permitted_schema(plan.fields, stored)
        roles = plan_roles(plan.roles, pa.schema([*schema, *view_schema(plan.view_columns)]), widths)
        metrics = _plan_metrics(plan, schema)
    except MillcertError as error:
        return DatasetFacts(verified.files, verified.sources, verified.signed, (fault_from(error),))
    whole = stored if dropped else None
    return DatasetFacts(verified.files, verified.sources, verified.signed, (), schema, roles, metrics, whole)


def _plan_metrics(plan: VetPlan, schema: pa.Schema) -> MetricPlan | None:
    if plan.suite is None:
        return None
    return plan_apart(plan.suite, schema, () if plan.drift is None else plan.drift.names)
