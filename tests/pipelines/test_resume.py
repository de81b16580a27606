"""Runs that stop are resumed: what was done is not done again, and nothing of the answer changes.

A verdict says what changed since the last admitted version, so runs that are compared have one history each alike.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from millcert.errors import StoreError, UsageError
from millcert.pipelines.driver import Engine, VetOptions, VetResult
from millcert.pipelines.plan import PlannedWork
from millcert.pipelines.publish import left_stagings
from millcert.pipelines.resume import least_bytes
from millcert.provenance.work_key import forget_work, work_key

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
    whole = noisy.vet(out=noisy.top / "whole", state=noisy.top / "elsewhere", least_work_bytes=0)
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


def test_without_resume_the_next_run_removes_what_was_left_and_does_everything(noisy: Workbench) -> None:
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, "score", "south/c.arrow"))
    assert left_stagings(str(noisy.out))

    again = noisy.vet(least_work_bytes=0)

    assert all(reused == 0 for _, reused in counts(again).values())
    assert left_stagings(str(noisy.out)) == []


def test_what_a_killed_run_left_is_no_output_for_anybody(noisy: Workbench) -> None:
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, "score", "south/c.arrow"))

    (staging,) = left_stagings(str(noisy.out))

    assert (Path(staging) / "publish" / "admitted" / "north" / "a.parquet").exists()
    assert not list(Path(staging).rglob("certificate.json"))
    assert Path(staging).stat().st_mode & 0o077 == 0


def test_a_file_that_is_gone_when_the_run_is_resumed_is_not_published(noisy: Workbench) -> None:
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, "score", "south/c.arrow"))
    (noisy.data / "north" / "a.parquet").unlink()
    noisy.sign("north")

    resumed = noisy.vet(least_work_bytes=0, resume=True)
    fresh = noisy.vet(out=noisy.top / "fresh", state=noisy.top / "elsewhere")

    assert resumed.verdict.digest == fresh.verdict.digest
    assert published(noisy.out) == published(noisy.top / "fresh")
    assert not (noisy.out / "admitted" / "north" / "a.parquet").exists()


def test_a_file_that_changed_when_the_run_is_resumed_is_read_anew(
    noisy: Workbench, make: Callable[..., pa.Table]
) -> None:
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, "score", "south/c.arrow"))
    noisy.write("north", "a.parquet", make(150, 9))
    noisy.sign("north")

    resumed = noisy.vet(least_work_bytes=0, resume=True)
    fresh = noisy.vet(out=noisy.top / "fresh", state=noisy.top / "elsewhere")

    assert published(noisy.out) == published(noisy.top / "fresh")
    assert resumed.verdict.digest == fresh.verdict.digest
    assert counts(resumed)["hash"] == (1, 3)
    assert counts(resumed)["pass 1"] == (1, 3)
    assert counts(resumed)["pass 2"] == (4, 0)


@pytest.mark.parametrize("damage", ["left outputs", "left entries", "another key"])
def test_what_was_changed_since_is_done_again_and_never_published(noisy: Workbench, damage: str) -> None:
    whole = noisy.vet(out=noisy.top / "whole", state=noisy.top / "elsewhere", least_work_bytes=0)
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, "score", "south/c.arrow"))
    (staging,) = map(Path, left_stagings(str(noisy.out)))
    if damage == "another key":
        forget_work(noisy.top / "state")
    else:
        below = staging / ("work" if damage == "left entries" else "publish")
        for path in [path for path in below.rglob("*") if path.is_file()]:
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    resumed = noisy.vet(least_work_bytes=0, resume=True)

    assert resumed.verdict.digest == whole.verdict.digest
    assert published(noisy.out) == published(noisy.top / "whole")
    assert counts(resumed)["score"][1] == 0
    assert bool(sum(one.refused for one in resumed.work)) == (damage != "left outputs")


def test_a_run_that_had_begun_to_log_is_resumed_under_another_policy_with_salts_of_its_own(noisy: Workbench) -> None:
    """Leaves that the ledger may name must not appear in two runs; asked for the same it is one run."""

    def fail_behind_recording(step: str) -> None:
        if step == "recorded":
            raise StoreError("The machine failed.")

    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, after=fail_behind_recording)
    (before,) = (noisy.top / "state" / "provenance").iterdir()
    noisy.policy["checks"][0]["max_flagged_fraction"] = 0.4

    resumed = noisy.vet(least_work_bytes=0, resume=True)

    runs = {path.name for path in (noisy.top / "state" / "provenance").iterdir()}
    assert len(runs) == 2
    assert before.name in runs
    assert counts(resumed)["pass 2"][0] == 0
    leaves = [set(hashes(folder)) for folder in sorted((noisy.top / "state" / "provenance").iterdir())]
    assert not leaves[0] & leaves[1]


def hashes(folder: Path) -> list[bytes]:
    data = (folder / "rows.0").read_bytes()
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def test_with_a_file_added_the_first_pass_reads_that_file_alone_and_the_verdict_is_that_of_a_fresh_run(
    noisy: Workbench, make: Callable[..., pa.Table]
) -> None:
    noisy.policy |= {"profile": {"hash_key": "hash.key"}}
    (noisy.top / "hash.key").write_text("ab" * 32 + "\n")
    first = noisy.vet(incremental=True, least_work_bytes=0)
    noisy.write("north", "more.parquet", make(80, 8))
    noisy.sign("north")
    shutil.copytree(noisy.top / "state", noisy.top / "elsewhere")

    more = noisy.vet(out=noisy.top / "more", incremental=True, least_work_bytes=0)
    fresh = noisy.vet(out=noisy.top / "fresh", state=noisy.top / "elsewhere")

    assert all(reused == 0 for _, reused in counts(first).values())
    assert more.verdict.digest == fresh.verdict.digest
    assert published(noisy.top / "more") == published(noisy.top / "fresh")
    assert {one.step: one.read for one in more.work if one.reused} == {
        "describe": ("north/more.parquet",),
        "pass 1": ("north/more.parquet",),
    }
    assert counts(more)["hash"] == (5, 0)
    one, other = [set(hashes(folder)) for folder in (noisy.top / "state" / "provenance").iterdir()]
    assert not one & other


def test_the_same_files_under_another_limit_are_hashed_and_copied_and_not_read(bench: Workbench) -> None:
    bench.vet(incremental=True, least_work_bytes=0)
    bench.policy["checks"][0]["max_flagged_fraction"] = 0.2
    shutil.copytree(bench.top / "state", bench.top / "elsewhere")

    again = bench.vet(out=bench.top / "again", incremental=True, least_work_bytes=0)
    fresh = bench.vet(out=bench.top / "fresh", state=bench.top / "elsewhere")

    assert again.verdict.digest == fresh.verdict.digest
    assert published(bench.top / "again") == published(bench.top / "fresh")
    assert {step for step, (done, _) in counts(again).items() if done} == {"hash"}


@pytest.mark.parametrize("change", ["check", "reading", "suite", "roles"])
def test_what_the_policy_asks_of_files_is_part_of_what_is_kept(bench: Workbench, change: str) -> None:
    bench.vet(incremental=True, least_work_bytes=0)
    if change == "check":
        bench.policy["checks"][0]["config"] = {"folds": 4}
    elif change == "reading":
        bench.policy["limits"] = {"max_file_bytes": 1 << 20}
    elif change == "suite":
        suite = {"name": "s", "expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "id"}}]}
        (bench.top / "suite.json").write_text(json.dumps(suite))
        bench.policy["expectations"] = {"suite": "suite.json", "on_failure": "reject"}
    else:
        bench.policy["dataset"]["columns"]["text"] = "text"

    again = bench.vet(out=bench.top / "again", incremental=True, least_work_bytes=0)

    assert counts(again)["pass 1"] == (3, 0)


def test_a_store_that_is_poisoned_changes_nothing_but_the_work(noisy: Workbench) -> None:
    """Who can write to the store, and has no key, can make work be done again and nothing else."""
    place = noisy.top / "store"
    work_key(noisy.top / "state")
    shutil.copytree(noisy.top / "state", noisy.top / "elsewhere")  # the same key, and as little history
    whole = noisy.vet(work=str(place), least_work_bytes=0)
    entries = sorted(path for path in place.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in entries]
    for path, other in zip(entries, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(other)

    again = noisy.vet(out=noisy.top / "again", state=noisy.top / "elsewhere", work=str(place), least_work_bytes=0)

    assert again.verdict.digest == whole.verdict.digest
    assert published(noisy.top / "again") == published(noisy.out)
    assert all(reused == 0 for _, reused in counts(again).values())
    assert sum(one.refused for one in again.work) >= len(noisy_files(noisy))


def noisy_files(bench: Workbench) -> list[Path]:
    return [path for path in bench.data.rglob("*.*") if path.suffix in {".parquet", ".jsonl", ".arrow"}]


def test_other_code_finds_nothing_of_what_was_kept(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.vet(incremental=True, least_work_bytes=0)
    monkeypatch.setattr("millcert.pipelines.work_keys.code_digest", lambda _: "another release")

    again = bench.vet(out=bench.top / "again", incremental=True, least_work_bytes=0)

    assert all(reused == 0 for _, reused in counts(again).values())


def test_a_store_that_cannot_be_written_is_told_and_the_run_goes_on(bench: Workbench) -> None:
    (bench.top / "store").write_text("in the way")

    result = bench.vet(work=str(bench.top / "store"), least_work_bytes=0)

    assert result.verdict.decision == "admitted"
    assert sum(one.failed for one in result.work) > 0


@pytest.mark.parametrize("place", ["data/work", "out/work"])
def test_a_store_among_the_data_or_in_the_output_is_refused(bench: Workbench, place: str) -> None:
    with pytest.raises(UsageError):
        bench.vet(work=str(bench.top / place))


def test_workers_of_a_cluster_are_not_sent_to_the_state_folder(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="--work"):
        bench.vet(incremental=True, beam_arguments=("--runner=FlinkRunner",))


def test_work_on_small_files_is_not_kept(bench: Workbench) -> None:
    bench.vet(incremental=True)

    assert not [path for path in (bench.top / "state" / "work").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("asked", "read_gib", "is_kept"),
    [
        ({}, 63, False),
        ({}, 64, True),
        ({"keep_work": True}, 1, True),
        ({"keep_work": False}, 100, False),
        ({"resume": True}, 1, True),
        ({"incremental": True}, 1, True),
        ({"work": "place"}, 1, True),
    ],
)
def test_work_is_kept_where_it_was_asked_for_or_takes_long(
    tmp_path: Path, asked: dict[str, Any], read_gib: int, is_kept: bool
) -> None:
    options = VetOptions(("data",), "out", tmp_path, **asked)

    assert least_bytes(options, read_gib << 30) == (PlannedWork.least_bytes if is_kept else 1 << 62)


@pytest.mark.parametrize("asked", [{"resume": True}, {"incremental": True}, {"work": "place"}])
def test_work_that_is_needed_and_not_kept_is_a_contradiction(bench: Workbench, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--no-keep-work"):
        bench.vet(keep_work=False, **asked)


def test_a_small_run_keeps_nothing_unless_it_is_asked_to(bench: Workbench) -> None:
    def fail(step: str) -> None:
        if step == "computed":
            raise StoreError("The machine failed.")

    with pytest.raises(StoreError):
        bench.vet(after=fail)

    assert left_stagings(str(bench.out)) == []


@pytest.mark.slow
def test_the_pipeline_itself_resumes_and_counts(noisy: Workbench) -> None:
    """On Beam: what the plain engine left is taken over by the runner's workers."""
    whole = noisy.vet(out=noisy.top / "whole", state=noisy.top / "elsewhere", least_work_bytes=0)
    with pytest.raises(StoreError):
        noisy.vet(least_work_bytes=0, engine=stopping_at(noisy, "pass 3", "south/c.arrow"))

    resumed = noisy.vet(least_work_bytes=0, resume=True, on_beam=True)

    assert resumed.verdict.digest == whole.verdict.digest
    assert published(noisy.out) == published(noisy.top / "whole")
    assert counts(resumed)["pass 3"] == (1, 3)
    assert counts(resumed)["pass 2"] == (0, 4)
