"""Models of the checks, fitted on the merged parts of a pass by one worker.

A check that cannot be fitted becomes a `CheckFailure`, which stands where its model would. So does each check that a
pass feeds in which a file could not be read.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, PBegin, PCollection

from millcert.errors import InternalError, MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.history import recall_history, write_history
from millcert.pipelines.models import EXPECTATIONS, Models
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.records import CheckFailure, Fault, Note

PartKey: TypeAlias = tuple[str, str]


class FitModels(beam.PTransform):
    """Fit every check on the merged parts of a pass.

    In: the pass's parts. Out: one `Models`: new models of the checks that this pass fed, the old ones of the rest.
    """

    def __init__(
        self,
        plan: VetPlan,
        number: int,
        dataset: AsSingleton,
        parts: PCollection[tuple[PartKey, Any]],
        models: AsSingleton | None,
        notes: PCollection[Note],
    ) -> None:
        super().__init__()
        self._plan = plan
        self._number = number
        self._dataset = dataset
        self._parts = parts
        self._models = models
        self._notes = notes

    def expand(self, begin: PBegin) -> PCollection[Models]:
        """Fit on one worker."""
        faults = self._notes | "Faults" >> beam.Filter(_is_fault).with_output_types(Fault)
        return (
            begin
            | "Once" >> beam.Impulse()
            | "Fit"
            >> beam.Map(
                _fit, self._dataset, AsList(self._parts), self._models, AsList(faults), self._plan, self._number
            ).with_output_types(dict[str, Any])
        )


def _is_fault(note: Note) -> bool:
    return isinstance(note, Fault)


def _fit(
    _: bytes,
    dataset: DatasetFacts,
    parts: list[tuple[PartKey, Any]],
    models: Models | None,
    faults: list[Fault],
    plan: VetPlan,
    number: int,
) -> dict[str, Any]:
    # A data set that is refused was not read: a check must not be asked to judge that there is nothing.
    return {} if dataset.faults else fit_models(plan, number, parts, models, faults)


def fit_models(
    plan: VetPlan, number: int, parts: list[tuple[PartKey, Any]], models: Models | None, faults: Sequence[Fault]
) -> dict[str, Any]:
    """Return the models after pass `number`; a check that cannot be fitted becomes a `CheckFailure`.

    So does every check that the pass feeds where reading had faults: what is there are sums of a part of the data, and
    a check may rely on a later pass bringing what an earlier one brought. The run ends with those faults.

    Raises:
        InternalError: a check met a bug of its own; that is no property of the data.
    """
    fitted: dict[str, Any] = dict(models or {})
    by_check: dict[str, dict[str, Any]] = {}
    for (name, _), (_, accumulator) in sorted(parts, key=lambda part: part[0]):
        by_check.setdefault(name, {}).update(accumulator)
    for planned in active_checks(plan, number, models):
        check = planned.check
        before = None if models is None else models[planned.name]
        if faults:
            code = min(fault.code for fault in faults)
            fitted[planned.name] = CheckFailure(code, "A file could not be read in this pass.")
            continue
        try:
            model = check.fit(by_check.get(planned.name, check.empty()), before)
            fitted[planned.name] = recall_history(plan, planned, model) if number == 1 else model
        except MillcertError as error:
            if error.exit_code == InternalError.exit_code:
                raise
            fitted[planned.name] = CheckFailure(error.code, error.message)
    if number == 1:
        fitted[EXPECTATIONS] = by_check.get(EXPECTATIONS)
    if number == plan.passes:
        write_history(plan, fitted)
    return fitted


def active_checks(plan: VetPlan, number: int, models: Models | None) -> list[Any]:
    """Return the planned checks that pass `number` feeds: they need that many passes and have not failed."""
    return [
        planned
        for planned in plan.checks
        if planned.check.passes >= number
        and not (models is not None and isinstance(models.get(planned.name), CheckFailure))
    ]
