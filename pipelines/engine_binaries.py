"""The programs that a runner starts on this machine: named by path, their bytes pinned, never fetched.

Left alone, Beam downloads Flink's job server and Prism at run time and runs them, with no digest checked. A gate that
judges the origin of data cannot stand on a program of unknown origin, so a program is run only if
  1. the user named a file on this machine (or the address of a job service, and then nothing is started here);
  2. the file's SHA-256 is the one that the user gave, or the one that scripts/flink/install.sh builds.
"""

import hashlib
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
)

from millcert.errors import DigestMismatchError, UsageError

#: What scripts/flink/install.sh builds from parts that are pinned one by one (scripts/flink/job-server.sha256).
KNOWN_JOB_SERVERS: Mapping[str, str] = {
    "bdbe7a5afc69cdce7327f86c8236393e0b30bae03fd1e041da3a1651ce9837da": "Beam 2.62.0 for Flink 1.19",
}
#: Runners that execute where the user says; without a word Beam would look for a container without millcert in it.
_IN_PROCESS_MASTERS = frozenset({"[local]", "[auto]"})


class EngineBinaryOptions(PipelineOptions):
    """Options of millcert beside Beam's own: the digests of programs that a runner starts."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--flink_job_server_sha256", default=None, help="SHA-256 of --flink_job_server_jar, hex.")
        parser.add_argument("--prism_sha256", default=None, help="SHA-256 of --prism_location, hex.")


def check_flink(options: PipelineOptions) -> None:
    """Refuse a Flink run that would start an unverified program or run in an unknown environment.

    Raises:
        UsageError: the jar is not named, is no file of this machine, or nobody vouches for its digest; or the workers'
            environment is not named.
        DigestMismatchError: the jar is not the one whose digest was given.
    """
    flink = options.view_as(FlinkRunnerOptions)
    if flink.flink_master.strip() not in _IN_PROCESS_MASTERS:
        check_environment(options)
    if options.view_as(PortableOptions).job_endpoint:
        return
    _check_file(
        flink.flink_job_server_jar,
        options.view_as(EngineBinaryOptions).flink_job_server_sha256,
        path_option="--flink_job_server_jar",
        digest_option="--flink_job_server_sha256",
        hint="Run scripts/flink/install.sh, or take the jar of your Beam and Flink versions from your own mirror; see "
        "docs/runners.md.",
        known=KNOWN_JOB_SERVERS,
    )


def check_prism(options: PipelineOptions) -> None:
    """Refuse a Prism run that would start an unverified program.

    Raises:
        UsageError: the program is not named, is no file of this machine, or its digest is not given.
        DigestMismatchError: the program is not the one whose digest was given.
    """
    if options.view_as(PortableOptions).job_endpoint:
        return
    _check_file(
        options.view_as(PrismRunnerOptions).prism_location,
        options.view_as(EngineBinaryOptions).prism_sha256,
        path_option="--prism_location",
        digest_option="--prism_sha256",
        hint="Run scripts/prism/install.sh; see docs/runners.md.",
        known={},
    )


def check_environment(options: PipelineOptions) -> None:
    """Refuse a remote run that does not say where the workers' code is.

    Raises:
        UsageError: there is no --environment_type.
    """
    if not options.view_as(PortableOptions).environment_type:
        raise UsageError(
            "The run does not say where its workers run.",
            hint="Give --environment_type=LOOPBACK, EXTERNAL, PROCESS or DOCKER; see docs/runners.md.",
            option="--environment_type",
        )


def _check_file(
    path: str | None,
    expected: str | None,
    *,
    path_option: str,
    digest_option: str,
    hint: str,
    known: Mapping[str, str],
) -> None:
    if not path:
        raise UsageError(
            f"{path_option} is missing: Beam would download a program that nobody verified.",
            hint=hint,
            option=path_option,
        )
    if not Path(path).is_file():
        raise UsageError(f"{path_option}: {path} is no file on this machine.", hint=hint, option=path_option)
    with Path(path).open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if expected is None and actual not in known:
        raise UsageError(
            f"{path_option}: nobody vouches for {path}.",
            hint=f"Compare its SHA-256 with its publisher's, then give {digest_option}={actual}.",
            option=digest_option,
        )
    if expected is not None and actual != expected.lower():
        raise DigestMismatchError(
            f"{path_option}: expected SHA-256 {expected}, found {actual} in {path}.",
            hint="Do not run it. Fetch it again, and compare its digest with its publisher's.",
            path=path,
            expected=expected,
            actual=actual,
        )
