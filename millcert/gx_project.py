"""What millcert measured, through a Great Expectations project's own Checkpoint: its stores, actions and Data Docs.

A Checkpoint of GX reads its data into one frame. Here it gets results that are already there, of any number of rows,
so that whoever has a project keeps its suites, severities, alerts and history. All else is GX's own `Checkpoint.run`:
whether the project has what the Checkpoint names, the validation results store, the actions in their order.

Which of GX 1.24 is not its public API: `Checkpoint._run_validation_definitions` and `_build_result_key` (overridden,
called), `ValidationDefinition._validation_results_store` and `_get_expectation_suite_and_validation_result_ids`
(called), `expectationSuiteValidationResultSchema`. tests/cli/test_expectations_command.py runs them against the
installed version.

A project's configuration names classes to load and addresses to call: it is its owner's code, as a Makefile is. The
gate (`millcert vet`) never opens one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

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
    from great_expectations.checkpoint import Checkpoint

    context = _open(project)
    try:
        found = context.checkpoints.get(name)
    except Exception as error:
        known = ", ".join(sorted(each.name for each in context.checkpoints.all())) or "none"
        raise UsageError(
            f"The Great Expectations project {project} has no usable Checkpoint {name!r}: {_one_line(error)}.",
            hint=f"Its Checkpoints are: {known}.",
        ) from error
    for validation in found.validation_definitions:
        _require_same(validation.suite, result)

    class Measured(Checkpoint):  # type: ignore[misc] # GX carries no types
        """The project's Checkpoint, with validations that are done."""

        def _run_validation_definitions(
            self, batch_parameters: Any, expectation_parameters: Any, result_format: Any, run_id: Any
        ) -> dict[Any, Any]:
            del batch_parameters, expectation_parameters, result_format
            results = {}
            for validation in self.validation_definitions:
                key = self._build_result_key(validation, run_id, batch)
                results[key] = _validated(validation, self.id, run_id, batch, result)
            return results

    measured = Measured(
        name=found.name,
        validation_definitions=found.validation_definitions,
        actions=found.actions,
        result_format=found.result_format,
        id=found.id,
    )
    try:
        outcome = measured.run()
    except Exception as error:
        raise UsageError(
            f"The Checkpoint {name!r} did not run to its end: {_one_line(error)}.",
            hint="What it stored before stays. Mend the action or store that is named, and run it again.",
        ) from error
    return CheckpointOutcome(
        success=bool(outcome.success),
        document=json.loads(json.dumps(outcome.describe_dict(), default=str)),
        actions=tuple(action.type for action in found.actions),
        sites=_sites(context),
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
    import great_expectations as gx

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder.", hint="Name a new folder for the Data Docs.")
    try:
        _render(gx.get_context(mode="ephemeral"), folder, result, batch)
    except Exception as error:
        raise UsageError(f"Great Expectations cannot render this result: {_one_line(error)}.") from error
    return folder / "index.html"


def _render(context: Any, folder: Path, result: Mapping[str, Any], batch: str) -> None:
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    from millcert.checks import expectations_drift  # noqa: F401 - registers what the suite may hold

    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        site_name="millcert",
        site_config={
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(folder.absolute()),
            },
        },
    )
    suite = context.suites.add(_suite_of(result))
    source = context.data_sources.add_pandas("millcert")
    data = source.add_dataframe_asset("data").add_batch_definition_whole_dataframe(batch)
    validation = context.validation_definitions.add(gx.ValidationDefinition(name="millcert", data=data, suite=suite))
    _validated(validation, None, RunIdentifier(run_name=batch), batch, result)
    context.build_data_docs()


def _open(project: Path) -> Any:
    import great_expectations as gx

    from millcert.checks import expectations_drift  # noqa: F401 - registers what a suite of the project may hold

    root = project.parent if project.name == "gx" else project
    if not (root / "gx" / "great_expectations.yml").is_file():
        raise UsageError(
            f"{project} is no Great Expectations project: it has no gx/great_expectations.yml.",
            hint="Name the folder in which `gx.get_context(mode='file')` made the project.",
        )
    try:
        return gx.get_context(mode="file", project_root_dir=str(root))
    except Exception as error:
        raise UsageError(f"The project {project} cannot be opened: {_one_line(error)}.") from error


def _validated(validation: Any, checkpoint_id: Any, run_id: Any, batch: str, result: Mapping[str, Any]) -> Any:
    """Return a result as `ValidationDefinition.run` would, stored in the project's results store."""
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema

    whole = expectationSuiteValidationResultSchema.load(json.loads(json.dumps(result)))
    whole.suite_name = validation.suite.name
    whole.batch_id = batch
    whole.meta |= {
        "validation_id": validation.id,
        "checkpoint_id": checkpoint_id,
        "run_id": run_id,
        "validation_time": run_id.run_time,
        "batch_parameters": None,
        "batch_spec": {},
        "batch_markers": {"ge_load_time": run_id.run_time.strftime("%Y%m%dT%H%M%S.%fZ")},
        "active_batch_definition": {
            "datasource_name": validation.data_source.name,
            "data_connector_name": "fluent",
            "data_asset_name": validation.asset.name,
            "batch_identifiers": {"millcert": batch},
        },
    }
    suite_key, result_key = validation._get_expectation_suite_and_validation_result_ids(  # noqa: SLF001 - stated above
        validator=SimpleNamespace(active_batch_id=batch), run_id=run_id
    )
    validation._validation_results_store.store_validation_results(  # noqa: SLF001
        suite_validation_result=whole,
        suite_validation_result_identifier=result_key,
        expectation_suite_identifier=suite_key,
    )
    return whole


def _suite_of(result: Mapping[str, Any]) -> Any:
    """Return the suite that a result is of; its expectations in the result's order."""
    from great_expectations import ExpectationSuite

    return ExpectationSuite(
        name=str(result["suite_name"]), expectations=[entry["expectation_config"] for entry in result["results"]]
    )


def _require_same(suite: Any, result: Mapping[str, Any]) -> None:
    """Raise PolicyError unless a suite's expectations are those of a result, whatever their order and notes."""
    asked = sorted(_meaning(each.to_json_dict()) for each in suite.expectation_configurations)
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


def _sites(context: Any) -> dict[str, str]:
    return {
        site["site_name"]: site["site_url"]
        for site in context.get_docs_sites_urls()
        if site.get("site_name") and site.get("site_url")
    }


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:500]
