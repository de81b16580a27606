"""A worker has suites planned and judged by another process, with the same result, and says so where that fails."""

import json
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.expectations import evaluate_suite, load_suite, plan_suite
from millcert.checks.metric_plan import MetricPlan
from millcert.errors import InconclusiveError, InternalError, PolicyError, StoreError
from millcert.pipelines import gx_process
from millcert.pipelines.gx_process import evaluate_apart, plan_apart
from millcert.pipelines.value_coding import decode_value, digest_of, encode_value
from tests.checks.test_expectations_identity import EVERY, fixed_table

TABLE = pa.table({"id": [1, 2, 2, None], "text": ["a", "b", "{", "c"], "x": [0.5, -1.0, 9.0, 2.0]})


def suite_of(*expectations: tuple[str, dict[str, Any]]) -> Any:
    entries = [{"type": f"expect_{kind}", "kwargs": kwargs} for kind, kwargs in expectations]
    return load_suite(json.dumps({"name": "suite", "expectations": entries}).encode())


SUITE = suite_of(
    ("column_values_to_be_unique", {"column": "id"}),
    ("column_values_to_match_regex", {"column": "text", "regex": "[a-c]"}),
    ("column_value_z_scores_to_be_less_than", {"column": "x", "threshold": 1, "double_sided": True}),
    ("column_median_to_be_between", {"column": "x", "min_value": 0, "row_condition": "id > 0"}),
    ("column_kl_divergence_to_be_less_than", {"column": "text", "partition_object": {"values": ["a"], "weights": [1]}}),
)


def measured(plan: MetricPlan) -> Any:
    batch = TABLE.combine_chunks().to_batches()[0]
    return plan.merge([plan.add(plan.empty(), batch, "f", np.arange(4))])


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process look like one that Beam started."""
    spec = SimpleNamespace(name="apache_beam.runners.worker.sdk_worker_main")
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))


@pytest.mark.usefixtures("worker")
def test_another_process_plans_and_judges_as_this_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    here = plan_suite(SUITE, TABLE.schema)
    acc = measured(here)
    second = measured(here.second(acc))
    monkeypatch.setattr(gx_process, "_WORK", {})  # so that this process cannot do it

    plan = plan_apart(SUITE, TABLE.schema, ())
    result = evaluate_apart(SUITE, plan, acc, TABLE.schema, second, None)

    assert plan == here
    assert digest_of(result) == digest_of(evaluate_suite(SUITE, here, acc, TABLE.schema, second=second))
    assert [outcome.success for outcome in result.outcomes].count(False) >= 2


@pytest.mark.usefixtures("worker")
def test_what_is_refused_there_is_refused_here() -> None:
    with pytest.raises(PolicyError, match="no column 'missing'"):
        plan_apart(suite_of(("column_values_to_be_unique", {"column": "missing"})), TABLE.schema, ())
    suite = suite_of(("column_values_to_match_json_schema", {"column": "text", "json_schema": {"type": "object"}}))
    plan = plan_suite(suite, TABLE.schema)
    with pytest.raises(InconclusiveError, match="could not be judged"):
        evaluate_apart(suite, plan, measured(plan), TABLE.schema, None, None)


@pytest.mark.usefixtures("worker")
def test_a_process_that_fails_or_is_ended_has_no_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(InternalError, match="it broke"):
        plan_apart(SUITE, TABLE.schema, ())
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(StoreError, match="signal 9"):
        plan_apart(SUITE, TABLE.schema, ())


def test_every_expectation_is_planned_and_measured_in_values_that_have_a_form_in_bytes() -> None:
    """Rule: a worker never has to judge a suite itself, and so never imports Great Expectations."""
    price = pa.array([Decimal("0.25"), Decimal("-1.50"), None] * 20, pa.decimal128(7, 2))
    table = fixed_table(60).append_column("price", price)
    cents: list[tuple[str, dict[str, Any]]] = [
        ("column_values_to_be_between", {"column": "price", "min_value": 0.3, "strict_max": True}),
        ("column_values_to_be_in_set", {"column": "price", "value_set": [0.25, 7]}),
        ("column_distinct_values_to_be_in_set", {"column": "price", "value_set": [0.25, 7]}),
    ]
    asked = [*EVERY, *suite_of(*cents).expectations]
    suite = load_suite(json.dumps({"name": "all", "expectations": [dict(one) for one in asked]}).encode())
    plan = plan_suite(suite, table.schema)
    acc = plan.merge([plan.add(plan.empty(), table.to_batches()[0], "f", np.arange(60))])
    again = plan.second(acc)
    second = again.merge([again.add(again.empty(), table.to_batches()[0], "f", np.arange(60))])

    for value in (suite, plan, acc, second, evaluate_suite(suite, plan, acc, table.schema, second=second)):
        assert digest_of(decode_value(encode_value(value))) == digest_of(value)
    assert decode_value(encode_value(plan)) == plan


def test_this_process_is_no_worker() -> None:
    assert not gx_process._is_worker()
