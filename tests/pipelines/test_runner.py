"""Which engine runs, and which words of a command line are Beam's."""

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner

from millcert.errors import UsageError
from millcert.pipelines.runner import choose_runner, is_local, pipeline_options, split_arguments


@pytest.mark.parametrize("name", ["", "local", "DirectRunner", "FnApiRunner"])
def test_every_name_for_this_machine_is_the_pinned_in_process_runner(name: str) -> None:
    """Rule: a bare DirectRunner would download and run an unverified binary."""
    options = pipeline_options([f"--runner={name}"] if name else [])

    assert is_local(options)
    assert type(choose_runner(options)) is fn_runner.FnApiRunner


@pytest.mark.parametrize("name", ["DaskRunner", "InteractiveRunner", "BundleBasedDirectRunner", "NoSuchRunner"])
def test_a_runner_that_was_not_seen_to_be_right_is_refused(name: str) -> None:
    options = PipelineOptions([])
    options.view_as(StandardOptions).runner = name

    with pytest.raises(UsageError, match=f"{name} is refused"):
        choose_runner(options)
    assert not is_local(options)


@pytest.mark.parametrize(
    "argument",
    [
        "--requirements_file=r.txt",
        "--extra_package=a.tar.gz",
        "--extra_packages=a.tar.gz",
        "--files_to_stage=a.jar",
        "--prebuild_sdk_container_engine=cloud_build",
        "--sdk_location=/some/beam.tar.gz",
    ],
)
@pytest.mark.parametrize("runner", ["", "DataflowRunner", "FlinkRunner", "PortableRunner", "PrismRunner"])
def test_code_that_no_digest_covers_is_never_sent_to_workers(runner: str, argument: str) -> None:
    """Rule: the verdict names the release that computed it, so workers run nothing else."""
    options = pipeline_options([argument, *([f"--runner={runner}"] if runner else [])])

    with pytest.raises(UsageError, match="is refused: ") as caught:
        choose_runner(options)
    assert argument.partition("=")[0] in {caught.value.details["option"], "--extra_package"}


def test_workers_become_processes_and_one_stays_in_this_process() -> None:
    many = pipeline_options([], workers=3).view_as(DirectOptions)
    one = pipeline_options([], workers=1).view_as(DirectOptions)

    assert (many.direct_num_workers, many.direct_running_mode) == (3, "multi_processing")
    assert one.direct_running_mode != "multi_processing"


@pytest.mark.parametrize(
    ("arguments", "datasets", "options"),
    [
        ([], (), ()),
        (["a", "b"], ("a", "b"), ()),
        (["a", "--runner=FlinkRunner", "b"], ("a", "b"), ("--runner=FlinkRunner",)),
        (["--runner", "FlinkRunner", "a"], ("a",), ("--runner", "FlinkRunner")),
        (["--job_name", "a", "a"], ("a",), ("--job_name", "a")),
        (["--", "a"], ("a",), ()),
        (["gs://lake/data", "--temp_location=gs://lake/tmp"], ("gs://lake/data",), ("--temp_location=gs://lake/tmp",)),
    ],
)
def test_a_command_line_is_parted_into_data_sets_and_options_of_beam(
    arguments: list[str], datasets: tuple[str, ...], options: tuple[str, ...]
) -> None:
    assert split_arguments(arguments) == (datasets, options)


@pytest.mark.parametrize("arguments", [["--runer=FlinkRunner"], ["a", "-x"], ["--polcy", "p.yaml"]])
def test_a_misspelt_option_is_refused_and_not_passed_over(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="Neither millcert nor Beam knows"):
        split_arguments(arguments)


def test_an_option_with_a_wrong_value_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Beam refused"):
        split_arguments(["--direct_num_workers=many"])
    with pytest.raises(UsageError, match="no argument 'data'"):
        pipeline_options(["data"])
