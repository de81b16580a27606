"""Distinct values that travel in files come to the same results, and a file that was changed is noticed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.metric_counting import CountDistinct
from millcert.checks.metric_distinct import Distinct
from millcert.checks.metric_plan import MetricPlan
from millcert.checks.metric_tally import Wanted
from millcert.errors import StoreError
from millcert.pipelines import accumulate
from millcert.pipelines.metric_spill import Accumulators, recalled, spill
from millcert.pipelines.value_coding import digest_of

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

PLAN = MetricPlan("", "SUMMARY", (CountDistinct("x", 20, Wanted(is_repeated=True, is_modes=True)),))


def parts(values: pa.Array, size: int) -> list[dict[str, Distinct]]:
    """Return what workers have of some values, each of `size` rows."""
    found = []
    for start in range(0, len(values), size):
        batch = pa.record_batch({"x": values.slice(start, size)})
        acc = PLAN.add(PLAN.empty(), batch, f"part-{start:06}", np.arange(batch.num_rows))
        found.append(dict(PLAN.merge([acc])))
    return found


@pytest.mark.parametrize(
    "values",
    [
        pa.array(np.random.default_rng(1).integers(0, 900, 2000)),
        pa.array([f"text {number % 700}" * (1 + number % 9) for number in range(2000)]),
        pa.array([number / 7 if number % 5 else None for number in range(2000)]),
    ],
    ids=["numbers", "texts", "with nulls"],
)
def test_what_was_written_and_read_again_has_the_same_tally(values: pa.Array, tmp_path: Path) -> None:
    several = parts(values, 300)
    groups = {group for part in several for group in part}

    written = [spill(str(tmp_path), part) for part in several]

    assert len(list((tmp_path / "spill").iterdir())) == len(several)
    for group in sorted(groups):
        plain = PLAN.total(group, [{group: part[group]} for part in several if group in part])
        placed = [("", {group: places[group]}) for places in written if group in places]
        assert digest_of(PLAN.total(group, Accumulators(placed))) == digest_of(plain)


def test_a_file_that_was_changed_is_refused_and_can_be_tried_again(tmp_path: Path) -> None:
    (place,) = list(spill(str(tmp_path), {"000/1f": ((1, 2),), "000/20": ()}).values())[:1]
    path = Path(place.uri)
    path.write_bytes(path.read_bytes()[:3] + b"?" + path.read_bytes()[4:])

    with pytest.raises(StoreError, match="does not hold what a worker wrote"):
        recalled(place)

    path.unlink()
    with pytest.raises(StoreError):
        recalled(place)


@pytest.mark.slow
@pytest.mark.parametrize("on_beam", [False, True])
def test_a_job_that_writes_them_has_the_verdict_of_one_that_does_not(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, on_beam: bool
) -> None:
    suite = {
        "name": "suite",
        "expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}],
    }
    (bench.top / "suite.json").write_text(json.dumps(suite))
    bench.policy["expectations"] = {"suite": "suite.json", "on_failure": "warn"}
    plain = bench.vet(out=tmp_path / "plain").verdict
    written: list[int] = []

    def spy(staging: str, groups: Any) -> Any:
        written.append(len(groups))
        return spill(staging, groups)

    monkeypatch.setattr(accumulate, "MANY_ENTRIES", 1)
    monkeypatch.setattr(accumulate, "spill", spy)
    other = bench.vet(out=tmp_path / "spilled", on_beam=on_beam).verdict

    assert sum(written) > 0
    assert other.digest == plain.digest
