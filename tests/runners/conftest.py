"""A small data set with planted poison, and the command that vets it on any runner, as a user would."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

WIDTH, CLASSES, ROWS = 8, 4, 300
POLICY = """
version: 1
dataset:
  name: runners
  columns: {label: label, embedding_self: embedding}
  max_malformed_fraction: 0.1
sources:
  - {name: north, path: "north/**", unsigned: accept_as_unknown}
  - {name: west, path: "west/**", unsigned: accept_as_unknown}
expectations: {suite: suite.json, on_failure: reject}
checks: [{check: robust_spectral, max_flagged_fraction: 1, over_limit: warn}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: test.example/runners}
"""
SUITE = {
    "name": "runners",
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}, "meta": {}},
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}, "meta": {}},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "label", "min_value": 0, "max_value": 3}},
    ],
    "meta": {"great_expectations_version": "1.24.0"},
}


@dataclass(frozen=True)
class Run:
    """What a run printed and published. files: what is published, less what holds a clock or a signature.

    work: by step, files that were read and files that were found as kept.
    """

    exit_code: int
    verdict_digest: str
    files: dict[str, bytes]
    errors: str
    work: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def answer(self) -> tuple[int, str, dict[str, bytes]]:
        return self.exit_code, self.verdict_digest, self.files


@dataclass(frozen=True)
class Bench:
    """The data set on disk; `vet` runs the command on it."""

    top: Path

    def vet(self, name: str, *beam: str, timeout: float = 300) -> Run:
        running = self.start(name, *beam)
        return self.finish(name, running, timeout=timeout)

    def finish(self, name: str, running: subprocess.Popen[str], *, timeout: float = 300) -> Run:
        """Wait for the end of a run; whatever it started ends with it, also if it does not end in time."""
        try:
            answer, errors = running.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        return self.result(name, running.returncode, answer, errors)

    def start(self, name: str, *beam: str) -> subprocess.Popen[str]:
        """Start the command in a folder of its own, with the data named by a relative path."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "millcert", "vet", "data", "--policy", "policy.yaml", "--quiet", "--json"),
                *("--out", f"out-{name}", "--state", f"state-{name}", *beam),
            ],
            cwd=self.top,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def result(self, name: str, exit_code: int, answer: str, errors: str) -> Run:
        told: Mapping[str, Any] = json.loads(answer) if exit_code == 0 else {"verdict_digest": "", "work": []}
        out = self.top / f"out-{name}"
        kept = ("verdict.json", "manifest.json", "findings.parquet", "malformed.parquet", "admitted", "quarantine")
        files = {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file() and path.relative_to(out).parts[0] in kept
        }
        work = {step["step"]: (step["items_done"], step["items_reused"]) for step in told["work"]}
        return Run(exit_code, told["verdict_digest"], files, answer + errors, work)

    def kill_midway(self, name: str, running: subprocess.Popen[str], entries: int) -> None:
        """Kill a run, and what it started, as soon as so many entries of work are kept in its staging folder."""
        try:
            while running.poll() is None:
                kept = sum(path.is_file() for path in self.top.glob(f".out-{name}.staging-*/work/*/*"))
                if kept >= entries:
                    return
                time.sleep(0.05)
            raise AssertionError(f"the run ended before anybody killed it: {running.communicate()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.communicate()


def environment() -> dict[str, str]:
    """Return the environment of a run: this interpreter's programs first, one BLAS thread."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OPENBLAS_NUM_THREADS": "1", "PYTHON": sys.executable}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Three formats, two sources, a broken line, and poison in the second source."""
    top = tmp_path_factory.mktemp("runners")
    (top / "policy.yaml").write_text(POLICY)
    (top / "suite.json").write_text(json.dumps(SUITE))
    for folder in ("north", "west"):
        (top / "data" / folder).mkdir(parents=True)
    pq.write_table(_table(1), top / "data/north/a.parquet", row_group_size=64)
    lines = "".join(json.dumps(row) + "\n" for row in _table(2).to_pylist())
    (top / "data/north/b.jsonl").write_text(lines + "{broken\n")
    west = _table(3, poisoned=40)
    with pa.ipc.new_file(top / "data/west/c.arrow", west.schema) as writer:
        writer.write_table(west, max_chunksize=50)
    pq.write_table(_table(4), top / "data/west/d.parquet")
    return Bench(top)


MILLION_FILES, MILLION_TIMEOUT_SECONDS = 8, 3000
MILLION_POLICY = """
version: 1
dataset:
  name: million
  columns: {label: label, embedding_self: embedding, embedding_external: view}
  max_malformed_fraction: 0
sources:
  - {name: north, path: "north/**", unsigned: accept_as_unknown}
  - {name: west, path: "west/**", unsigned: accept_as_unknown}
checks:
  - {check: robust_spectral, max_flagged_fraction: 1, over_limit: warn}
  - {check: label_noise, max_flagged_fraction: 1, on_flagged: report}
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: test.example/million}
"""


def _two_views(top: Path, *, seed: int, files: int, rows: int, poisoned: int) -> Bench:
    """Write files of `rows` samples in two sources, poison in the fourth, and the policy of the million."""
    (top / "policy.yaml").write_text(MILLION_POLICY)
    for number in range(files):
        folder = top / "data" / ("west" if number % 2 else "north")
        folder.mkdir(parents=True, exist_ok=True)
        table = _table(seed + number, poisoned=poisoned if number == 3 else 0, rows=rows)
        table = table.append_column("view", table.column("embedding"))
        pq.write_table(table, folder / f"{number}.parquet", compression="none")
    return Bench(top)


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """1,000,000 samples of 8 dimensions in two sources, poison in one file of the second."""
    top = tmp_path_factory.mktemp("million")
    return _two_views(top, seed=100, files=MILLION_FILES, rows=1_000_000 // MILLION_FILES, poisoned=2000)


@pytest.fixture(scope="session")
def million_local(million: Bench) -> Run:
    """The local runner's answer with one worker on the million."""
    run = million.vet("local", timeout=MILLION_TIMEOUT_SECONDS)
    assert run.exit_code == 0, run.errors
    assert any(name.startswith("quarantine/west/3") for name in run.files)
    return run


RESUMABLE_FILES, RESUMABLE_ROWS = 6, 30_000


@pytest.fixture(scope="session")
def resumable(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Files large enough to keep work on; poison in one of them."""
    top = tmp_path_factory.mktemp("resumable")
    return _two_views(top, seed=200, files=RESUMABLE_FILES, rows=RESUMABLE_ROWS, poisoned=600)


@pytest.fixture(scope="session")
def resumable_local(resumable: Bench) -> Run:
    """The local answer of a run that did everything itself."""
    run = resumable.vet("local", "--no-keep-work")
    assert run.exit_code == 0, run.errors
    assert not any(reused for _, reused in run.work.values())
    return run


@pytest.fixture
def hold_resumed(resumable: Bench, resumable_local: Run) -> Callable[..., None]:
    """Return what holds that a runner resumes a killed run and finds kept work, and gives the local answer."""

    def hold(name: str, *beam: str, timeout: float = 300) -> None:
        asked = ("--work", f"work-{name}", *beam)
        resumable.kill_midway(name, resumable.start(name, *asked), 2 * RESUMABLE_FILES)
        assert not (resumable.top / f"out-{name}").exists()

        resumed = resumable.vet(name, "--resume", *asked, timeout=timeout)
        again = resumable.vet(name, "--replace", *asked, timeout=timeout)

        for run in (resumed, again):
            assert run.exit_code == 0, run.errors
            assert run.answer == resumable_local.answer
            assert all(done + reused == RESUMABLE_FILES for done, reused in run.work.values()), run.work
        sys.stdout.write(f"\n{name}: resumed {resumed.work}\n{name}: the same files again {again.work}\n")
        assert resumed.work["hash"][1] > 0
        # What is held back of a file is scored again; all else is found.
        assert {step for step, (done, _) in again.work.items() if done} == {"hash", "score"}
        assert again.work["score"][0] < RESUMABLE_FILES
        assert not list(resumable.top.glob(f".out-{name}*"))

    return hold


@pytest.fixture
def same_as_local(million_local: Run) -> Callable[[str, Run], None]:
    """Return what says a runner's digest of the million beside the local one, and holds that all else is equal too."""

    def hold(name: str, run: Run) -> None:
        for which, answer in ((name, run), ("local, 1 worker", million_local)):
            sys.stdout.write(f"\n1,000,000 samples, verdict digest, {which:20} {answer.verdict_digest}")
        sys.stdout.write("\n")
        assert run.exit_code == 0, run.errors
        assert run.answer == million_local.answer

    return hold


def _table(seed: int, poisoned: int = 0, rows: int = ROWS) -> pa.Table:
    random = np.random.default_rng(seed)
    label = random.integers(0, CLASSES, rows)
    centres = 8 * np.eye(WIDTH)
    embedding = random.normal(size=(rows, WIDTH)) + centres[label]
    label[:poisoned] = 2
    embedding[:poisoned] = random.normal(size=(poisoned, WIDTH)) * 0.3 + centres[2] + 30 * np.eye(WIDTH)[7]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.astype(np.float32).reshape(-1)), WIDTH)
    return pa.table({"id": [f"{seed}-{row}" for row in range(rows)], "label": label, "embedding": vectors})


@pytest.fixture(scope="session")
def local(runs: Bench) -> Run:
    """The local runner's answer, which every other runner must give."""
    run = runs.vet("local")
    assert run.exit_code == 0, run.errors
    assert any(name.startswith("quarantine/") for name in run.files)
    return run


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Return a context manager that runs a program until it listens, and ends it and its children afterwards."""

    @contextmanager
    def serving(command: Sequence[str], port: int) -> Iterator[None]:
        process = subprocess.Popen(
            list(command),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for_port(port, process)
            yield
        finally:
            try:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)

    return serving


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        time.sleep(0.1)
    raise AssertionError(f"nobody listens at {port}")


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Return two ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        return int(one.getsockname()[1]), int(two.getsockname()[1])
