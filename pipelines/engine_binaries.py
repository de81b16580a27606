"""The programs that a runner starts on this machine: named by path, their bytes pinned, never fetched.

Left alone, Beam downloads Flink's job server and Prism at run time and runs them, with no digest checked. A gate that
judges the origin of data cannot stand on a program of unknown origin, so a program is run only if
  1. the user named a file on this machine (or the address of a job service, and then nothing is started here);
  2. the file's SHA-256 is the one that the user gave, or the one that scripts/flink/install.sh builds.
"""

import hashlib
import re
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SetupOptions,
    WorkerOptions,
)

from millcert.errors import DigestMismatchError, UsageError

#: What scripts/flink/install.sh builds from parts that are pinned one by one (scripts/flink/job-server.sha256).
KNOWN_JOB_SERVERS: Mapping[str, str] = {
    "bdbe7a5afc69cdce7327f86c8236393e0b30bae03fd1e041da3a1651ce9837da": "Beam 2.62.0 for Flink 1.19",
}
#: Runners that execute where the user says; without a word Beam would look for a container without millcert in it.
_IN_PROCESS_MASTERS = frozenset({"[local]", "[auto]"})


#: What Beam would otherwise guess, or make in your account: a bucket of its own.
_DATAFLOW_OPTIONS = ("project", "region", "temp_location")
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/|$)")
#: A container image whose bytes are named, not a tag that its registry may move.
_PINNED_IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


#: Beam's options that send code to the workers which no digest covers, or which the workers fetch from a package index.
_UNPINNED_CODE: Mapping[str, str] = {
    "requirements_file": "every worker would install whatever a package index gives it",
    "extra_packages": "workers would install a package that nobody reviewed beside millcert",
    "files_to_stage": "files beside the image could stand before millcert on the workers' path",
    "prebuild_sdk_container_engine": "it builds another image than the one whose digest you name",
}


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


def check_dataflow(options: PipelineOptions) -> None:
    """Refuse a Dataflow run whose workers' code is not named, or where Beam's part for Dataflow is missing.

    Raises:
        UsageError: the extra is not installed; the project, region or temporary bucket is not named; there is neither
            a container image nor a setup file; or the image is named by a tag.
    """
    try:
        from apache_beam.runners.dataflow.internal import apiclient  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Beam's part for Google Cloud is not installed ({error}).",
            hint="pip install 'millcert[gcp]'; --dry-run needs it too, but no account and no network.",
        ) from error
    google = options.view_as(GoogleCloudOptions)
    missing = [name for name in _DATAFLOW_OPTIONS if not getattr(google, name)]
    # Of a bucket that cannot be one, Beam would make another in the account.
    if missing or not _BUCKET.match(google.temp_location):
        name = missing[0] if missing else "temp_location"
        raise UsageError(
            f"Dataflow needs --{name}" + ("." if missing else f" in a bucket, not {google.temp_location}."),
            hint="Give --project=P --region=R --temp_location=gs://BUCKET/tmp.",
            option=f"--{name}",
        )
    image = options.view_as(WorkerOptions).sdk_container_image
    if image is None and options.view_as(SetupOptions).setup_file is None:
        raise UsageError(
            "The run does not say which millcert Dataflow's workers run.",
            hint="Give --sdk_container_image=REGISTRY/millcert@sha256:... (or --setup_file); see docs/dataflow.md.",
            option="--sdk_container_image",
        )
    if image is not None and not _PINNED_IMAGE.fullmatch(image):
        raise UsageError(
            f"--sdk_container_image: {image} names no bytes; whoever owns the registry could change them.",
            hint="Name the image by digest: REGISTRY/millcert@sha256:... as the push printed it.",
            option="--sdk_container_image",
        )


def check_code(options: PipelineOptions) -> None:
    """Refuse options that would run unpinned code on the workers, whatever the runner.

    A verdict names one release of millcert (`code_version`); workers that run anything else make that a lie. What they
    need besides belongs into their image, which is named by digest.

    Raises:
        UsageError: one of those options is set.
    """
    setup = options.view_as(SetupOptions)
    refused = {name: why for name, why in _UNPINNED_CODE.items() if getattr(setup, name, None)}
    if setup.sdk_location not in {None, "default", "container"}:
        refused["sdk_location"] = "workers would install a Beam that no digest covers"
    for name, why in refused.items():
        raise UsageError(
            f"--{name} is refused: {why}.",
            hint="Put what workers need into their image and name that by digest; see docs/dataflow.md.",
            option=f"--{name}",
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
