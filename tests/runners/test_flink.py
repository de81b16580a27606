"""A real Flink on this machine: the same answer as in process, also when a worker or a task manager is killed.

Skips where Flink is not installed (scripts/flink/install.sh), fails there if MILLCERT_REQUIRE_FLINK is set, as CI does.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runners.conftest import Bench, Run
else:
    Bench = Run = Any

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts/flink"
HOME = Path(os.environ.get("MILLCERT_FLINK_HOME", SCRIPTS.parents[1] / ".venvs/flink"))
JAR = HOME / "flink-job-server.jar"
FLINK = ("--runner=FlinkRunner", f"--flink_job_server_jar={JAR}", "--job_server_jvm_properties=-Xmx1g")
WORKER = json.dumps({"command": str(SCRIPTS / "worker.sh"), "env": {"MILLCERT_PYTHON": sys.executable}})
#: The kills wait until the job is so far: its second pass has begun.
MIDWAY, BEGUN = "Pass2", frozenset({"DEPLOYING", "INITIALIZING", "RUNNING", "FINISHED"})
_NUMBERS = itertools.count()
#: `make test-flink` runs all; CI what differs most: workers elsewhere, one and two, and a killed worker.
IS_WHOLE_MATRIX = "MILLCERT_FLINK_MATRIX" in os.environ
matrix_only = pytest.mark.skipif(not IS_WHOLE_MATRIX, reason="only with MILLCERT_FLINK_MATRIX=1 (make test-flink)")
#: For machines that are slow or busy; a run here takes 30 to 120 seconds.
TIMEOUT_SECONDS, POLL_SECONDS = 900, 0.05


@dataclass(frozen=True)
class Cluster:
    """A session cluster on loopback. run: where its logs and process ids are."""

    port: int
    run: Path

    @property
    def options(self) -> tuple[str, ...]:
        return (*FLINK, f"--flink_master=localhost:{self.port}")

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://localhost:{self.port}{path}", timeout=20) as answer:
            return json.load(answer)

    def wait_until_midway(self, running: subprocess.Popen[str]) -> None:
        for _ in range(int(TIMEOUT_SECONDS / POLL_SECONDS)):
            for job in self.ask("/jobs/overview")["jobs"]:
                vertices = self.ask(f"/jobs/{job['jid']}")["vertices"] if job["state"] == "RUNNING" else []
                is_midway = any(MIDWAY in vertex["name"] and vertex["status"] in BEGUN for vertex in vertices)
                if is_midway and self.workers():
                    return
            assert running.poll() is None, running.communicate()
            time.sleep(POLL_SECONDS)
        raise AssertionError("the job never came to its second pass")

    def failures(self) -> int:
        """Return how many task failures the jobs of this cluster survived or not."""
        jobs = self.ask("/jobs/overview")["jobs"]
        return sum(len(self.ask(f"/jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"]) for job in jobs)

    def workers(self) -> list[int]:
        """Return the process ids of the Python workers below this cluster's task managers."""
        managers = {int(path.read_text().split()[0]) for path in self.run.glob("taskmanager*.pid")}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in managers and b"millcert.pipelines.boot" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return sorted(found)


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if not (HOME / ".installed").is_file():
        assert "MILLCERT_REQUIRE_FLINK" not in os.environ, f"no Flink in {HOME}: run scripts/flink/install.sh"
        pytest.skip("Flink is not installed: run scripts/flink/install.sh")


@contextmanager
def cluster(folder: Path, *size: str) -> Iterator[Cluster]:
    script = str(SCRIPTS / "cluster.sh")
    for _ in range(8):  # another program may hold a port
        # Four ports of each cluster's own, below those that the system hands out.
        port = 16000 + (os.getpid() + next(_NUMBERS)) % 4000 * 4
        environment = {
            **os.environ,
            "MILLCERT_FLINK_HOME": str(HOME),
            "MILLCERT_FLINK_RUN": str(folder),
            "FLINK_PORT": str(port),
            "PYTHON": sys.executable,
            "OPENBLAS_NUM_THREADS": "1",
        }
        started = subprocess.run([script, "up", *size], env=environment, capture_output=True, text=True, check=False)
        if "somebody listens" not in started.stderr:
            break
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield Cluster(port, folder)
    finally:
        subprocess.run([script, "down"], env=environment, check=True)


@contextmanager
def ended(running: subprocess.Popen[str]) -> Iterator[None]:
    """End a run and what it started, if the test goes wrong before the run's own end."""
    try:
        yield
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@pytest.fixture(scope="module")
def two_slots(tmp_path_factory: pytest.TempPathFactory, _installed: None) -> Iterator[Cluster]:
    """One task manager with two slots."""
    with cluster(tmp_path_factory.mktemp("flink")) as started:
        yield started


