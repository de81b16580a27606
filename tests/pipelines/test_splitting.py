"""A file that is read in spans gives what it gives as a whole: verdict, findings, files, leaves, to the last byte."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import DigestMismatchError, HostileDataError
from millcert.pipelines import driver, sample_leaves
from millcert.pipelines.driver import Engine
from millcert.pipelines.plan import VetPlan

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

ROWS, GROUP_ROWS, DIMENSION = 900, 64, 6
#: Every row group a span of its own; a few in each; two spans; one piece.
SPOOL_BYTES = (1, 9_000, 40_000, 1 << 20)
UNITS = [16, 9, 4, 2]


def in_spans(engine: Engine, spool_bytes: int, changed: Callable[[VetPlan], VetPlan] = lambda plan: plan) -> Engine:
    """Return an engine that takes every file above `spool_bytes` for a large one."""

    def run(plan: VetPlan, options: Any, watcher: Any) -> Any:
        cut = replace(plan, limits=replace(plan.limits, spool_memory_bytes=spool_bytes))
        return engine(changed(cut), options, watcher)

    return run


@pytest.fixture
def large(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A data set of a small file and a large one with malformed records and samples that are held back."""
    fixed = SimpleNamespace(token_bytes=lambda count: bytes(range(count)))
    monkeypatch.setattr(sample_leaves, "secrets", fixed)  # so that salted leaves can be compared
    for path in sorted(bench.data.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, ROWS)
    values = (rng.normal(size=(ROWS, DIMENSION)) + 8 * np.eye(DIMENSION)[label]).astype(np.float32)
    values[500:520] += 40  # far from all others
    values[130, 2] = np.nan  # cannot play its role
    text = [f"sample {row}" for row in range(ROWS)]
    raw = pa.array([b"\xff\xfe" if row in {70, 71, 640} else text[row].encode() for row in range(ROWS)])
    table = pa.table(
        {
            "id": pa.array([f"{row}" for row in range(ROWS)]),
            "label": pa.array(label, pa.int64()),
            "text": pa.Array.from_buffers(pa.string(), ROWS, raw.buffers()),  # malformed: not UTF-8
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIMENSION),
        }
    )
    bench.data.mkdir(exist_ok=True)
    (bench.data / "north").mkdir()
    pq.write_table(table, bench.data / "north" / "large.parquet", row_group_size=GROUP_ROWS)
    pq.write_table(table.slice(200, 60), bench.data / "north" / "small.parquet")
    bench.policy["sources"] = [{"name": "north", "path": "north/**", "unsigned": "accept_as_unknown"}]
    bench.policy["verdict"] = {"max_unknown_provenance_fraction": 1.0, "max_quarantined_fraction": 1.0}
    bench.policy["dataset"]["max_malformed_fraction"] = 1.0
    bench.policy["checks"][0] |= {"on_flagged": "quarantine", "max_flagged_fraction": 1.0}
    (bench.top / "profile.key").write_text("ab" * 32 + "\n")
    (bench.top / "profile.key").chmod(0o600)
    bench.policy["profile"] = {"hash_key": "profile.key"}
    (bench.top / "suite.json").write_text(
        json.dumps(
            {
                "name": "s",
                "expectations": [
                    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "text"}},
                    {"type": "expect_column_values_to_be_between", "kwargs": {"column": "label", "min_value": 1}},
                ],
            }
        )
    )
    bench.policy["expectations"] = {"suite": "suite.json", "on_failure": "quarantine_rows"}
    del bench.policy["trust"]
    return bench


def everything(bench: Workbench, out: Path) -> dict[str, bytes]:
    """Return what a run published and kept of its samples, less what has a clock in it."""
    timed = {"certificate.json", "report.html", "profile.dsse.json"}
    kept = bench.top / "state" / "provenance"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for folder in (out, kept)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in timed
    }


def run(bench: Workbench, name: str, spool_bytes: int, **more: Any) -> tuple[dict[str, bytes], int]:
    """Vet with a ledger of its own; return `everything`, and in how many units the file was scored."""
    units: list[str] = []
    engine = bench.plain(before_file=lambda step, _: units.append(step))
    bench.vet(out=bench.top / name, engine=in_spans(engine, spool_bytes), **more)
    found = everything(bench, bench.top / name)
    (bench.top / "state").rename(bench.top / f"state-{name}")
    return found, units.count("score")


