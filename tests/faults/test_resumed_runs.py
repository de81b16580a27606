"""Runs that are killed again and again, each time a little further on, end as one that was left alone."""

import json
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FILES = ("a.parquet", "b.parquet", "deep/c.parquet")
POLICY = """
version: 1
dataset: {name: small, columns: {label: label, embedding_external: embedding}, max_malformed_fraction: 0}
sources: [{name: lab, path: "**", unsigned: accept_as_unknown}]
checks: [{check: label_noise, max_flagged_fraction: 0.5}]
verdict: {max_quarantined_fraction: 0.5, max_unknown_provenance_fraction: 1}
ledger: {origin: test.example/ledger}
"""
#: Files that say the same whenever they are made.
ALIKE = ("findings.parquet", "malformed.parquet", "manifest.json", "verdict.json")


def prepare(top: Path, *, rows: int = 90) -> None:
    for number, name in enumerate(FILES):
        rng = np.random.default_rng(number)
        label = rng.integers(0, 3, rows)
        embedding = (rng.normal(size=(rows, 4)) + 6 * np.eye(4)[label]).astype(np.float32)
        label[: rows // 20] = (label[: rows // 20] + 1) % 3
        path = top / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 4)
        pq.write_table(pa.table({"label": label, "embedding": vectors}), path)
    (top / "policy.yaml").write_text(POLICY)


def published(out: Path) -> Mapping[str, bytes]:
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name in ALIKE or "/" in name}


def run(top: str, out: str, stop_behind: int, is_on_beam: bool, workers: int) -> None:
    """Resume a run in this process and kill it, as the kernel would, behind some files."""
    from millcert.pipelines.driver import VetOptions, vet_dataset
    from millcert.policy import load_policy

    seen = 0

    def before_file(_: str, __: str) -> None:
        nonlocal seen
        seen += 1
        if seen > stop_behind >= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    plain = runpy.run_path(str(Path(__file__).parents[1] / "plain_engine.py"))["PlainEngine"](before_file=before_file)
    folder = Path(top)
    options = VetOptions(
        (f"{top}/data",),
        out=f"{top}/{out}",
        state=folder / f"state-{out}",  # a verdict also says what changed since the last admitted version
        resume=True,
        workers=workers,
        least_work_bytes=0,
    )
    result = vet_dataset(load_policy(folder / "policy.yaml"), options, engine=None if is_on_beam else plain)
    work = {one.step: [one.done, one.reused] for one in result.work}
    (folder / f"{out}.json").write_text(json.dumps({"digest": result.verdict.digest, "work": work}))
    os._exit(0)


def run_in_process(top: Path, out: str, *, stop_behind: int = -1) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["millcert.gate", "millcert.checks.detectors.label_noise"])
    process = context.Process(target=run, args=(str(top), out, stop_behind, False, 1))
    process.start()
    process.join(timeout=120)
    return process.exitcode


def answer(top: Path, out: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((top / f"{out}.json").read_text())
    return loaded


def test_a_run_killed_again_and_again_ends_with_the_same_bytes_and_does_nothing_twice(tmp_path: Path) -> None:
    """Kill points are random, from a seed: each attempt gets a few files further, and only those are done anew."""
    prepare(tmp_path)
    assert run_in_process(tmp_path, "whole") == 0
    points = random.Random(8)
    kills = 0

    while run_in_process(tmp_path, "out", stop_behind=len(FILES) * kills + points.randrange(1, 9)) != 0:
        kills += 1
        assert not (tmp_path / "out").exists()
        assert kills < 30

    assert kills >= 3
    assert answer(tmp_path, "out")["digest"] == answer(tmp_path, "whole")["digest"]
    assert published(tmp_path / "out") == published(tmp_path / "whole")
    assert not list(tmp_path.glob(".out*"))
    steps = answer(tmp_path, "out")["work"].values()
    assert sum(done for done, _ in steps) < sum(reused for _, reused in steps)
    assert all(done + reused == len(FILES) for done, reused in steps)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_real_job_killed_at_random_times_is_resumed_to_the_same_bytes(tmp_path: Path, victim: str) -> None:
    """Driver or a worker process gets SIGKILL at a random moment of the job; the last attempt is left alone."""
    prepare(tmp_path, rows=40_000)
    command = [sys.executable, __file__, str(tmp_path)]
    subprocess.run([*command, "whole", "2"], check=True)
    moments, kills, attempts = random.Random(victim), 0, 0
    while kills < 3 and attempts < 8 and not (tmp_path / "out").exists():
        attempts += 1
        process = subprocess.Popen([*command, "out", "2"])
        wait_for_work(tmp_path, process)
        time.sleep(moments.uniform(0.1, 1.5))
        targets = [process.pid] if victim == "driver" else workers_of(process.pid)
        for pid in targets[:1] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        kills += process.wait(timeout=180) != 0
    if not (tmp_path / "out").exists():
        subprocess.run([*command, "out", "2"], check=True)

    assert kills
    assert answer(tmp_path, "out")["digest"] == answer(tmp_path, "whole")["digest"]
    assert published(tmp_path / "out") == published(tmp_path / "whole")
    assert sum(reused for _, reused in answer(tmp_path, "out")["work"].values())
    assert not list(tmp_path.glob(".out*"))


def wait_for_work(top: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when a run has begun to keep work, or has ended."""
    before = set(top.glob(".out.staging-*"))
    while process.poll() is None:
        if any((folder / "work").exists() for folder in set(top.glob(".out.staging-*")) - before):
            return
        time.sleep(0.05)


def workers_of(pid: int) -> list[int]:
    """Return the worker processes below a process."""
    parents: dict[int, int] = {}
    workers: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().split(b"\0")[2] == b"apache_beam.runners.worker.sdk_worker_main":
                workers.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return sorted(worker for worker in workers if pid in ancestors(worker, parents))


def ancestors(pid: int, parents: Mapping[int, int]) -> list[int]:
    found = []
    while pid in parents:
        pid = parents[pid]
        found.append(pid)
    return found


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], -1, True, int(sys.argv[3]))
