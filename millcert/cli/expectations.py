"""`millcert expectations`: which ones are answered, a suite without a gate, and results to GX's own stores and docs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.dataset import Dataset, open_dataset, read_bounded, write_whole
from millcert.cli.output import emit, json_option
from millcert.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from millcert.checks.base import Accumulator
    from millcert.checks.expectations import ExpectationOutcome, SuiteResult
    from millcert.checks.metric_plan import MetricPlan

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_OUT = click.Path(path_type=Path)
_MAX_BYTES = 64 << 20
_SHOWN = 20


@click.group()
def expectations() -> None:
    """Answer Great Expectations suites, and hand the results to a GX project."""


@expectations.command("list")
@json_option
def list_all(as_json: bool) -> None:
    """List the expectations of the installed Great Expectations: which are answered, on which columns, how exactly."""
    from millcert.checks.expectations_catalog import catalog, own_expectations

    facts, own = list(catalog()), own_expectations()
    answered = [one for one in facts if one.is_supported]
    width = max(len(one.name) for one in facts)
    lines = [
        f"{one.name:<{width}}  {', '.join(one.families) or 'table'}"
        if one.is_supported
        else f"{one.name:<{width}}  refused: {one.refusal}"
        for one in facts
    ]
    lines += [f"{name:<{width}}  millcert's own: {words}" for name, words in own.items()]
    last = f"{len(answered)} of {len(facts)} of GX are answered. next: millcert expectations run DATASET --suite SUITE"
    emit(
        {"version": 1, "expectations": [one._asdict() for one in facts], "own": dict(own)},
        "\n".join([*lines, last]),
        as_json=as_json,
    )


@expectations.command("run")
@click.argument("dataset", nargs=-1, required=True)
@click.option("--suite", "suite_path", type=_FILE, required=True, help="GX's JSON of an ExpectationSuite.")
@click.option("--schema", type=_FILE, help="The columns' types of JSONL and CSV, as in a policy.")
@click.option(
    "--result-format",
    type=click.Choice(["BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE"]),
    default="SUMMARY",
    show_default=True,
    help="How much GX's result says.",
)
@click.option("--out", type=_OUT, help="Where to write GX's result as JSON.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite a result that is already there.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    dataset: tuple[str, ...],
    suite_path: Path,
    schema: Path | None,
    result_format: Any,
    out: Path | None,
    is_replaced: bool,
    as_json: bool,
) -> None:
    """Answer a suite on DATASET (files, folders or globs); exit 1 if it does not hold, 4 if it cannot be judged.

    Reads the data here, once to learn its columns, once for the suite, and again for what needs the first figures. The
    gate (millcert vet) does the same on many workers, and holds failing rows back.
    """
    from millcert.checks.expectations import evaluate_suite, load_suite, plan_suite

    suite = load_suite(read_bounded(suite_path, _MAX_BYTES))
    data = open_dataset(dataset, schema)
    plan = plan_suite(suite, data.schema, result_format=result_format)
    first = _measured(plan, data)
    again = plan.second(first)
    result = evaluate_suite(suite, plan, first, data.schema, second=_measured(again, data) if again.kernels else None)
    if out is not None:
        write_whole(out, _document(result.json), is_replaced=is_replaced)
    emit(_payload(result, out), _text(result, data.malformed, out), as_json=as_json)
    if not result.success:
        ctx.exit(1)


@expectations.command("publish")
@click.argument("run_folder", metavar="RUN", type=_FOLDER)
@click.option("--project", type=_FOLDER, help="A Great Expectations project: the folder that holds gx/.")
@click.option("--checkpoint", help="A Checkpoint of the project, whose suite is the one that was measured.")
@click.option("--data-docs", type=_OUT, help="A new folder, for Data Docs of this result alone.")
@json_option
@click.pass_context
def publish(
    ctx: click.Context,
    run_folder: Path,
    project: Path | None,
    checkpoint: str | None,
    data_docs: Path | None,
    as_json: bool,
) -> None:
    """Hand the result of RUN (what millcert vet published) to Great Expectations; exit 1 if the suite does not hold.

    With --project and --checkpoint, that Checkpoint runs on the result, of however many rows: the project's validation
    results store keeps it and the Checkpoint's actions are taken (Data Docs, alerts). Nothing is read again. A project
    is its owner's code: it names classes to load and addresses to call.
    """
    from millcert.gx_project import build_data_docs, run_checkpoint

    if (project is None) != (checkpoint is None) or (project is None and data_docs is None):
        raise UsageError("Name --project and --checkpoint together, or --data-docs, or all three.")
    result, batch = _published(run_folder)
    payload: dict[str, Any] = {"version": 1, "success": bool(result["success"]), "batch": batch}
    lines = [f"{'holds' if result['success'] else 'does not hold'}  {result['suite_name']}  as {batch}"]
    if project is not None and checkpoint is not None:
        outcome = run_checkpoint(project, checkpoint, result, batch=batch)
        payload |= {"checkpoint": checkpoint, "actions": list(outcome.actions), "sites": dict(outcome.sites)}
        payload |= {"description": dict(outcome.document)}
        lines.append(f"  checkpoint: {checkpoint}, actions: {', '.join(outcome.actions) or 'none'}")
        lines += [f"  site: {name}, {url}" for name, url in outcome.sites.items()]
    if data_docs is not None:
        index = build_data_docs(data_docs, result, batch=batch)
        payload |= {"data_docs": str(index)}
        lines.append(f"  data docs: {index}")
    lines.append("next: open the site; report.html of the run needs no network")
    emit(payload, "\n".join(lines), as_json=as_json)
    if not result["success"]:
        ctx.exit(1)


def _measured(plan: "MetricPlan", data: Dataset) -> "Accumulator":
    acc = plan.empty()
    for name, batch, rows in data.read_rows():
        acc = plan.add(acc, batch, name, rows)
    return plan.merge([acc])


def _published(folder: Path) -> tuple[dict[str, Any], str]:
    """Return GX's result of a run and a name for its data, if the run's verdict says the same of the suite.

    Raises:
        UsageError: the folder has no result.
        IntegrityError: the result or the verdict is none, or they do not belong together.
    """
    from millcert.provenance.strict_json import parse_json_object

    path, other = folder / "expectations.json", folder / "verdict.json"
    if not path.is_file() or not other.is_file():
        raise UsageError(
            f"{folder} holds no expectations.json and verdict.json.",
            hint="Name the --out folder of a run whose policy has a suite.",
        )
    result = parse_json_object(read_bounded(path, _MAX_BYTES), what="result", max_bytes=_MAX_BYTES)
    data = read_bounded(other, _MAX_BYTES)
    said = parse_json_object(data, what="verdict", max_bytes=_MAX_BYTES).get("expectations")
    if said is None or _identity(result) != (said["suite_digest"], said["success"], said["evaluated"]):
        raise IntegrityError(
            f"{path} is not the result that the verdict beside it tells of.",
            hint="Run millcert vet again; its published files belong together.",
            path=str(path),
        )
    return result, f"millcert-{hashlib.sha256(data).hexdigest()[:16]}"


def _identity(result: Mapping[str, Any]) -> tuple[Any, Any, int]:
    meta, results = result.get("meta"), result.get("results")
    if not isinstance(meta, Mapping) or not isinstance(results, list):
        return None, None, 0
    return meta.get("suite_sha256"), result.get("success"), len(results)


def _document(result: Any) -> bytes:
    return (json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n").encode()


def _payload(result: "SuiteResult", out: Path | None) -> dict[str, Any]:
    return {
        "version": 1,
        "success": result.success,
        "failures": {
            "critical": result.critical_failures,
            "warning": result.warning_failures,
            "info": result.info_failures,
        },
        "result": result.json,
        "exactness": [
            {"number": one.number, "exactness": one.exactness, "detail": one.detail} for one in result.outcomes
        ],
        "out": None if out is None else str(out),
    }


def _text(result: "SuiteResult", malformed: int, out: Path | None) -> str:
    failed = [one for one in result.outcomes if not one.success]
    lines = [
        f"{'holds' if result.success else 'does not hold'}  {len(result.outcomes)} expectations, {len(failed)} fail"
    ]
    lines += [_line(one) for one in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        lines.append(f"  and {len(failed) - _SHOWN:,} more; --json has all")
    if malformed:
        lines.append(f"  {malformed:,} malformed records were left out")
    if out is not None:
        lines.append(f"  file: {out}")
    advice = "name the suite in a policy: expectations.suite" if result.success else "mend the data or the suite"
    return "\n".join([*lines, f"next: {advice}"])


def _line(one: "ExpectationOutcome") -> str:
    where = f" on {one.column}" if one.column else ""
    what = f"{one.unexpected_count:,} rows" if one.unexpected_count is not None else f"observed {one.observed!r}"
    return f"  {one.severity:<8} {one.type}{where}: {what}{f' ({one.detail})' if one.detail else ''}"