def test_any_split_gives_the_same_bytes(large: Workbench) -> None:
    """Rule: same input, same verdict, findings, files and leaves, wherever a file is cut."""
    whole, _ = run(large, "whole", 1 << 30)

    found = [run(large, f"split-{size}", size) for size in SPOOL_BYTES]

    verdict = json.loads(whole["verdict.json"])
    assert verdict["samples"]["malformed"] == 4
    assert verdict["samples"]["quarantined"] > 20
    assert any(name.startswith("quarantine/") for name in whole)
    assert any("rows.1" in name for name in whole)
    assert [units for _, units in found] == UNITS
    for each, _ in found:
        assert each == whole


def test_a_split_file_of_which_nothing_is_held_back_is_copied_as_it_is(large: Workbench) -> None:
    pq.write_table(
        pq.read_table(large.data / "north" / "large.parquet", columns=["label", "embedding"]).slice(150, 300),
        large.data / "north" / "large.parquet",
        row_group_size=GROUP_ROWS,
    )
    (large.data / "north" / "small.parquet").unlink()
    del large.policy["expectations"]
    large.policy["checks"][0]["on_flagged"] = "report"

    whole, split = run(large, "whole", 1 << 30)[0], run(large, "split", 1)[0]

    assert split == whole
    assert split["admitted/north/large.parquet"] == (large.data / "north" / "large.parquet").read_bytes()


@pytest.mark.parametrize("step", ["describe", "pass 1", "pass 2", "score"])
def test_no_span_is_parsed_that_changed_after_it_was_hashed(large: Workbench, step: str) -> None:
    """Rule: no byte of an unverified file reaches a parser; each reader checks the bytes of its own span."""
    path = large.data / "north" / "large.parquet"

    def change(reached: str) -> None:
        if reached == step:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    with pytest.raises(DigestMismatchError, match="expected SHA-256"):
        large.vet(engine=in_spans(large.plain(before=change), 1))

    assert not large.out.exists()


@pytest.mark.parametrize("folder", ["blocks", "spans"])
def test_what_a_worker_left_for_the_next_step_is_held_to_its_digest(large: Workbench, folder: str) -> None:
    """Rule: the staging folder is no authority; digests of what lies there go through the runner."""
    seen: list[Path] = []

    def change(step: str, _: str) -> None:
        for path in large.top.rglob(f"parts/{folder}/*"):
            if not seen and (folder == "blocks" or path.suffix == ".findings"):
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)
                seen.append(path)

    with pytest.raises(DigestMismatchError):
        large.vet(engine=in_spans(large.plain(before_file=change), 1))

    assert seen


def test_a_bomb_that_is_small_in_each_span_is_refused_for_the_whole_file(large: Workbench) -> None:
    """Rule: what a file may decode to holds for all of its spans together."""

    def tight(plan: VetPlan) -> VetPlan:
        limits = replace(plan.limits, decoded_floor_bytes=30_000, max_decoded_ratio=0.001)
        return replace(plan, limits=limits)

    with pytest.raises(HostileDataError, match="decodes to more than 30000 bytes"):
        large.vet(engine=in_spans(large.plain(), 1, tight))


def test_a_resumed_run_takes_the_spans_that_were_done(large: Workbench) -> None:
    """Rule: a run that was killed is resumed where it stopped, and gives the same bytes."""
    whole, _ = run(large, "whole", 1 << 30)
    done: list[str] = []

    def kill(step: str, _: str) -> None:
        done.append(step)
        if done.count("score") == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        large.vet(engine=in_spans(large.plain(before_file=kill), 1), resume=True, least_work_bytes=1)
    found = large.vet(engine=in_spans(large.plain(), 1), resume=True, least_work_bytes=1)

    reused = {step.step: (step.done, step.reused) for step in found.work}
    assert everything(large, large.out) == whole
    assert reused["score"] == (8, 8)
    assert reused["pass 1"] == (0, 16)


@pytest.mark.slow
def test_two_workers_read_spans_of_one_file(large: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: same answer on Beam, whichever worker reads which span."""
    whole, _ = run(large, "whole", 1 << 30)

    large.vet(engine=in_spans(driver.run_pipeline, 9_000), workers=2)

    assert everything(large, large.out) == whole
