"""Great Expectations as millcert meets it: the one module that imports it, and the one to read when a new one comes.

Rules this module keeps:
  1. No other module imports great_expectations or names what it does not promise (tests/checks/test_gx_adapter.py reads
     them all). What comes from here is either a value of ours or an object that others only hand back.
  2. GX runs only in a version that it was tested with (`millcert.checks.gx_version`).
  3. Everything that GX calls private, or does not mark as its public API, stands in `TOUCHPOINTS`, and has to be there.

Importing this module does not import GX; its functions do.
"""

import contextlib
import functools
import json
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyarrow as pa

from millcert.checks.gx_version import require_usable, version_of
from millcert.errors import PolicyError

#: "module:name" of all that is not GX's public API and is called, overridden or read here.
TOUCHPOINTS = (
    "great_expectations.core.expectation_validation_result:expectationSuiteValidationResultSchema",
    "great_expectations.core.metric_domain_types:MetricDomainTypes.TABLE",
    "great_expectations.execution_engine:PandasExecutionEngine.batch_manager",
    "great_expectations.execution_engine:PandasExecutionEngine.get_compute_domain",
    "great_expectations.expectations.expectation:BatchExpectation._validate",
    "great_expectations.expectations.expectation:BatchExpectation.get_validation_dependencies",
    "great_expectations.expectations.expectation:BatchExpectation.metrics_validate",
    "great_expectations.expectations.expectation:ColumnMapExpectation.map_metric",
    "great_expectations.expectations.expectation_configuration:ExpectationConfiguration.to_domain_obj",
    "great_expectations.expectations.metrics.metric_provider:metric_value",
    "great_expectations.expectations.metrics.table_metric_provider:TableMetricProvider",
    "great_expectations.expectations.registry:get_expectation_impl",
    "great_expectations.expectations.registry:list_registered_expectation_implementations",
    "great_expectations.validator.metric_configuration:MetricConfiguration.id",
    "great_expectations.validator.metrics_calculator:MetricsCalculator.get_metric",
    "great_expectations.validator.validation_statistics:calc_validation_statistics",
    "great_expectations.checkpoint:Checkpoint._run_validation_definitions",
    "great_expectations.checkpoint:Checkpoint._build_result_key",
    "great_expectations.core.validation_definition:ValidationDefinition._get_expectation_suite_and_validation_result_ids",
    "great_expectations.core.validation_definition:ValidationDefinition._validation_results_store",
    "great_expectations.core.validation_definition:ValidationDefinition.data_source",
    "great_expectations.checkpoint:CheckpointResult.describe_dict",
    "great_expectations.core:ExpectationSuite.expectation_configurations",
    "great_expectations.data_context:AbstractDataContext.get_docs_sites_urls",
    "great_expectations.data_context:AbstractDataContext.get_site_names",
    "great_expectations.expectations.expectation_configuration:ExpectationConfiguration.to_json_dict",
)


class NeededMetric(NamedTuple):
    """One metric that an expectation asks for.

    key: what GX finds its value by. name: such as "column_values.between.unexpected_count".
    domain, parameters: its keyword arguments.
    """

    key: Any
    name: str
    domain: Mapping[str, Any]
    parameters: Mapping[str, Any]


class Registered(NamedTuple):
    """One expectation that GX knows; `row_metric` is the metric by which it judges rows, or ""."""

    is_own: bool
    module: str
    is_abstract: bool
    docstring: str
    row_metric: str


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Import and run GX without telemetry (versions below 1.24 have some), log lines and warnings.

    Raises:
        UsageError: the installed version is none of those tested, or there is none.
    """
    _require_usable()
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@functools.cache
def _require_usable() -> None:
    require_usable(TOUCHPOINTS)


def one_line(error: BaseException) -> str:
    """Return what an error of GX says, on one line of at most 500 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:500]


# Planning and judging: `get_validation_dependencies` and `metrics_validate` on a frame of no rows.


def engine_of(schema: pa.Schema) -> Any:
    """Return GX's pandas engine on a frame of no rows; raw as pandas makes it of the schema."""
    from great_expectations.execution_engine import PandasExecutionEngine

    return PandasExecutionEngine(batch_data_dict={"millcert": schema.empty_table().to_pandas()})


def frame_of(engine: Any) -> Any:
    """Return the frame of no rows."""
    return engine.batch_manager.active_batch_data.dataframe


def parsed(entry: Mapping[str, Any]) -> Any:
    """Return GX's object of an expectation as a suite's JSON has it; raises whatever GX and pydantic raise."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(**entry).to_domain_obj()


def type_of(expectation: Any) -> str:
    """Return GX's name of an expectation."""
    return str(expectation.configuration.type)


