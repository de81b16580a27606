"""The job graph as every runner gets it, built without running: names, fusion breaks, and what crosses a shuffle."""

import base64
import bz2
import dataclasses
import re
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pytest
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from millcert.pipelines.plan import VetPlan
from millcert.pipelines.planning import Workspace, plan_run
from millcert.pipelines.records import WorkItem
from millcert.pipelines.runner import pipeline_options
from millcert.pipelines.vet import build_pipeline
from millcert.policy import load_policy

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

#: The steps that open files.
READERS = ("HashFiles/Hash", "DescribeFiles/Describe", "/Run/Read", "ScoreFiles/Score")


class Graph(PipelineVisitor):  # type: ignore[misc] # Beam carries no types
    """Every transform by its full label."""

    def __init__(self) -> None:
        self.transforms: dict[str, AppliedPTransform] = {}

    def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
        self.transforms[transform_node.full_label] = transform_node

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        self.transforms[transform_node.full_label] = transform_node


def graph_of(pipeline: beam.Pipeline) -> dict[str, AppliedPTransform]:
    graph = Graph()
    pipeline.visit(graph)
    return graph.transforms


@pytest.fixture
def plan(bench: Workbench) -> VetPlan:
    """The plan of a run with a check of three passes, one of two, and expectations."""
    bench.policy["dataset"]["columns"]["embedding_self"] = "own"  # building reads no data: no file needs the column
    bench.policy["checks"].append({"check": "robust_spectral", "max_flagged_fraction": 0.1})
    (bench.top / "suite.json").write_text(
        '{"name": "s", "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}}]}'
    )
    bench.policy["expectations"] = {"suite": "suite.json", "on_failure": "reject"}
    return plan_run(load_policy(bench.save_policy()), [str(bench.data)], Workspace(str(bench.top / "staging")))


@pytest.fixture
def pipeline(plan: VetPlan) -> beam.Pipeline:
    return build_pipeline(plan, pipeline_options([]))


def test_labels_depend_on_nothing_but_the_number_of_passes(plan: VetPlan, pipeline: beam.Pipeline) -> None:
    """Rule: labels are constants, so that two builds of one plan give the same graph."""
    again = build_pipeline(dataclasses.replace(plan, staging=f"{plan.staging}-2"), pipeline_options([]))

    names = [sorted(each.to_runner_api().components.transforms) for each in (pipeline, again)]
    labels = list(graph_of(pipeline))

    assert names[0] == names[1]
    assert labels == list(graph_of(again))
    assert not [label for label in labels if re.search(r"[0-9a-f]{8}", label)]


def test_every_reader_stands_behind_a_fusion_break(plan: VetPlan, pipeline: beam.Pipeline) -> None:
    """Rule: files spread over the workers before they are read, in every pass anew."""
    transforms = graph_of(pipeline)
    readers = {label: node for label, node in transforms.items() if label.endswith(READERS)}

    assert len(readers) == plan.reads
    for node in readers.values():
        (source,) = node.main_inputs.values()
        assert "/Spread" in source.producer.full_label


def test_no_sample_crosses_a_shuffle(pipeline: beam.Pipeline) -> None:
    """Rule: only accumulators, scores of flagged rows and records cross a shuffle, embeddings never."""
    groupings = {
        label: node for label, node in graph_of(pipeline).items() if isinstance(node.transform, beam.GroupByKey)
    }

    assert groupings
    for label, node in groupings.items():
        (source,) = node.main_inputs.values()
        is_spreading_files = "/Spread/" in label and "RecordBatch" not in str(source.element_type)
        is_merging_parts = re.search("/Pass[0-9]+/Run/(Merge|GroupMetrics)", label)
        is_joining_spans = re.search("/(JoinShards|ScoreFiles)/GroupSpans", label)
        if is_joining_spans:
            assert str(source.element_type).endswith(("SpanFacts'>]", "SpanOutcome'>]")), label
        assert is_spreading_files or is_merging_parts or is_joining_spans, label
    for label, node in graph_of(pipeline).items():
        if label.endswith("/Spread"):
            (spread,) = node.main_inputs.values()
            assert spread.element_type is WorkItem, label


def test_no_sample_goes_from_one_step_to_another(pipeline: beam.Pipeline) -> None:
    """Rule: samples stay in the worker that reads them; runners cut a pipeline where they like, and carry what crosses.

    Portable runners cut before every step with side inputs, for example, which all steps of a pass have.
    """
    crossing = [
        output
        for node in graph_of(pipeline).values()
        for output in node.outputs.values()
        if "RecordBatch" in str(output.element_type)
    ]

    assert not crossing


def test_workers_run_the_code_that_is_installed_there(pipeline: beam.Pipeline) -> None:
    """Rule: functions travel by name; code that travels by value would bypass the reviewed installation."""
    proto = pipeline.to_runner_api()
    urn = common_urns.primitives.PAR_DO.urn

    sent = []
    for transform in proto.components.transforms.values():
        if transform.spec.urn == urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload).do_fn.payload
            sent.append(bz2.decompress(base64.b64decode(payload)))

    ours = [data for data in sent if b"millcert" in data]
    assert len(ours) > 10
    assert not [data for data in ours if b"_make_skeleton_class" in data and b"millcert.pipelines" in data]


def test_the_graph_does_not_grow_with_the_number_of_files(plan: VetPlan) -> None:
    """Rule: the plan goes to the workers without its files; only what makes, verifies or rules on the list holds it."""
    small = build_pipeline(plan, pipeline_options([])).to_runner_api()
    many = tuple(plan.items[0]._replace(name=f"{plan.items[0].name}-{number}") for number in range(2000))
    large = build_pipeline(dataclasses.replace(plan, items=many), pipeline_options([])).to_runner_api()

    grown = {
        transform.unique_name.split("/")[1]
        for name, transform in large.components.transforms.items()
        if len(transform.spec.payload) > len(small.components.transforms[name].spec.payload) + 1000
    }

    assert grown <= {"AllFiles", "DataFiles", "VerifySources", "Once", "Rule"}


def test_keys_and_ledger_are_not_in_the_graph(bench: Workbench, pipeline: beam.Pipeline) -> None:
    """Rule: the driver alone holds keys and the ledger; no worker is told where they are."""
    text = pipeline.to_runner_api().SerializeToString()

    assert str(bench.top / "state").encode() not in text
