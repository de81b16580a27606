"""Batches of few rows are added together: what comes out, and whose fault a refusal is, stays the same."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput

from millcert.errors import InvalidSampleError
from millcert.pipelines import accumulate
from millcert.pipelines.accumulate import _Accumulate
from millcert.pipelines.read import FILE_KEY, SOURCE_KEY


class Sums:
    """A check that adds up rows and refuses negative ones; counts how often it was asked."""

    name, passes = "sums", 1

    def __init__(self) -> None:
        self.calls = 0

    def empty(self) -> dict[str, int]:
        return {}

    def add(self, acc: Mapping[str, int], batch: pa.RecordBatch, model: object) -> dict[str, int]:
        self.calls += 1
        values = batch.column(0).to_numpy()
        if (values < 0).any():
            raise InvalidSampleError("A row is negative.")
        return {"all": acc.get("all", 0) + int(values.sum())}


def batch_of(file: str, values: list[int]) -> pa.RecordBatch:
    columns = [pa.array(np.arange(len(values))), pa.array(values, pa.int64())]
    found = pa.RecordBatch.from_arrays(columns, names=["row", "role:x"])
    return found.replace_schema_metadata({FILE_KEY: file.encode(), SOURCE_KEY: b"s"})


def run(batches: list[pa.RecordBatch]) -> tuple[Sums, list[Any]]:
    check = Sums()
    plan: Any = SimpleNamespace(checks=(SimpleNamespace(check=check, name=check.name),), profile=None)
    dataset: Any = SimpleNamespace(metrics=None)
    adder = _Accumulate(plan, 1)
    adder.start_bundle()
    found = [element for batch in batches for element in adder.process(batch, dataset, None)]
    return check, [*found, *adder.finish_bundle()]


@pytest.mark.parametrize(
    ("small", "rows", "size", "calls"), [(2048, 16_384, 32 << 20, 1), (0, 16_384, 1, 20), (2048, 10, 32 << 20, 10)]
)
def test_small_batches_are_added_together_to_the_same_sum(
    small: int, rows: int, size: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulate, "_SMALL_ROWS", small)
    monkeypatch.setattr(accumulate, "_WAITING_ROWS", rows)
    monkeypatch.setattr(accumulate, "_WAITING_BYTES", size)
    check, (value,) = run([batch_of(str(number), [number] * 5) for number in range(20)])

    assert value.value == (("sums", "all"), ("sums", {"all": 5 * sum(range(20))}))
    assert check.calls == calls


def test_a_refused_batch_is_told_with_its_file_whatever_it_waited_with(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [batch_of("good", [1, 2]), batch_of("bad", [3, -1]), batch_of("also good", [4])]
    _, (late,) = run(batches)
    monkeypatch.setattr(accumulate, "_WAITING_ROWS", 4)
    _, found = run(batches)
    at_once = [element for element in found if isinstance(element, TaggedOutput) and element.tag == "notes"]

    assert late.tag == "notes"
    assert late.value.value.file == "bad"
    assert [element.value.file for element in at_once] == ["bad"]
