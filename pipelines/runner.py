"""Which engine runs the pipeline: ours to choose, never Beam's to guess.

A bare `beam.Pipeline()` first tries to download and run a binary that nobody verified, and one dead-letter wrapper in
the graph silently changes the engine (research/engine.md 1.1). So the local runner here is always the in-process
portable runner, with the pipeline's options handed on to worker processes. Of Beam's other runners those are taken
that docs/runners.md describes, and only with programs that are pinned (engine_binaries.py).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence

from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    TypeOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners import PipelineRunner, create_runner
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from millcert.errors import UsageError
from millcert.pipelines.engine_binaries import (
    check_code,
    check_dataflow,
    check_environment,
    check_flink,
    check_prism,
)
from millcert.pipelines.publish import is_local as is_local_path

#: Names that mean "on this machine"; all of them run on the in-process portable runner.
LOCAL_RUNNERS = frozenset({"", "local", "localrunner", "directrunner", "fnapirunner"})
#: How long a cluster keeps a Python worker for the next stage. Without it each of some 40 stages starts its own (3
#: CPU-seconds each); it must stay below the cluster's restart delay, or a restarted task meets the dead worker again.
WORKER_KEPT_MILLIS = 5000
#: Runners that millcert takes besides, and what each must show before anything of it starts.
REMOTE_RUNNERS: Mapping[str, Callable[[PipelineOptions], None]] = {
    "FlinkRunner": check_flink,
    "PortableRunner": check_environment,
    "PrismRunner": check_prism,
    "DataflowRunner": check_dataflow,
}
#: Why some of the others are not.
REFUSED_RUNNERS = {
    "bundlebaseddirectrunner": "it runs each bundle with another engine, for tests of Beam itself",
    "daskrunner": "it writes tagged outputs to the wrong output, so malformed rows would be admitted",
    "interactiverunner": "it keeps every collection in memory",
    "sparkrunner": "it downloads its job server; start one yourself and use PortableRunner with --job_endpoint",
    "switchingdirectrunner": "it downloads a program that nobody verified",
}


def pipeline_options(arguments: Sequence[str], *, workers: int = 1) -> PipelineOptions:
    """Return Beam's options for `arguments` (such as `--runner=FlinkRunner`), with millcert's defaults.

    Args:
        arguments: Beam's own options, as on a command line.
        workers: worker processes of the local runner; 0 and 1 keep everything in this process.

    Raises:
        UsageError: an option is unknown to Beam or its value is wrong.
    """
    others, known = split_arguments(arguments)
    if others:
        raise UsageError(f"Beam takes no argument {others[0]!r}.", hint="Give Beam's options as --name=value.")
    options = PipelineOptions(list(known))
    options.view_as(TypeOptions).runtime_type_check = False
    # Beam would ship the driver's __main__ to Dataflow's workers: code beside the one that is installed there.
    options.view_as(SetupOptions).save_main_session = False
    portable = options.view_as(PortableOptions)
    portable.environment_cache_millis = int(portable.environment_cache_millis) or WORKER_KEPT_MILLIS
    use_workers(options, workers)
    return options


def use_workers(options: PipelineOptions, workers: int) -> None:
    """Give the local runner that many worker processes; one or fewer leave the options as they are."""
    if workers > 1:
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers = workers
        direct.direct_running_mode = "multi_processing"


def choose_runner(options: PipelineOptions) -> PipelineRunner:
    """Return the runner that `options` name; the pinned local one if they name none.

    Raises:
        UsageError: the runner is one that millcert refuses, with the reason, or unknown; or it would start a program
            that is not pinned, or send code to its workers that is not.
        DigestMismatchError: a program of the runner is not the pinned one.
    """
    name = options.view_as(StandardOptions).runner or ""
    key = name.lower()
    check_code(options)
    if key in LOCAL_RUNNERS:
        return local_runner(options)
    known = {each.lower(): each for each in REMOTE_RUNNERS}
    if key not in known:
        reason = REFUSED_RUNNERS.get(key, "it was never seen to give the same verdict as the local one")
        raise UsageError(
            f"Runner {name} is refused: {reason}.",
            hint=f"Leave --runner out to run here, or use {', '.join(REMOTE_RUNNERS)}.",
        )
    REMOTE_RUNNERS[known[key]](options)
    try:
        return create_runner(known[key])
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"Runner {name} cannot start: {error}", hint="See docs/runners.md.") from error


def local_runner(options: PipelineOptions) -> PipelineRunner:
    """Return the in-process portable runner; worker processes get the same options as this one."""
    info = beam_provision_api_pb2.ProvisionInfo(
        pipeline_options=JobServiceHandle.encode_pipeline_options(
            options.get_all_options(retain_unknown_options=False),
        ),
        retrieval_token="unused-retrieval-token",  # noqa: S106 - Beam's own placeholder, no secret
    )
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(info))


def is_local(options: PipelineOptions) -> bool:
    """Say whether the pipeline runs on this machine's pinned runner."""
    return (options.view_as(StandardOptions).runner or "").lower() in LOCAL_RUNNERS


def is_dataflow(options: PipelineOptions) -> bool:
    """Say whether the pipeline runs on Google Cloud Dataflow."""
    return (options.view_as(StandardOptions).runner or "").lower() == "dataflowrunner"


def out_of_reach(options: PipelineOptions, paths: Sequence[str]) -> tuple[str, ...]:
    """Return those of `paths` that no worker of the runner can see: paths of this machine, on Dataflow."""
    return tuple(path for path in paths if is_local_path(path)) if is_dataflow(options) else ()


def refuse_out_of_reach(options: PipelineOptions, paths: Sequence[str]) -> None:
    """Refuse a run whose workers cannot see its data or its output, before anything starts.

    Raises:
        UsageError: one of `paths` is out of reach.
    """
    for path in out_of_reach(options, paths):
        raise UsageError(
            f"Dataflow's workers cannot see {path}.",
            hint="Put data and --out into a bucket (gs://...); --dry-run takes paths of this machine.",
            path=path,
        )


def split_arguments(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Part a command line into what is not an option (data sets) and Beam's own options, each in their order.

    Raises:
        UsageError: an option is unknown to Beam, or its value is wrong. Beam itself would only log a warning for a
            misspelt option, and the job would silently run without it.
    """
    parser = argparse.ArgumentParser(prog="beam", allow_abbrev=False, exit_on_error=False, add_help=False)
    kinds = {str(kind): kind for kind in PipelineOptions.__subclasses__()}
    for kind in kinds.values():
        kind._add_argparse_args(parser)  # noqa: SLF001 - the only way to ask Beam which options it knows
    try:
        _, unknown = parser.parse_known_args(list(arguments))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UsageError(f"Beam refused an option: {error}", hint="See Beam's documentation of its options.") from error
    wrong = [argument for argument in unknown if argument.startswith("-") and argument != "--"]
    if wrong:
        raise UsageError(
            f"Neither millcert nor Beam knows the option {wrong[0]}.",
            hint="See `millcert vet --help`.",
            option=wrong[0],
        )
    pending, options = list(unknown), []
    for argument in arguments:
        if pending and argument == pending[0]:
            pending.pop(0)
        else:
            options.append(argument)
    return tuple(argument for argument in unknown if argument != "--"), tuple(options)
