"""The ruling file: how the pipeline hands its one result to the driver, on any runner. Plain JSON, no pickle."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millcert.errors import IntegrityError
from millcert.pipelines.decide import Ruling
from millcert.pipelines.records import Fault, FileOutcome
from millcert.pipelines.work_report import StepWork
from millcert.provenance.manifest import Manifest, parse_manifest
from millcert.verdict import Verdict, verdict_from_mapping


@dataclass(frozen=True)
class ScoreHistogram:
    """How a check's scores are distributed. counts: bin -> (samples, flagged); bins of `millcert.pipelines.score`.

    threshold: the lowest threshold that a flagged sample was above; None if no sample was flagged.
    """

    check: str
    counts: Mapping[int, tuple[int, int]]
    threshold: float | None


@dataclass(frozen=True)
class RunResult:
    """What the driver reads back: a verdict with what belongs to it, or faults.

    history_digest: of what checks keep of the version; the driver adds it.
    """

    verdict: Verdict | None
    faults: tuple[Fault, ...]
    input_manifest: Manifest | None
    output_manifest: Manifest | None
    suite_result: Mapping[str, Any] | None
    histograms: tuple[ScoreHistogram, ...]
    files: tuple[str, ...]
    work: tuple[StepWork, ...] = ()
    history_digest: str = ""


def ruling_to_json(ruling: Ruling, outcomes: Sequence[FileOutcome], work: Sequence[StepWork] = ()) -> dict[str, Any]:
    """Return the ruling as JSON values; the histograms of all files are added up."""
    return {
        "verdict": None if ruling.verdict is None else ruling.verdict.to_mapping(),
        "faults": [fault._asdict() for fault in ruling.faults],
        "input_manifest": _manifest_text(ruling.input_manifest),
        "output_manifest": _manifest_text(ruling.output_manifest),
        "suite_result": None if ruling.suite_result is None else _finite(ruling.suite_result),
        "histograms": _histograms(outcomes),
        "files": sorted(outcome.name for outcome in outcomes),
        "work": [step._asdict() for step in work],
    }


def read_ruling(data: bytes) -> RunResult:
    """Return what `ruling_to_json` wrote.

    Raises:
        IntegrityError: the file is not what the pipeline writes, so the run cannot be trusted.
    """
    try:
        raw = json.loads(data)
        return RunResult(
            verdict=None if raw["verdict"] is None else verdict_from_mapping(raw["verdict"]),
            faults=tuple(Fault(**fault) for fault in raw["faults"]),
            input_manifest=_manifest(raw["input_manifest"]),
            output_manifest=_manifest(raw["output_manifest"]),
            suite_result=raw["suite_result"],
            histograms=tuple(
                ScoreHistogram(
                    check,
                    {int(number): (pair[0], pair[1]) for number, pair in item["counts"].items()},
                    item["threshold"],
                )
                for check, item in sorted(raw["histograms"].items())
            ),
            files=tuple(raw["files"]),
            work=tuple(StepWork(**{**step, "read": tuple(step["read"])}) for step in raw["work"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise IntegrityError(
            f"The run's ruling file is damaged: {error}", hint="Run again; nothing was published."
        ) from error


def _finite(value: Any) -> Any:
    """Return Great Expectations' JSON with NaN and infinities as text: they are no reason to have no ruling."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _manifest_text(manifest: Manifest | None) -> str | None:
    return None if manifest is None else manifest.to_json().decode()


def _manifest(text: str | None) -> Manifest | None:
    return None if text is None else parse_manifest(text.encode())


def _histograms(outcomes: Sequence[FileOutcome]) -> dict[str, Any]:
    merged: dict[str, dict[int, tuple[int, int]]] = {}
    thresholds: dict[str, float | None] = {}
    for outcome in outcomes:
        for check, counts in outcome.histogram.items():
            into = merged.setdefault(check, {})
            for number, (samples, flagged) in counts.items():
                before = into.get(number, (0, 0))
                into[number] = (before[0] + samples, before[1] + flagged)
        for check, threshold in outcome.thresholds.items():
            known = thresholds.get(check)
            both = [value for value in (known, threshold) if value is not None]
            thresholds[check] = min(both, default=None)
    return {
        check: {
            "counts": {str(number): counts[number] for number in sorted(counts)},
            "threshold": thresholds.get(check),
        }
        for check, counts in sorted(merged.items())
    }