def test_the_pinned_job_server_is_the_one_that_the_script_builds() -> None:
    from millcert.pipelines.engine_binaries import KNOWN_JOB_SERVERS

    built = dict(line.split()[::-1] for line in (SCRIPTS / "job-server.sha256").read_text().splitlines())

    assert set(KNOWN_JOB_SERVERS) == {built["flink-job-server.jar"]}


@matrix_only
def test_an_embedded_flink_gives_the_local_answer(runs: Bench, local: Run) -> None:
    run = runs.vet("flink-embedded", *FLINK, "--flink_master=[local]", "--parallelism=1", timeout=TIMEOUT_SECONDS)

    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer


@pytest.mark.parametrize(
    ("environment", "parallelism"),
    [
        pytest.param("LOOPBACK", 2, marks=matrix_only),
        ("EXTERNAL", 1),
        ("EXTERNAL", 2),
    ],
)
def test_a_flink_cluster_gives_the_local_answer(
    runs: Bench, local: Run, two_slots: Cluster, environment: str, parallelism: int
) -> None:
    """Rule: same input, same verdict digest, on any runner and with any parallelism."""
    config = [f"--environment_config=localhost:{two_slots.port + 1}"] if environment == "EXTERNAL" else []

    run = runs.vet(
        f"flink-{environment}-{parallelism}",
        *two_slots.options,
        f"--environment_type={environment}",
        *config,
        f"--parallelism={parallelism}",
        timeout=TIMEOUT_SECONDS,
    )

    for name, answer in ((f"Flink {environment}-{parallelism}", run), ("local", local)):
        sys.stdout.write(f"\nverdict digest, {name:16} {answer.verdict_digest}")
    sys.stdout.write("\n")
    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer


@pytest.mark.long
@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_flink_cluster_gives_the_local_answer_on_a_million_samples(
    million: Bench, same_as_local: Callable[[str, Run], None], two_slots: Cluster, parallelism: int
) -> None:
    """Rule: same input, same verdict digest, on any runner and with any parallelism."""
    run = million.vet(
        f"flink-{parallelism}",
        *two_slots.options,
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{two_slots.port + 1}",
        f"--parallelism={parallelism}",
        timeout=4 * TIMEOUT_SECONDS,
    )

    same_as_local(f"Flink, parallelism {parallelism}", run)


def test_a_killed_worker_changes_nothing(runs: Bench, local: Run, two_slots: Cluster) -> None:
    """Rule: same input, same verdict digest, on any retry: everything that a job writes may be written again."""
    before = two_slots.failures()
    running = runs.start(
        "flink-killed-worker",
        *two_slots.options,
        "--environment_type=PROCESS",
        f"--environment_config={WORKER}",
        "--parallelism=2",
    )
    with ended(running):
        two_slots.wait_until_midway(running)
        for worker in two_slots.workers():
            os.kill(worker, signal.SIGKILL)
        run = runs.finish("flink-killed-worker", running, timeout=TIMEOUT_SECONDS)

    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer
    assert two_slots.failures() > before


@matrix_only
def test_a_driver_that_was_killed_is_resumed_on_the_cluster_and_work_is_found_there(
    two_slots: Cluster, hold_resumed: Callable[..., None]
) -> None:
    """The cluster may go on with the job of the dead driver: that one's folder is its own, and disturbs nobody."""
    hold_resumed(
        "flink-resumed",
        *two_slots.options,
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{two_slots.port + 1}",
        "--parallelism=2",
        timeout=TIMEOUT_SECONDS,
    )


@matrix_only
def test_a_lost_cluster_is_exit_5_and_publishes_nothing(runs: Bench, tmp_path: Path) -> None:
    """Rule: fails closed: without a whole run there is no output."""
    with cluster(tmp_path / "flink", "1", "1") as doomed:
        running = runs.start(
            "flink-lost",
            *doomed.options,
            "--environment_type=PROCESS",
            f"--environment_config={WORKER}",
            "--parallelism=1",
        )
        with ended(running):
            doomed.wait_until_midway(running)
            for part in ("taskmanager1", "jobmanager"):
                os.kill(int((doomed.run / f"{part}.pid").read_text().split()[0]), signal.SIGKILL)
            run = runs.finish("flink-lost", running, timeout=TIMEOUT_SECONDS)

    assert run.exit_code == 5, run.errors
    assert not run.files
