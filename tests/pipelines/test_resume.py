"""Runs that stop are resumed: what was done is not done again, and nothing of the answer changes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from millcert.errors import StoreError
from millcert.pipelines.driver import Engine, VetResult
from millcert.pipelines.publish import left_stagings

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

#: Files that say the same whenever they are made; certificate and signatures name their time and place in the ledger.
ALIKE = ("findings.parquet", "malformed.parquet", "manifest.json", "verdict.json")


def published(out: Path) -> Mapping[str, bytes]:
    names = [path.relative_to(out).as_posix() for path in sorted(out.rglob("*")) if path.is_file()]
    return {
        name: (out / name).read_bytes()
        for name in names
        if name in ALIKE or name.startswith(("admitted", "quarantine"))
    }


def stopping_at(bench: Workbench, step: str, file: str) -> Engine:
    """Return an engine whose machine fails when a step comes to a file."""

    def before_file(now: str, name: str) -> None:
        if (now, name) == (step, file):
            raise StoreError("The machine failed.")

    return bench.plain(before_file=before_file)


def counts(result: VetResult) -> Mapping[str, tuple[int, int]]:
    return {one.step: (one.done, one.reused) for one in result.work}


@pytest.fixture
def noisy(bench: Workbench, make: Callable[..., pa.Table]) -> Workbench:
    """A data set of which label noise holds some samples back, so that every kind of part is written."""
    table = make(150, 4)
    wrong = (table["label"].to_numpy() + (table["id"].to_numpy(zero_copy_only=False) < "4-12")) % 3
    bench.write("north", "noisy.parquet", table.set_column(1, "label", pa.array(wrong)))
    bench.sign("north")
    bench.policy["checks"] = [{"check": "label_noise", "max_flagged_fraction": 0.5}]
    bench.policy["verdict"]["max_quarantined_fraction"] = 0.5
    return bench


@pytest.mark.parametrize(
    ("step", "file"),
    [
        ("hash", "north/noisy.parquet"),
        ("pass 1", "south/c.arrow"),
        ("pass 3", "north/deep/b.jsonl"),
        ("score", "south/c.arrow"),
    ],
)
def test_a_resumed_run_does_only_what_is_left_and_gives_the_same_bytes(noisy: Workbench, step: str, file: str) -> None:
    whole = noisy.vet(out=noisy.top / "whole", least_work_bytes=0)
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, step, file))

    resumed = noisy.vet(least_work_bytes=0, resume=True)

    assert resumed.verdict.digest == whole.verdict.digest
    assert published(noisy.out) == published(noisy.top / "whole")
    order = list(counts(whole))
    names = sorted(
        path.relative_to(noisy.data).as_posix() for path in noisy.data.rglob("*.*") if "millcert" not in path.name
    )
    for done in order[: order.index(step)]:
        assert counts(resumed)[done][0] == 0, done
    left = len(names) - names.index(file)
    assert counts(resumed)[step][0] == left
    assert all(counts(resumed)[later][1] == 0 for later in order[order.index(step) + 1 :])
    assert left_stagings(str(noisy.out)) == []
