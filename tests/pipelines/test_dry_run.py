"""`--dry-run`: the graph that a runner would be sent, for Dataflow the very one, built without account or network.

The tests on Dataflow's graph need Beam's gcp extra (`make test-dataflow`); without it they skip, and the one on what is
said then runs.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from millcert.errors import UsageError
from millcert.pipelines import vet
from millcert.pipelines.driver import VetOptions, vet_dataset
from millcert.pipelines.dry_run import JobGraph, dry_run, sent_by_value
from millcert.pipelines.publish import is_local
from millcert.pipelines.workers import MEMORY_A_WORKER
from millcert.policy import load_policy

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

IMAGE = "registry.example/millcert@sha256:" + "ab" * 32
ACCOUNT = ("--runner=DataflowRunner", "--project=some-project", "--region=us-central1", "--temp_location=gs://some/tmp")
ON_DATAFLOW = (*ACCOUNT, f"--sdk_container_image={IMAGE}", "--sdk_location=container")
HAS_GCP = importlib.util.find_spec("apitools") is not None
needs_gcp = pytest.mark.skipif(not HAS_GCP, reason="needs pip install 'millcert[gcp]'")
FILES = ("north/a.parquet", "north/deep/b.jsonl", "south/c.arrow")
ROOT = Path(__file__).parents[2]


def dry(bench: Workbench, *arguments: str) -> JobGraph:
    options = VetOptions((str(bench.data),), str(bench.out), bench.top / "state", beam_arguments=arguments)
    return dry_run(load_policy(bench.save_policy()), options)


@pytest.fixture
def graph(bench: Workbench) -> JobGraph:
    return dry(bench, *ON_DATAFLOW)


def payloads(proto: beam_runner_api_pb2.Pipeline, urn: str) -> dict[str, beam_runner_api_pb2.PTransform]:
    return {each.unique_name: each for each in proto.components.transforms.values() if each.spec.urn == urn}


def coders_within(proto: beam_runner_api_pb2.Pipeline, coder_id: str) -> list[beam_runner_api_pb2.Coder]:
    coder = proto.components.coders[coder_id]
    return [coder, *(each for part in coder.component_coder_ids for each in coders_within(proto, part))]


def shuffled(proto: beam_runner_api_pb2.Pipeline) -> dict[str, bytes]:
    """The coders of what crosses each shuffle, by the step's name."""
    return {
        name: b" ".join(
            coder.SerializeToString()
            for collection in step.inputs.values()
            for coder in coders_within(proto, proto.components.pcollections[collection].coder_id)
        )
        for name, step in payloads(proto, common_urns.primitives.GROUP_BY_KEY.urn).items()
    }


def test_a_dry_run_says_what_would_run_and_touches_nothing(bench: Workbench) -> None:
    before = set(bench.top.rglob("*"))

    found = dry(bench)

    assert set(bench.top.rglob("*")) - before <= {
        bench.top / "policy.yaml",
        bench.top / "trusted_root.json",
    }
    assert (found.runner, found.files, found.images, found.unreachable) == ("local", 3, (), ())
    assert found.data_bytes == sum((bench.data / name).stat().st_size for name in FILES)
    assert found.min_ram_bytes == MEMORY_A_WORKER
    assert found.fusion_breaks == tuple(
        f"Vet/{step}/Spread"
        for step in ["DescribeFiles", "HashFiles", *(f"Pass{n + 1}/Run" for n in range(found.reads - 3)), "ScoreFiles"]
    )


def test_more_memory_than_the_job_asks_for_may_be_asked_for(bench: Workbench) -> None:
    assert dry(bench, "--resource_hints=min_ram=8GiB").min_ram_bytes == 8 << 30
    assert dry(bench, "--resource_hints=min_ram=1MiB").min_ram_bytes == MEMORY_A_WORKER


def test_code_that_travels_by_value_is_found() -> None:
    """Attack: a step that brings its own code would run past the reviewed installation."""

    def ours(value: int) -> int:
        return value

    ours.__code__ = ours.__code__.replace(co_filename=str(vet.__file__))
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | "One" >> beam.Create([1]) | "Mine" >> beam.Map(ours)
    _ = pipeline | "Two" >> beam.Create(["/a"]) | "Named" >> beam.Map(is_local)

    assert sent_by_value(pipeline.to_runner_api()) == ("Mine",)


@pytest.mark.skipif(HAS_GCP, reason="the extra is there")
def test_a_missing_extra_is_told_with_the_command_that_installs_it(bench: Workbench) -> None:
    with pytest.raises(UsageError, match=r"part for Google Cloud is not installed.*pip install 'millcert\[gcp\]'"):
        dry(bench, *ON_DATAFLOW)


