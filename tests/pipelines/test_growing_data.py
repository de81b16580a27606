"""A data set that grows by a file a day: the first pass reads the new file alone, and what is kept is bounded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from millcert.errors import RevokedError
from millcert.pipelines.driver import VetResult
from millcert.pipelines.work_gc import choose_garbage, delete_entries, list_entries

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

DAYS = 5


def counts(result: VetResult) -> dict[str, tuple[int, int]]:
    return {one.step: (one.done, one.reused) for one in result.work}


def clean(place: str, moment: Path) -> None:
    """Take away what was not used since a file was touched."""
    delete_entries(choose_garbage(list_entries(place), used_before=moment.stat().st_mtime))


def test_each_day_reads_one_file_first_and_cleaning_bounds_what_is_kept(
    bench: Workbench, make: Callable[..., pa.Table]
) -> None:
    place, moment = str(bench.top / "state" / "work"), bench.top / "moment"
    for day in range(DAYS):
        bench.write("north", f"day-{day}.parquet", make(40, 100 + day))
        bench.sign("north")
        files = 4 + day
        if day == DAYS - 1:
            shutil.copytree(bench.top / "state", bench.top / "elsewhere")  # the same history
        moment.touch()

        result = bench.vet(replace=bool(day), incremental=True, least_work_bytes=0)

        assert counts(result)["pass 1"] == ((1, files - 1) if day else (files, 0))
        left_alone = len(list_entries(place))
        clean(place, moment)
        # One entry a step and file, and no more however many days there were; the hash step keeps nothing for others.
        assert len(list_entries(place)) == files * (len(counts(result)) - 1)
        assert day == 0 or len(list_entries(place)) < left_alone

    fresh = bench.vet(out=bench.top / "fresh", state=bench.top / "elsewhere")
    again = bench.vet(replace=True, incremental=True, least_work_bytes=0)

    assert fresh.verdict.digest == result.verdict.digest
    assert {step for step, (done, _) in counts(again).items() if done} == {"hash"}


def test_another_policy_reads_again_what_it_asks_otherwise_and_nothing_else(bench: Workbench) -> None:
    bench.vet(incremental=True, least_work_bytes=0)
    bench.policy["checks"][0]["config"] = {"folds": 4}

    asked_otherwise = bench.vet(replace=True, incremental=True, least_work_bytes=0)

    assert counts(asked_otherwise)["describe"] == (0, 3)
    assert counts(asked_otherwise)["pass 1"] == (3, 0)


def test_what_was_kept_does_not_bring_a_source_back_that_was_withdrawn(bench: Workbench) -> None:
    """A source that the policy names no more is refused, and one that is gone leaves no file in the output."""
    bench.vet(incremental=True, least_work_bytes=0)
    shutil.rmtree(bench.data / "south")
    bench.policy["sources"] = bench.policy["sources"][:1]
    shutil.copytree(bench.top / "state", bench.top / "elsewhere")

    less = bench.vet(replace=True, incremental=True, least_work_bytes=0)
    fresh = bench.vet(out=bench.top / "fresh", state=bench.top / "elsewhere")

    assert less.verdict.digest == fresh.verdict.digest
    assert counts(less)["pass 1"] == (0, 2)
    assert {path.name for path in (bench.out / "admitted").iterdir()} == {"north"}


def test_a_revocation_stops_a_run_of_which_all_work_is_kept(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revocations are looked up by the driver, in every run; no entry of the store speaks of them."""
    from millcert.provenance.revocation import Facts

    bench.vet(incremental=True, least_work_bytes=0)
    asked: list[Facts] = []

    def refuse(_: Any, facts: Facts, *, what: str) -> None:
        asked.append(facts)
        raise RevokedError(f"{what} was revoked.")

    monkeypatch.setattr("millcert.pipelines.clearing.refuse_revoked", refuse)

    with pytest.raises(RevokedError):
        bench.vet(out=bench.top / "again", incremental=True, least_work_bytes=0)

    assert {name for name, _, _ in asked[0].sources or ()} == {"north", "south"}
    assert not (bench.top / "again").exists()
