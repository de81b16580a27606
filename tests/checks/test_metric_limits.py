"""What a result would list of each value is bounded: beyond the bound a suite is inconclusive, and says so."""

from typing import Any

import pyarrow as pa
import pytest

from millcert.checks import metric_answers, metric_tally
from millcert.errors import InconclusiveError
from tests.checks.test_expectations_identity import by_us, expectation

MOST = 60


def divergence(values: list[Any]) -> dict[str, Any]:
    weights = [1 / len(values)] * len(values)
    partition = {"values": values, "weights": weights}
    return expectation("column_kl_divergence_to_be_less_than", column="x", partition_object=partition, threshold=0.1)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (metric_tally, metric_answers):
        monkeypatch.setattr(module, "MAX_TABLE", MOST)


@pytest.mark.usefixtures("few")
def test_a_divergence_of_as_many_values_as_are_listed_is_computed() -> None:
    values = list(range(MOST))

    ours, _ = by_us(pa.table({"x": values * 2}), [divergence(values)], "SUMMARY", [2 * MOST], 7)

    assert ours.success
    assert len(ours.json["results"][0]["result"]["details"]["observed_partition"]["values"]) == MOST


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kept", [1, 4000])
def test_a_divergence_of_too_many_values_is_inconclusive(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Whether a partition of 256 alone or all of them together have too many."""
    monkeypatch.setattr(metric_tally, "MAX_KEPT", kept)

    with pytest.raises(InconclusiveError, match=r"61 distinct values; a divergence is computed of at most 60"):
        by_us(pa.table({"x": list(range(MOST + 1))}), [divergence([1, 2])], "SUMMARY", [MOST + 1], 7)


@pytest.mark.parametrize(("limit", "value"), [("MAX_KEPT", 3), ("MAX_KEPT_BYTES", 300)])
def test_most_common_values_are_told_beside_partitions_of_very_many(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """A partition whose ties are too many to keep does not matter where another value is more common."""
    monkeypatch.setattr(metric_tally, limit, value)
    texts = [f"text {number:060d}" for number in range(3000)]
    asked = [expectation("column_most_common_value_to_be_in_set", column="x", value_set=["b"], ties_okay=True)]

    ours, _ = by_us(pa.table({"x": [*texts, "a", "b", "b", "a"]}), asked, "SUMMARY", [2000, 1004], 500)
    with pytest.raises(InconclusiveError, match=r"3000 values of 'x' are equally common \(1 times each\)"):
        by_us(pa.table({"x": texts}), asked, "SUMMARY", [3000], 500)

    assert ours.json["results"][0]["result"]["observed_value"] == ["a", "b"]
