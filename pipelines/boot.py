"""Starts one Beam worker in an installation that is already there: the pinned image or environment with millcert in it.

Beam's own `boot` program fetches and installs what the submitter staged before it starts the worker. A gate's workers
must run the code that was reviewed and installed, not what a job brings along, so this one asks the runner for the
job's options and starts the worker, nothing else. It serves `--environment_type=PROCESS` and Beam's worker pool:

    python -m millcert.pipelines.boot --id=1-1 --provision_endpoint=localhost:4711 ...
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

import grpc  # type: ignore[import-untyped]
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, endpoints_pb2
from google.protobuf import json_format, text_format  # type: ignore[import-untyped]

from millcert.errors import StoreError

#: A runner that started this process is listening already.
_TIMEOUT_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the worker and stay until its job is done."""
    parser = argparse.ArgumentParser(prog="millcert.pipelines.boot", description=__doc__)
    parser.add_argument("--id", required=True, help="the worker's name, chosen by the runner")
    parser.add_argument("--provision_endpoint", required=True, help="where the runner tells the job's options")
    for name in ("logging", "artifact", "control"):
        parser.add_argument(f"--{name}_endpoint", default="", help="used if the provision service names none")
    given = parser.parse_args(arguments)
    info = fetch_provision(given.provision_endpoint, given.id)
    os.environ.update(
        worker_environment(info, given.id, control=given.control_endpoint, logging=given.logging_endpoint)
    )
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


def fetch_provision(endpoint: str, worker_id: str) -> beam_provision_api_pb2.ProvisionInfo:
    """Return what the runner says of the job.

    Raises:
        StoreError: nobody answers there.
    """
    try:
        with grpc.insecure_channel(endpoint) as channel:
            stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
            answer = stub.GetProvisionInfo(
                beam_provision_api_pb2.GetProvisionInfoRequest(),
                metadata=[("worker_id", worker_id)],
                timeout=_TIMEOUT_SECONDS,
                wait_for_ready=True,
            )
    except grpc.RpcError as error:
        raise StoreError(
            f"The runner's provision service at {endpoint} does not answer: {error}",
            hint="Start this program through --environment_type=PROCESS or a worker pool.",
        ) from error
    return answer.info


def worker_environment(
    info: beam_provision_api_pb2.ProvisionInfo, worker_id: str, *, control: str = "", logging: str = ""
) -> dict[str, str]:
    """Return the environment variables that Beam's worker reads.

    Args:
        info: what the runner says of the job; its endpoints come first.
        worker_id: the worker's name.
        control: address of the control service if `info` has none.
        logging: address of the logging service if `info` has none.
    """
    variables = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(info.control_endpoint, control),
        "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(info.logging_endpoint, logging),
        "RUNNER_CAPABILITIES": " ".join(sorted(info.runner_capabilities)),
    }
    if info.status_endpoint.url:
        variables["STATUS_API_SERVICE_DESCRIPTOR"] = _descriptor(info.status_endpoint, "")
    return variables


def _descriptor(endpoint: endpoints_pb2.ApiServiceDescriptor, otherwise: str) -> str:
    return str(
        text_format.MessageToString(endpoint if endpoint.url else endpoints_pb2.ApiServiceDescriptor(url=otherwise))
    )


if __name__ == "__main__":
    main()