@pytest.mark.parametrize("argument", ["data", "out"])
def test_a_run_whose_workers_cannot_see_its_files_is_refused_before_anything_starts(
    bench: Workbench, argument: str
) -> None:
    here = {"data": str(bench.data), "out": str(bench.out)}
    options = VetOptions(
        (here["data"] if argument == "data" else "gs://some/data",),
        here["out"] if argument == "out" else "gs://some/out",
        bench.top / "state",
        beam_arguments=ON_DATAFLOW,
    )
    with pytest.raises(UsageError, match=f"Dataflow's workers cannot see {here[argument]}"):
        vet_dataset(load_policy(bench.save_policy()), options)
    assert not (bench.top / "state").exists()


@needs_gcp
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ACCOUNT, "does not say which millcert"),
        ((*ACCOUNT, "--sdk_container_image=registry.example/millcert:latest"), "names no bytes"),
        (("--runner=DataflowRunner", "--project=p", "--region=r"), "needs --temp_location"),
        ((*ON_DATAFLOW, "--temp_location=/tmp/x"), "in a bucket, not /tmp/x"),
        ((*ON_DATAFLOW, "--temp_location=gs://b/x"), "in a bucket, not gs://b/x"),
        ((*ON_DATAFLOW, "--project=P!"), "cannot take the job"),
    ],
)
def test_a_job_that_dataflow_or_a_reviewer_could_not_take_is_refused(
    bench: Workbench, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        dry(bench, *arguments)


@needs_gcp
def test_dataflow_gets_the_pinned_image_and_installs_nothing(graph: JobGraph) -> None:
    assert graph.images == (IMAGE,)
    # Beam's list of what the driver has installed, which workers compare theirs with.
    assert [file.name for file in graph.shipped] == ["submission_environment_dependencies.txt"]
    assert [path.rpartition("/")[2] for path in graph.unreachable] == ["data", "out"]


@needs_gcp
@pytest.mark.slow
def test_a_setup_file_ships_the_checkout_as_a_package(bench: Workbench) -> None:
    shipped = {file.name: file for file in dry(bench, *ACCOUNT, f"--setup_file={ROOT}/setup.py").shipped}

    assert set(shipped) == {"submission_environment_dependencies.txt", "workflow.tar.gz"}
    assert all(len(file.sha256) == 64 for file in shipped.values())


@needs_gcp
def test_dataflow_s_own_changes_keep_names_fusion_breaks_and_hints(bench: Workbench, graph: JobGraph) -> None:
    """Rule: the graph depends on the plan alone, files spread before every read, and all steps may fuse."""
    again = dry(bench, *ON_DATAFLOW)
    steps = graph.proto.components.transforms.values()
    used = {each.environment_id for each in steps if each.environment_id and each.unique_name.startswith("Vet/")}

    assert sorted(each.unique_name for each in steps) == sorted(
        each.unique_name for each in again.proto.components.transforms.values()
    )
    assert len(graph.fusion_breaks) == graph.reads
    hints = [dict(graph.proto.components.environments[each].resource_hints) for each in used]
    assert [list(each.values()) for each in hints] == [[str(MEMORY_A_WORKER).encode()]]


@needs_gcp
def test_no_sample_crosses_a_shuffle_on_dataflow(graph: JobGraph) -> None:
    """Rule: only files' names, accumulators and records cross a shuffle."""
    crossing = shuffled(graph.proto)

    assert len(crossing) > graph.reads
    assert not [name for name, coders in crossing.items() if b"RecordBatch" in coders]
    # The test sees a record batch where there is one.
    pipeline = beam.Pipeline(runner="FnApiRunner")
    batches = pipeline | beam.Create([]).with_output_types(pa.RecordBatch)
    _ = (
        batches
        | beam.Map(lambda batch: (1, batch)).with_output_types(beam.typehints.KV[int, pa.RecordBatch])
        | beam.GroupByKey()
    )
    assert any(b"RecordBatch" in coders for coders in shuffled(pipeline.to_runner_api()).values())


@needs_gcp
def test_dataflow_s_steps_name_their_functions(graph: JobGraph) -> None:
    """Rule: workers run the code of their image; nothing that the driver has in memory goes to them as code."""
    assert not sent_by_value(graph.proto)
    assert len(payloads(graph.proto, common_urns.primitives.PAR_DO.urn)) > 10
