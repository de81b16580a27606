"""Views of a data set, computed and placed beside it: one read to describe, one to train the probe, one job to score.

What is true if we crash: the output folder is not there, or it is whole; `staging_for` and `promote` are those of vet.
The files of views are named by the data files, their bytes depend on the data, the seed and the models alone, and the
manifest is written last.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.pvalue import AsList
from apache_beam.runners.runner import PipelineState

from millcert.checks.base import Role
from millcert.checks.patch_rows import WIDTH as PATCH_WIDTH
from millcert.checks.patch_rows import patch_rows
from millcert.checks.self_view import ContentKind, ProbeChoice, SelfView, train_self_view
from millcert.checks.text_grams import gram_rows
from millcert.checks.torch_probe import Content
from millcert.errors import MillcertError, StoreError, UsageError
from millcert.pipelines.driver import runner_error
from millcert.pipelines.formats import Decoded, ReadLimits, decode
from millcert.pipelines.onnx_view import Layout, OnnxView
from millcert.pipelines.output import open_output, translate_store_errors
from millcert.pipelines.planning import CODE_VERSION, read_limits
from millcert.pipelines.publish import local_path, promote, refuse_overlap, staging_for, write_file
from millcert.pipelines.records import Fault, WorkItem, error_from, fault_from
from millcert.pipelines.roles import ColumnNames, RolePlan, plan_roles
from millcert.pipelines.runner import choose_runner, is_local, pipeline_options
from millcert.pipelines.selftest_samples import Listing, Subject, list_files, read_subject
from millcert.pipelines.spool import read_verified
from millcert.pipelines.view_manifest import VIEWS_FILE, FileView, View, ViewSet, input_root, views_bytes
from millcert.pipelines.view_rows import view_schema
from millcert.pipelines.watchdog import call_watched
from millcert.policy import LoadedPolicy

External: TypeAlias = Literal["none", "patches", "grams", "onnx"]
GRAM_WIDTH = 256
_RESULT = "files.json"


@dataclass(frozen=True)
class EmbedOptions:
    """What views are made, and how. max_train: samples that the probe is trained on, those with the least digests.

    probe: what makes the self view. model, model_sha256: of an ONNX model; layout: how it wants images. seed: of the
    probe's training too.
    """

    datasets: tuple[str, ...]
    out: str
    makes_self: bool = True
    probe: ProbeChoice = field(default_factory=ProbeChoice)
    external: External = "none"
    model: bytes = field(default=b"", repr=False)
    model_sha256: str = ""
    layout: Layout = "nchw"
    seed: int = 0
    max_train: int = 100_000
    replace: bool = False
    workers: int = 1
    beam_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.makes_self and self.external == "none":
            raise UsageError("No view was asked for.", hint="Leave --no-self out, or give --external.")
        if (self.external == "onnx") != bool(self.model_sha256):
            raise UsageError(
                "An ONNX view needs a model and its digest.", hint="Give --onnx and --onnx-sha256 together."
            )


@dataclass(frozen=True)
class _Spec:
    """What a worker needs. content: "text", "image" or "table"; shape, scale: of images. roles: of label, content."""

    roles: RolePlan
    schema: pa.Schema
    content: ContentKind
    shape: tuple[int, ...]
    scale: float
    seed: int
    external: External
    probe: SelfView | None
    model: bytes
    model_sha256: str
    layout: Layout
    staging: str
    limits: ReadLimits

    @property
    def names(self) -> tuple[str, ...]:
        found = ["embedding_self"] if self.probe is not None else []
        return (*found, "embedding_external") if self.external != "none" else tuple(found)


def embed_dataset(
    loaded: LoadedPolicy, options: EmbedOptions, *, progress: Callable[[str], None] = lambda _: None
) -> ViewSet:
    """Make views of a data set and publish them in a folder of their own; return them.

    Args:
        loaded: names the label, the content (`features` or `text`) and the images' shape.
        options: what to make.
        progress: is told what begins.

    Raises:
        MillcertError: by its class; nothing is published then.

    Cost: three reads of the data and one of the self view's training. Memory: the training samples, bounded by
    `max_train`, and one batch a worker.
    """
    out = local_path(options.out)
    refuse_overlap(out, options.datasets, Path(out).resolve().parent)  # there is no state folder to guard
    beam_options = pipeline_options(list(options.beam_arguments), workers=options.workers)
    FileSystems.set_options(beam_options)
    with staging_for(out, replace=options.replace, marker=VIEWS_FILE) as staging:
        progress("reading")
        listing = list_files(loaded, options.datasets)
        subject = read_subject(loaded, options.datasets, max_samples=options.max_train, listing=listing)
        spec = _spec(loaded, options, listing, subject, staging, progress)
        progress("scoring")
        files = _score(spec, listing, beam_options)
        widths = _widths(spec, files)
        models = {"embedding_self": "" if spec.probe is None else spec.probe.digest}
        models["embedding_external"] = options.model_sha256 if options.external == "onnx" else ""
        kinds = {
            "embedding_self": "" if spec.probe is None else spec.probe.kind,
            "embedding_external": options.external,
        }
        views = ViewSet(
            folder=out,
            sha256="",
            input_root=input_root([(file.path, file.of_sha256) for file in files]),
            code_version=CODE_VERSION,
            seed=options.seed,
            views=tuple(View(name, widths[name], kinds[name], models[name]) for name in spec.names),
            files={file.path: file for file in files},
        )
        data = views_bytes(views)
        write_file(f"{staging}/publish/{VIEWS_FILE}", data)
        promote(f"{staging}/publish", out)
    return ViewSet(**{**views.__dict__, "sha256": hashlib.sha256(data).hexdigest()})


def _spec(
    loaded: LoadedPolicy,
    options: EmbedOptions,
    listing: Listing,
    subject: Subject,
    staging: str,
    progress: Callable[[str], None],
) -> _Spec:
    samples = subject.samples
    content: ContentKind = "text" if samples.text is not None else "image" if samples.shape else "table"
    if samples.text is None and samples.features is None:
        raise UsageError(
            "The policy names no content to make views of.",
            hint="Map dataset.columns.features or dataset.columns.text.",
        )
    wants = {"patches": "image", "grams": "text"}.get(options.external, content)
    if wants != content or (options.external == "onnx" and content == "text"):
        raise UsageError(
            f"A view of kind {options.external} cannot be made of a {content}.", hint="Choose another kind."
        )
    probe = None
    if options.makes_self:
        choice = replace(options.probe, seed=options.seed)
        progress(f"training the probe ({choice.resolved(content)})")
        given = samples.text if samples.text is not None else samples.features
        assert given is not None
        probe = train_self_view(given, samples.label.astype(str), content, shape=samples.shape, choice=choice)
    policy = loaded.policy
    wanted: dict[Role, ColumnNames] = {
        role: column for role, column in policy.roles().items() if role in {"label", "features", "text"}
    }
    drawn = policy.dataset.images.get(str(policy.roles().get("features")))
    return _Spec(
        roles=plan_roles(wanted, listing.schema, subject.widths),
        schema=listing.schema,
        content=content,
        shape=samples.shape,
        scale=1.0 if drawn is None else float(drawn.max_value),
        seed=options.seed,
        external=options.external,
        probe=probe,
        model=options.model,
        model_sha256=options.model_sha256,
        layout=options.layout,
        staging=staging,
        limits=read_limits(policy),
    )


def _score(spec: _Spec, listing: Listing, options: PipelineOptions) -> list[FileView]:
    if spec.external == "onnx":
        _onnx(spec)  # a model that cannot be used is told before a job starts
    pipeline = beam.Pipeline(runner=choose_runner(options), options=options)
    found = (
        pipeline
        | "Files" >> beam.Create(list(listing.items), reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "Embed" >> beam.ParDo(_EmbedFile(spec))
    )
    _ = pipeline | "Once" >> beam.Create([spec.staging]) | "Write" >> beam.Map(_write_result, AsList(found))
    state = _finish(pipeline, options)
    if state != PipelineState.DONE:
        raise StoreError(f"The runner ended the job in state {state}.", hint="Run again; nothing was published.")
    with FileSystems.open(f"{spec.staging}/{_RESULT}", compression_type="uncompressed") as stream:
        result = json.loads(stream.read())
    if result["faults"]:
        raise error_from([Fault(**fault) for fault in result["faults"]])
    return [FileView(**file) for file in result["files"]]


def _finish(pipeline: beam.Pipeline, options: PipelineOptions) -> str:
    def run() -> str:
        return str(pipeline.run().wait_until_finish())

    try:
        if options.view_as(DirectOptions).direct_running_mode == "multi_processing" and is_local(options):
            return call_watched(run, process=os.getpid())
        return run()
    except MillcertError:
        raise
    except Exception as error:
        raise runner_error(error) from error


def _write_result(staging: str, found: list[Any]) -> str:
    files = sorted(one for one in found if isinstance(one, FileView))
    faults = sorted(one for one in found if isinstance(one, Fault))
    document = {"files": [one._asdict() for one in files], "faults": [one._asdict() for one in faults]}
    write_file(f"{staging}/{_RESULT}", json.dumps(document).encode())
    return staging


class _EmbedFile(beam.DoFn):
    """In: WorkItem. Out: one FileView, or the Fault that stands in its way."""

    def __init__(self, spec: _Spec) -> None:
        super().__init__()
        self._spec = spec

    def setup(self) -> None:
        self._model = _onnx(self._spec) if self._spec.external == "onnx" else None

    def process(self, item: WorkItem) -> Iterator[Any]:
        try:
            yield embed_file(self._spec, item, self._model)
        except MillcertError as error:
            yield fault_from(error, file=item.name)


def embed_file(spec: _Spec, item: WorkItem, model: OnnxView | None) -> FileView:
    """Write the views of one file; return what binds them to it."""
    buffer = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    rows = 0
    with read_verified(item.uri, expected_sha256=item.sha256, limits=spec.limits) as spooled:
        for decoded in decode(item.data_format, spooled.file, spec.schema, spec.limits, name=item.name):
            batch = _views_of(spec, decoded, item, model)
            writer = writer or pq.ParquetWriter(buffer, batch.schema, compression="zstd", store_schema=True)
            writer.write_batch(batch)
            rows += batch.num_rows
    if writer is None:
        empty = pa.schema([pa.field("row", pa.int64()), *view_schema({})]).empty_table()
        pq.write_table(empty, buffer)
    else:
        writer.close()
    data = buffer.getbuffer()
    view = FileView(item.name, item.sha256, rows, hashlib.sha256(data).hexdigest())
    uri = f"{spec.staging}/publish/{view.view_path}"
    with translate_store_errors(uri), open_output(uri) as target:
        target.write(data)
    return view


def _views_of(spec: _Spec, decoded: Decoded, item: WorkItem, model: OnnxView | None) -> pa.RecordBatch:
    """Return the views of a decoded batch's rows; zeros for rows that cannot play their roles, which nobody reads."""
    view = spec.roles.apply(decoded.batch, item.source)
    roles, count = view.roles, decoded.batch.num_rows
    content: Content
    if spec.content == "text":
        content = roles.column(roles.schema.get_field_index("text")).to_pylist()
    else:
        column = roles.column(roles.schema.get_field_index("features"))
        flat = column.flatten().to_numpy(zero_copy_only=False)
        content = np.asarray(flat, dtype=np.float64).reshape(len(column), column.type.list_size)
    found: dict[str, np.ndarray] = {}
    if spec.probe is not None:
        found["view:embedding_self"] = spec.probe.embed(content)
    if not isinstance(content, np.ndarray):
        if spec.external == "grams":
            found["view:embedding_external"] = gram_rows(content, width=GRAM_WIDTH, seed=spec.seed)
    elif spec.external == "patches":
        found["view:embedding_external"] = patch_rows(content, spec.shape, seed=spec.seed)
    elif model is not None:
        found["view:embedding_external"] = model.embed(content)
    columns: list[pa.Array] = [pa.array(decoded.rows, pa.int64())]
    for rows in found.values():
        every = np.zeros((count, rows.shape[1]), dtype=np.float32)
        every[view.usable] = rows
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(every.reshape(-1)), rows.shape[1]))
    fields = view_schema({name: rows.shape[1] for name, rows in found.items()})
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([pa.field("row", pa.int64()), *fields]))


def _onnx(spec: _Spec) -> OnnxView:
    return OnnxView(spec.model, spec.model_sha256, spec.shape, spec.layout, spec.scale)


def _widths(spec: _Spec, files: Sequence[FileView]) -> Mapping[str, int]:
    """Return each view's width; an ONNX model's from what it wrote, which is one width or a refusal."""
    fixed = {"patches": PATCH_WIDTH, "grams": GRAM_WIDTH}
    widths = {} if spec.probe is None else {"embedding_self": spec.probe.width}
    if spec.external == "onnx":
        width = next((_stored_width(spec, file) for file in files if file.rows), 0)
        if not width:
            raise UsageError("The data set has no sample to make a view of.")
        widths["embedding_external"] = width
    elif spec.external != "none":
        widths["embedding_external"] = fixed[spec.external]
    return widths


def _stored_width(spec: _Spec, file: FileView) -> int:
    uri = f"{spec.staging}/publish/{file.view_path}"
    with FileSystems.open(uri, compression_type="uncompressed") as stream:
        schema = pq.read_schema(io.BytesIO(stream.read()))
    return int(schema.field("view:embedding_external").type.list_size)