def kwargs_of(expectation: Any) -> Mapping[str, Any]:
    """Return the arguments of an expectation, with GX's defaults."""
    kwargs: Mapping[str, Any] = expectation.configuration.kwargs
    return kwargs


def severity_of(expectation: Any) -> str:
    """Return "critical", "warning" or "info"."""
    severity = expectation.configuration.severity
    return str(getattr(severity, "value", severity))


def row_metric_of(expectation: Any) -> str:
    """Return the metric by which an expectation judges rows, or "" where it is not about rows."""
    return getattr(expectation, "map_metric", None) or ""


def needed_metrics(expectation: Any, engine: Any, result_format: str) -> list[NeededMetric]:
    """Return the metrics that an expectation asks for; raises whatever GX raises."""
    needed = expectation.get_validation_dependencies(
        execution_engine=engine, runtime_configuration={"result_format": result_format}
    )
    return [
        NeededMetric(each.id, each.metric_name, each.metric_domain_kwargs, each.metric_value_kwargs or {})
        for each in needed.metric_configurations.values()
    ]


def judged(expectation: Any, engine: Any, values: Mapping[Any, Any], result_format: str) -> Any:
    """Return GX's result of an expectation on metrics, by their keys; raises whatever GX raises."""
    result = expectation.metrics_validate(
        metrics=dict(values),
        runtime_configuration={"result_format": result_format},
        execution_engine=engine,
    )
    # GX 1.24 leaves a numpy bool in quantile results, which its own serializer cannot write with marshmallow 4.
    result.success = bool(result.success)
    return result


def suite_result(results: Sequence[Any], name: str, meta: Mapping[str, Any]) -> Any:
    """Return GX's result of a suite, of the results of its expectations."""
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.validator.validation_statistics import calc_validation_statistics

    statistics = calc_validation_statistics(list(results))
    return ExpectationSuiteValidationResult(
        results=list(results),
        success=bool(statistics.success),
        suite_name=name,
        statistics={
            "evaluated_expectations": statistics.evaluated_expectations,
            "successful_expectations": statistics.successful_expectations,
            "unsuccessful_expectations": statistics.unsuccessful_expectations,
            "success_percent": statistics.success_percent,
        },
        meta={"great_expectations_version": version_of(), **meta},
    )


def is_of_type(base: str, value: pa.Array, column: str, parameters: Mapping[str, Any]) -> bool:
    """Ask GX's pandas metric whether the one value of a column is of a type.

    Raises:
        PolicyError: GX knows no such type.
    """
    import pandas as pd
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.validator.metric_configuration import MetricConfiguration
    from great_expectations.validator.metrics_calculator import MetricsCalculator

    frame = pd.DataFrame({column: value.to_pandas()})
    metric = MetricConfiguration(f"{base}.unexpected_count", {"column": column}, dict(parameters))
    calculator = MetricsCalculator(PandasExecutionEngine(batch_data_dict={"one": frame}), show_progress_bars=False)
    try:
        return bool(calculator.get_metric(metric) == 0)
    except Exception as error:
        raise PolicyError(f"Great Expectations refuses the type {parameters!r}: {one_line(error)}.") from error


# The registry, and expectations of our own in it.


def registered() -> dict[str, Registered]:
    """Return every expectation that GX knows now, by name."""
    import inspect

    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    kinds = {name: get_expectation_impl(name) for name in sorted(list_registered_expectation_implementations())}
    return {
        name: Registered(
            kind.__module__.startswith("great_expectations."),
            kind.__module__,
            inspect.isabstract(kind),
            kind.__doc__ or "",
            getattr(kind, "map_metric", None) or "",
        )
        for name, kind in kinds.items()
    }


@functools.cache
def metric_expectation() -> Any:
    """Return the base class of expectations of ours: one metric of the table, whose value is the whole result.

    A subclass says in `asked` which metric and with which parameters; its value is a mapping with "success".
    """
    _require_usable()
    from great_expectations.expectations.expectation import BatchExpectation
    from great_expectations.validator.metric_configuration import MetricConfiguration

    class MetricExpectation(BatchExpectation):  # type: ignore[misc] # GX has no types here
        """One metric, whose value is the whole answer."""

        @abstractmethod
        def asked(self) -> tuple[str, Mapping[str, Any]]:
            """Return the metric's name and its parameters."""

        def get_validation_dependencies(self, execution_engine: Any = None, runtime_configuration: Any = None) -> Any:
            """Return GX's list of needed metrics: the one."""
            needed = super().get_validation_dependencies(execution_engine, runtime_configuration)
            name, parameters = self.asked()
            batch = self.configuration.kwargs.get("batch_id")
            metric = MetricConfiguration(name, {} if batch is None else {"batch_id": batch}, dict(parameters))
            needed.set_metric_configuration(name, metric)
            return needed

        def _validate(self, metrics: Any, runtime_configuration: Any = None, execution_engine: Any = None) -> Any:
            del runtime_configuration, execution_engine
            answer = dict(metrics[self.asked()[0]])
            return {"success": answer.pop("success"), "result": answer}

    return MetricExpectation


