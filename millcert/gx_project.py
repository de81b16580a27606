"""What millcert measured, through a Great Expectations project's own Checkpoint: its stores, actions and Data Docs.

A Checkpoint of GX reads its data into one frame. Here it gets results that are already there, of any number of rows,
so that whoever has a project keeps its suites, severities, alerts and history. All else is GX's own `Checkpoint.run`:
whether the project has what the Checkpoint names, the validation results store, the actions in their order.

What is said to GX stands in `millcert.checks.gx_adapter`.

A project's configuration names classes to load and addresses to call: it is its owner's code, as a Makefile is. The
gate (`millcert vet`) never opens one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from millcert.checks import gx_adapter
from millcert.errors import PolicyError, UsageError


class CheckpointOutcome(NamedTuple):
    """What a Checkpoint came to.

    success: whether all its validations succeeded, whatever the severities: as GX means it.
    document: `CheckpointResult.describe_dict()`.
    actions: the types of the actions that ran, in the Checkpoint's order.
    sites: Data Docs site -> address of its index, of the sites that the project has.
    """

    success: bool
    document: Mapping[str, Any]
    actions: tuple[str, ...]
    sites: Mapping[str, str]


def run_checkpoint(project: Path, name: str, result: Mapping[str, Any], *, batch: str) -> CheckpointOutcome:
    """Run a project's Checkpoint on a result that was measured before. Imports GX.

    Args:
        project: the folder that holds `gx/` (or is it).
        name: of the Checkpoint.
        result: `expectations.json` of a run.
        batch: names the data in GX's stores and docs: letters, digits, "-", "_" and ".".

    Raises:
        UsageError: there is no such project or Checkpoint, or an action failed, which is named.
        PolicyError: the Checkpoint validates another suite than the one that was measured.
    """
    context = _open(project)
    try:
        found = context.checkpoints.get(name)
    except Exception as error:
        known = ", ".join(sorted(each.name for each in context.checkpoints.all())) or "none"
        raise UsageError(
            f"The Great Expectations project {project} has no usable Checkpoint {name!r}: "
            f"{gx_adapter.one_line(error)}.",
            hint=f"Its Checkpoints are: {known}.",
        ) from error
    for validation in found.validation_definitions:
        _require_same(validation.suite, result)

    own = lowered(result, _level_of(found.result_format))
    measured = gx_adapter.measured_checkpoint(found, batch, lambda _: own)
    try:
        outcome = measured.run()
    except Exception as error:
        raise UsageError(
            f"The Checkpoint {name!r} did not run to its end: {gx_adapter.one_line(error)}.",
            hint="What it stored before stays. Mend the action or store that is named, and run it again.",
        ) from error
    return CheckpointOutcome(
        success=bool(outcome.success),
        document=gx_adapter.description_of(outcome),
        actions=tuple(action.type for action in found.actions),
        sites=gx_adapter.sites_of(context),
    )


def build_data_docs(folder: Path, result: Mapping[str, Any], *, batch: str) -> Path:
    """Write GX's Data Docs of one result as a site of static files; return its index. Imports GX.

    The pages load scripts and styles from GX's servers when they are looked at; `report.html` of a run does not.

    Args:
        folder: that the site is written to; it must not exist or be empty.
        result: as for `run_checkpoint`.
        batch: as for `run_checkpoint`.

    Raises:
        UsageError: the folder has something in it, or GX cannot render the result.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder.", hint="Name a new folder for the Data Docs.")
    try:
        from millcert.checks import expectations_drift  # noqa: F401 - registers what the suite may hold

        gx_adapter.build_site(folder, str(result["suite_name"]), result, batch)
    except Exception as error:
        raise UsageError(f"Great Expectations cannot render this result: {gx_adapter.one_line(error)}.") from error
    return folder / "index.html"


def _open(project: Path) -> Any:
    from millcert.checks import expectations_drift  # noqa: F401 - registers what a suite of the project may hold

    root = project.parent if project.name == "gx" else project
    if not (root / "gx" / "great_expectations.yml").is_file():
        raise UsageError(
            f"{project} is no Great Expectations project: it has no gx/great_expectations.yml.",
            hint="Name the folder in which `gx.get_context(mode='file')` made the project.",
        )
    try:
        return gx_adapter.file_context(root)
    except Exception as error:
        raise UsageError(f"The project {project} cannot be opened: {gx_adapter.one_line(error)}.") from error


def lowered(result: Mapping[str, Any], result_format: str) -> dict[str, Any]:
    """Return a result of format SUMMARY as GX gives it at BASIC or BOOLEAN_ONLY; for other formats the same."""
    document: dict[str, Any] = json.loads(json.dumps(result))
    for entry in document["results"] if result_format in _LACKS else ():
        lacks = _LACKS[result_format]
        entry["result"] = {key: value for key, value in (entry["result"] or {}).items() if lacks and key not in lacks}
    return document


#: What results of a format lack of those at SUMMARY; () is everything.
_LACKS: Mapping[str, tuple[str, ...]] = {
    "BASIC": ("partial_unexpected_counts", "partial_unexpected_index_list"),
    "BOOLEAN_ONLY": (),
}


def _level_of(result_format: Any) -> str:
    """Return the name of a Checkpoint's result format, which is one or a mapping that has it."""
    level = result_format.get("result_format", "SUMMARY") if isinstance(result_format, Mapping) else result_format
    return str(getattr(level, "value", level))


def _require_same(suite: Any, result: Mapping[str, Any]) -> None:
    """Raise PolicyError unless a suite's expectations are those of a result, whatever their order and notes."""
    asked = sorted(map(_meaning, gx_adapter.configurations_of(suite)))
    measured = sorted(_meaning(entry["expectation_config"]) for entry in result["results"])
    if asked != measured:
        missing = [one for one in asked if one not in measured] or [one for one in measured if one not in asked]
        raise PolicyError(
            f"The Checkpoint validates the suite {suite.name!r}, whose expectations are not those that were measured, "
            f"such as {missing[0] if missing else 'how often one stands there'}.",
            hint="Name the project's suite file (gx/expectations/NAME.json) as expectations.suite in the policy.",
            expected=len(asked),
            actual=len(measured),
        )


def _meaning(configuration: Mapping[str, Any]) -> str:
    kwargs = {key: value for key, value in configuration["kwargs"].items() if key != "batch_id" and value is not None}
    severity = configuration.get("severity") or "critical"
    return json.dumps([configuration["type"], severity, kwargs], sort_keys=True)
