"""Parts of moments folded as far as all classes together ask for, before one worker holds them all to fit.

Where data are sorted by class, each worker sees few classes and keeps all columns of them, so the parts of a thousand
classes take gigabytes. The fold depends on how many tables there are, which is known once all parts are merged: they
are counted, and each part is folded on its way to the fit, one at a time. Folding is exact
(`millcert.checks.column_fold`), so nothing else changes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, PCollection

from millcert.checks.class_moments import FoldsColumns, folded_part, tables_of
from millcert.checks.moments import Moments
from millcert.pipelines.plan import VetPlan


def fold_parts(merged: PCollection[Any], plan: VetPlan) -> PCollection[Any]:
    """Return the merged parts of the first pass, those of moments folded; the same where no check folds.

    Args:
        merged: ((check, group), (check, accumulator of that group alone)), one a key.
        plan: of the run.
    """
    most = {one.name: one.check.most_columns for one in plan.checks if isinstance(one.check, FoldsColumns)}
    if not most:
        return merged
    tables = merged | "CountTables" >> beam.FlatMap(_tables, most) | "MergeTables" >> beam.CombinePerKey(sum)
    return merged | "Fold" >> beam.Map(_folded, AsDict(tables), most).with_output_types(merged.element_type)


def _tables(element: tuple[tuple[str, str], Any], most: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    (name, _), (_, accumulator) = element
    if name in most:
        yield name, sum(tables_of(part) for part in accumulator.values() if isinstance(part, Moments))


def _folded(element: tuple[tuple[str, str], Any], tables: Mapping[str, int], most: Mapping[str, int]) -> Any:
    key, (name, accumulator) = element
    if name not in most:
        return element
    folded = {
        group: folded_part(part, tables[name], most[name]) if isinstance(part, Moments) else part
        for group, part in accumulator.items()
    }
    return key, (name, folded)
