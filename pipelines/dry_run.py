"""What a runner would be sent: the job's graph, built and checked here, with nothing read, submitted or published.

For Dataflow the graph is the very one that Beam would upload, after Dataflow's own changes to it; that needs Beam's gcp
extra, but neither an account nor a network. For every other runner it is Beam's portable form of the pipeline.
"""

import base64
import bz2
import hashlib
import pickletools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions, TestOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from millcert.errors import InternalError, UsageError
from millcert.pipelines.driver import VetOptions
from millcert.pipelines.planning import Workspace, plan_run, refuse_unreadable
from millcert.pipelines.publish import is_local, local_path, refuse_overlap
from millcert.pipelines.runner import is_dataflow, out_of_reach, pipeline_options
from millcert.pipelines.vet import build_pipeline
from millcert.pipelines.view_manifest import read_views
from millcert.policy import LoadedPolicy

_PAR_DO = common_urns.primitives.PAR_DO.urn
_RESHUFFLE = common_urns.composites.RESHUFFLE.urn
_DOCKER = common_urns.environments.DOCKER.urn
_MIN_RAM = common_urns.StandardResourceHints.Enum.MIN_RAM_BYTES.urn
#: What cloudpickle calls to build a class that travels with its code.
_CLASS_BY_VALUE = "_make_skeleton_class"


@dataclass(frozen=True)
class Shipped:
    """A file that would be uploaded with the job. sha256: hex."""

    name: str
    sha256: str


@dataclass(frozen=True)
class JobGraph:
    """What a run would send.

    files, data_bytes: of the data set. reads: how often each file is read. steps: transforms without parts.
    fusion_breaks: names of the reshuffles that spread files over workers. images: containers of the workers.
    min_ram_bytes: the least memory that the steps ask of a worker; 0 for none. shipped: what is uploaded besides.
    unreachable: paths of this machine that workers of this runner cannot read; a real run with them is refused.
    proto: the graph itself.
    """

    runner: str
    files: int
    data_bytes: int
    reads: int
    steps: int
    fusion_breaks: tuple[str, ...]
    images: tuple[str, ...]
    min_ram_bytes: int
    shipped: tuple[Shipped, ...]
    unreachable: tuple[str, ...]
    proto: beam_runner_api_pb2.Pipeline


def dry_run(loaded: LoadedPolicy, options: VetOptions) -> JobGraph:
    """Plan a run, build its graph for the runner that `options` name, and say what would be sent.

    Keys, ledger and output stay untouched: they are neither read nor made. Approved overrides and revocations, which
    stand in the ledger, are not looked up.

    Raises:
        UsageError, PolicyError and the like: what a real run would refuse before it reads data; or the runner needs an
            option or an extra that is missing.
        InternalError: a step would carry code of ours by value, past the installation that was reviewed.
    """
    out, datasets = local_path(options.out), tuple(map(local_path, options.datasets))
    refuse_overlap(out, datasets, options.state)
    beam_options = pipeline_options(list(options.beam_arguments), workers=options.workers)
    google = beam_options.view_as(GoogleCloudOptions)
    google.no_auth = google.no_auth or all(map(is_local, datasets))  # no credentials where no bucket is listed
    beam_options.view_as(TestOptions).dry_run = True
    FileSystems.set_options(beam_options)
    views = None if options.views is None else read_views(local_path(options.views))
    plan = plan_run(loaded, datasets, Workspace(f"{out}.staging-dry-run"), now=options.now(), views=views)
    refuse_unreadable(plan)
    try:
        proto = _graph(build_pipeline(plan, beam_options), beam_options)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"The runner cannot take the job: {error}", hint="See docs/runners.md.") from error
    by_value = sent_by_value(proto)
    if by_value:
        raise InternalError(f"Step {by_value[0]} carries code by value.", hint="Please report this.", step=by_value[0])
    environments = list(proto.components.environments.values())
    return JobGraph(
        runner=beam_options.view_as(StandardOptions).runner or "local",
        files=len(plan.items),
        data_bytes=sum(item.size_bytes for item in plan.items),
        reads=plan.reads,
        steps=sum(not transform.subtransforms for transform in proto.components.transforms.values()),
        fusion_breaks=tuple(sorted(_named(proto, _RESHUFFLE))),
        images=tuple(sorted({image for each in environments for image in _image(each)})),
        min_ram_bytes=max((int(each.resource_hints.get(_MIN_RAM, b"0")) for each in environments), default=0),
        shipped=tuple(sorted({file for each in environments for file in _shipped(each)}, key=lambda file: file.name)),
        unreachable=out_of_reach(beam_options, (*datasets, out)),
        proto=proto,
    )


def sent_by_value(proto: beam_runner_api_pb2.Pipeline) -> tuple[str, ...]:
    """Return the names of the steps whose functions carry code of millcert instead of the name that it has.

    Workers run the millcert that is installed where they are; a function that travels with its code would not be that.
    """
    ours = {str(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "millcert"}
    return tuple(
        transform.unique_name
        for transform in proto.components.transforms.values()
        if any(_carries_code(payload, ours) for payload in _functions(transform))
    )


def _carries_code(function: bytes, ours: set[str]) -> bool:
    # pickletools only lists what a pickle says; it runs nothing.
    strings = {argument for _, argument, _ in pickletools.genops(function) if isinstance(argument, str)}
    names_us = any(text.split(".")[0] == "millcert" for text in strings)
    return bool(strings & ours) or (names_us and _CLASS_BY_VALUE in strings)


def _functions(transform: beam_runner_api_pb2.PTransform) -> Iterator[bytes]:
    """Yield the pickled functions of a step."""
    spec = transform.spec
    if spec.urn == _PAR_DO:
        packed = beam_runner_api_pb2.ParDoPayload.FromString(spec.payload).do_fn
    elif spec.urn in {each.urn for each in common_urns.combine_components.__dict__.values() if hasattr(each, "urn")}:
        packed = beam_runner_api_pb2.CombinePayload.FromString(spec.payload).combine_fn
    else:
        return
    if packed.urn.startswith(("beam:dofn:pickled_python", "beam:combinefn:pickled_python")):
        yield bz2.decompress(base64.b64decode(packed.payload))


def _graph(pipeline: beam.Pipeline, options: PipelineOptions) -> beam_runner_api_pb2.Pipeline:
    if not is_dataflow(options):
        return pipeline.to_runner_api()
    return pipeline.run().job.proto_pipeline


def _named(proto: beam_runner_api_pb2.Pipeline, urn: str) -> Iterator[str]:
    return (each.unique_name for each in proto.components.transforms.values() if each.spec.urn == urn)


def _image(environment: beam_runner_api_pb2.Environment) -> Iterator[str]:
    if environment.urn == _DOCKER:
        yield beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image


def _shipped(environment: beam_runner_api_pb2.Environment) -> Iterator[Shipped]:
    for each in environment.dependencies:
        role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(each.role_payload)
        file = beam_runner_api_pb2.ArtifactFilePayload.FromString(each.type_payload)
        with Path(file.path).open("rb") as stream:
            yield Shipped(role.staged_name, hashlib.file_digest(stream, "sha256").hexdigest())