def register_metric(name: str, keys: tuple[str, ...], answer: Callable[[Any, Mapping[str, Any]], Any]) -> None:
    """Have GX on pandas answer a metric of the table by `answer(frame, parameters)`."""
    _require_usable()
    from great_expectations.core.metric_domain_types import MetricDomainTypes
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.expectations.metrics.metric_provider import metric_value
    from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

    class AnsweredMetric(TableMetricProvider):  # type: ignore[misc] # GX registers it when the class is made
        """A metric that `answer` computes on the frame."""

        metric_name = name
        value_keys = keys

        @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
        def _pandas(
            cls,  # noqa: N805 - GX binds the class
            execution_engine: Any,
            metric_domain_kwargs: Any,
            metric_value_kwargs: Any,
            metrics: Any,  # noqa: ARG002
            runtime_configuration: Any,  # noqa: ARG002
        ) -> Any:
            frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
            return answer(frame, metric_value_kwargs)


# Projects: contexts, Checkpoints and stores.


def file_context(root: Path) -> Any:
    """Return the context of a project; raises whatever GX raises."""
    _require_usable()
    import great_expectations as gx

    return gx.get_context(mode="file", project_root_dir=str(root))


def configurations_of(suite: Any) -> list[dict[str, Any]]:
    """Return the JSON of each expectation of a suite."""
    return [each.to_json_dict() for each in suite.expectation_configurations]


def sites_of(context: Any) -> dict[str, str]:
    """Return Data Docs site -> address of its index, of the sites that a project has."""
    sites = context.get_docs_sites_urls()
    return {site["site_name"]: site["site_url"] for site in sites if site.get("site_name") and site.get("site_url")}


def description_of(outcome: Any) -> dict[str, Any]:
    """Return what the result of a Checkpoint's run says, as JSON."""
    document: dict[str, Any] = json.loads(json.dumps(outcome.describe_dict(), default=str))
    return document


def build_site(folder: Path, suite_name: str, document: Mapping[str, Any], batch: str) -> None:
    """Write GX's Data Docs of one result to a folder, from a context of its own; raises whatever GX raises.

    Args:
        folder: that the site is written to.
        suite_name: of the suite, which is made of the result's expectations, in the result's order.
        document: GX's JSON of the result.
        batch: names the data.
    """
    _require_usable()
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    context: Any = gx.get_context(mode="ephemeral")
    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    place = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site_config = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": place}
    context.add_data_docs_site(site_name="millcert", site_config=site_config)
    configurations = [entry["expectation_config"] for entry in document["results"]]
    suite = context.suites.add(gx.ExpectationSuite(name=suite_name, expectations=configurations))
    source = context.data_sources.add_pandas("millcert")
    data = source.add_dataframe_asset("data").add_batch_definition_whole_dataframe(batch)
    definition = gx.ValidationDefinition(name="millcert", data=data, suite=suite)
    stored_result(context.validation_definitions.add(definition), document, RunIdentifier(run_name=batch), batch)
    context.build_data_docs()


def measured_checkpoint(found: Any, batch: str, document_of: Callable[[Any], Mapping[str, Any]]) -> Any:
    """Return a project's Checkpoint with validations that are done: its `run` stores results and takes its actions.

    Args:
        found: the project's Checkpoint.
        batch: names the data.
        document_of: the JSON of the result of one of its validation definitions.
    """
    from great_expectations.checkpoint import Checkpoint

    class Measured(Checkpoint):  # type: ignore[misc] # GX carries no types
        """The project's Checkpoint, with validations that are done."""

        def _run_validation_definitions(
            self, batch_parameters: Any, expectation_parameters: Any, result_format: Any, run_id: Any
        ) -> dict[Any, Any]:
            del batch_parameters, expectation_parameters, result_format
            return {
                self._build_result_key(validation, run_id, batch): stored_result(
                    validation, document_of(validation), run_id, batch, checkpoint_id=self.id
                )
                for validation in self.validation_definitions
            }

    return Measured(
        name=found.name,
        validation_definitions=found.validation_definitions,
        actions=found.actions,
        result_format=found.result_format,
        id=found.id,
    )


def stored_result(
    validation: Any, document: Mapping[str, Any], run_id: Any, batch: str, *, checkpoint_id: Any = None
) -> Any:
    """Return a result as `ValidationDefinition.run` would, stored in the project's validation results store."""
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema

    whole = expectationSuiteValidationResultSchema.load(document)
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
