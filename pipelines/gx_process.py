"""Great Expectations in a process of its own, so that no worker of a cluster or of the local runner imports it.

Planning a suite and judging it need GX, which takes 262 MiB once it is imported and never gives them back. The driver
may pay that; a worker, whose memory is for data, starts a process, hands it what was measured and takes the result.
Both are `millcert.pipelines.value_coding`'s bytes, over pipes.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from millcert.checks.base import Accumulator
from millcert.checks.drift_question import DriftSides
from millcert.checks.expectations import SuiteResult, evaluate_suite, plan_suite
from millcert.checks.metric_plan import MetricPlan, SuiteSpec
from millcert.errors import InternalError, MillcertError, StoreError
from millcert.pipelines.records import Fault, error_from, fault_from
from millcert.pipelines.value_coding import UncodableError, decode_value, encode_value

_BEAM_WORKERS = "apache_beam.runners.worker"


def plan_apart(suite: SuiteSpec, schema: pa.Schema, references: tuple[str, ...]) -> MetricPlan:
    """Do as `plan_suite`, without importing GX into a worker.

    Raises:
        PolicyError: as there.
        StoreError: the process ended before its work; a retry is safe.
    """
    plan: MetricPlan = _apart("plan", (suite, schema, references))
    return plan


def evaluate_apart(
    suite: SuiteSpec,
    plan: MetricPlan,
    acc: Accumulator,
    schema: pa.Schema,
    second: Accumulator | None,
    drift: DriftSides | None,
) -> SuiteResult:
    """Do as `evaluate_suite`, without importing GX into a worker.

    Raises:
        InconclusiveError, PolicyError, InternalError: as there.
        StoreError: the process ended before its work; a retry is safe.
    """
    result: SuiteResult = _apart("evaluate", (suite, plan, acc, schema, second, drift))
    return result


def _plan(suite: SuiteSpec, schema: pa.Schema, references: tuple[str, ...]) -> MetricPlan:
    return plan_suite(suite, schema, references=references)


def _evaluate(
    suite: SuiteSpec,
    plan: MetricPlan,
    acc: Accumulator,
    schema: pa.Schema,
    second: Accumulator | None,
    drift: DriftSides | None,
) -> SuiteResult:
    return evaluate_suite(suite, plan, acc, schema, second=second, drift=drift)


_WORK: Mapping[str, Callable[..., Any]] = {"plan": _plan, "evaluate": _evaluate}


def _apart(work: str, arguments: tuple[Any, ...]) -> Any:
    return ask(work, arguments) if _is_worker() else _WORK[work](*arguments)


def _is_worker() -> bool:
    """Say whether Beam started this process as a worker."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and str(spec.name).startswith(_BEAM_WORKERS)


def ask(work: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a process of its own answers.

    Args:
        work: "plan" or "evaluate".
        arguments: those of `plan_apart` or `evaluate_apart`.

    Raises:
        UncodableError: an argument has no form in bytes.
        MillcertError: as said of those two.
    """
    question = encode_value((work, arguments))
    command = [sys.executable, "-m", "millcert.pipelines.gx_process"]
    ended = subprocess.run(command, input=question, capture_output=True, check=False)  # noqa: S603 - our own module
    if ended.returncode < 0:
        raise StoreError(
            f"The process that runs Great Expectations was ended by signal {-ended.returncode}.",
            hint="It needs some 500 MB besides the worker. Give more memory, then run again.",
        )
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InternalError(f"The process that runs Great Expectations failed: {' '.join(said)[:500]}")
    answer = decode_value(ended.stdout)
    if isinstance(answer, Fault):
        raise error_from([answer])
    return answer


def _answer(question: bytes) -> bytes:
    """Return the bytes of what was asked for, or of the fault that is the answer."""
    work, arguments = decode_value(question)
    try:
        result: Any = _WORK[work](*arguments)
    except MillcertError as error:
        result = fault_from(error)
    try:
        return encode_value(result)
    except UncodableError as error:
        return encode_value(fault_from(InternalError(f"The result of a suite has no form in bytes: {error.message}")))


if __name__ == "__main__":
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever GX prints is no answer
    out.write(_answer(sys.stdin.buffer.read()))
