"""What a runner may start on this machine, and which runners are taken at all."""

import hashlib
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.portability.api import beam_provision_api_pb2

from millcert.errors import DigestMismatchError, MillcertError, UsageError
from millcert.pipelines.boot import worker_environment
from millcert.pipelines.runner import choose_runner, pipeline_options

JAR = b"not really a jar"


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    path = tmp_path / "server.jar"
    path.write_bytes(JAR)
    return path


def choose(*arguments: str) -> object:
    return choose_runner(pipeline_options(arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runner=FlinkRunner"], "--flink_job_server_jar is missing"),
        (["--runner=FlinkRunner", "--flink_job_server_jar=https://example.org/x.jar"], "no file on this machine"),
        (["--runner=FlinkRunner", "--flink_job_server_jar=JAR"], "nobody vouches for"),
        (["--runner=FlinkRunner", "--flink_job_server_jar=JAR", "--flink_master=host:8081"], "where its workers run"),
        (["--runner=PortableRunner", "--job_endpoint=localhost:1"], "where its workers run"),
        (["--runner=PrismRunner"], "--prism_location is missing"),
        (["--runner=PrismRunner", "--prism_location=JAR"], "nobody vouches for"),
        (["--runner=SparkRunner"], "downloads its job server"),
        (["--runner=SwitchingDirectRunner"], "downloads a program"),
        (["--runner=TestDirectRunner"], "never seen"),
        (["--runner=my.own.Runner"], "never seen"),
    ],
)
def test_a_runner_that_would_start_something_unverified_is_refused(arguments: list[str], words: str, jar: Path) -> None:
    with pytest.raises(UsageError, match=words):
        choose(*(argument.replace("JAR", str(jar)) for argument in arguments))


@pytest.mark.parametrize(
    ("runner", "path", "digest"),
    [
        ("FlinkRunner", "--flink_job_server_jar", "--flink_job_server_sha256"),
        ("PrismRunner", "--prism_location", "--prism_sha256"),
    ],
)
def test_a_program_runs_only_if_its_bytes_are_the_pinned_ones(runner: str, path: str, digest: str, jar: Path) -> None:
    good = hashlib.sha256(JAR).hexdigest()

    chosen = choose(f"--runner={runner}", f"{path}={jar}", f"{digest}={good.upper()}")

    assert type(chosen).__name__ == runner
    jar.write_bytes(JAR + b"!")
    with pytest.raises(DigestMismatchError) as refused:
        choose(f"--runner={runner}", f"{path}={jar}", f"{digest}={good}")
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("runner", ["FlinkRunner", "PrismRunner"])
def test_a_job_service_that_runs_elsewhere_needs_no_program_here(runner: str) -> None:
    chosen = choose(f"--runner={runner}", "--job_endpoint=cluster:8099", "--environment_type=LOOPBACK")

    assert type(chosen).__name__ == runner


def test_a_cluster_keeps_its_workers_between_stages_unless_told_otherwise() -> None:
    assert pipeline_options([]).view_as(PortableOptions).environment_cache_millis == 5000
    told = pipeline_options(["--environment_cache_millis=1"])
    assert told.view_as(PortableOptions).environment_cache_millis == 1


def test_a_worker_gets_what_the_runner_says_and_what_it_does_not_say_from_its_arguments() -> None:
    info = beam_provision_api_pb2.ProvisionInfo(runner_capabilities=["b", "a"])
    info.control_endpoint.url = "told:1"
    info.pipeline_options["beam:option:s3_endpoint_url:v1"] = "http://store"

    variables = worker_environment(info, "7-1", control="argument:1", logging="argument:2")

    assert variables["WORKER_ID"] == "7-1"
    assert variables["CONTROL_API_SERVICE_DESCRIPTOR"].strip() == 'url: "told:1"'
    assert variables["LOGGING_API_SERVICE_DESCRIPTOR"].strip() == 'url: "argument:2"'
    assert variables["RUNNER_CAPABILITIES"] == "a b"
    assert "http://store" in variables["PIPELINE_OPTIONS"]
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in variables


def test_a_boot_that_nobody_answers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from millcert.pipelines import boot

    monkeypatch.setattr(boot, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(MillcertError) as refused:
        boot.fetch_provision("localhost:1", "1-1")
    assert refused.value.exit_code == 5
