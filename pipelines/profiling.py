"""The profile made inside the job: cells folded beside the expectations, and the drift from the reference.

Rules this module keeps:
  1. The profile is one of the samples that the checks see: what decodes and can play its roles, before quarantine. It
     is the same as `millcert profile make` of those rows, to the last bit, on any runner and in any order.
  2. Cells cross the shuffle, one a record, and go to the ruling alone.
  3. A comparison that cannot be made leaves the verdict inconclusive or the run refused, never admitted.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from millcert.checks.drift_question import DriftSides
from millcert.checks.profile import Cell, Profile, ProfileSpec, empty_profile, merge_cells, merge_profiles
from millcert.checks.profile_builder import ProfileBuilder
from millcert.checks.profile_compare import Compared, ProfileDrift, compare_profiles
from millcert.checks.profile_format import load_profile, profile_file
from millcert.checks.sketch_tokens import NO_TOKENS, TokenTable, merge_tokens
from millcert.errors import MillcertError, StoreError
from millcert.pipelines.course import judge_course
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.plan import PlannedDrift, VetPlan
from millcert.pipelines.publish import write_file
from millcert.pipelines.records import Fault, fault_from
from millcert.verdict import DriftSummary, Reason

#: The name under which cells travel; no check may have it (names have no colon).
PROFILE = "profile:cells"
#: What a run publishes.
PROFILE_FILE = "profile.json"
SIGNED_PROFILE_FILE = "profile.dsse.json"

#: Comparisons that a verdict lists; drifting ones first. All of them are counted.
MAX_LISTED = 100

#: ((PROFILE, group), (PROFILE, {group: cell})), as the accumulators of checks travel; a column's tokens are a group.
CellPart: TypeAlias = tuple[tuple[str, str], tuple[str, Mapping[str, Cell | TokenTable]]]


class ProfileBuffer:
    """Folds the batches of one worker into cells, many batches at a time. Memory: see `ProfileBuilder`."""

    def __init__(self, spec: ProfileSpec) -> None:
        self._spec = spec
        self._builder: ProfileBuilder | None = None

    def add(self, batch: pa.RecordBatch, source: str) -> None:
        """Take a batch of the user's columns; `source` counts where the spec names no column for it.

        Raises:
            UsageError: there are more cells than the spec allows, or other columns than before.
        """
        if self._builder is None:
            self._builder = ProfileBuilder(self._spec, batch.schema.remove_metadata())
        self._builder.add(batch, source)

    def parts(self) -> dict[str, Cell | TokenTable]:
        """Return group -> cell, or table of tokens, of all that was added.

        Raises:
            UsageError: as `add`.
        """
        if self._builder is None:
            return {}
        profile = self._builder.finish()
        tokens = {_tokens_group(column): table for column, table in profile.tokens.items()}
        return {**{_group(name): cell for name, cell in profile.cells.items()}, **tokens}


class CellMerge:
    """Merges cells as `_MergeParts` merges the accumulators of checks."""

    def __init__(self, spec: ProfileSpec) -> None:
        self._spec = spec

    def merge(self, parts: Iterable[Mapping[str, Cell | TokenTable]]) -> dict[str, Cell | TokenTable]:
        """Return the cells of all parts."""
        grouped: dict[str, list[Any]] = {}
        for part in parts:
            for group, cell in part.items():
                grouped.setdefault(group, []).append(cell)
        return {
            group: merge_cells(found, self._spec)
            if isinstance(found[0], Cell)
            else merge_tokens(found, self._spec.token_pairs)
            for group, found in grouped.items()
        }


class Profiled(NamedTuple):
    """What the ruling learns of the profile: its digest, the drift, and what they speak against the data.

    sides: what the suite's drift expectations are answered from; None where no reference is there and none is waived.
    """

    digest: str
    drift: DriftSummary | None
    rejects: tuple[Reason, ...]
    missing: tuple[Reason, ...]
    faults: tuple[Fault, ...] = ()
    sides: DriftSides | None = None


NOT_PROFILED = Profiled("", None, (), ())


def profile_run(plan: VetPlan, dataset: DatasetFacts, parts: Sequence[CellPart] | None) -> Profiled:
    """Return what the profile says, after it was written to the staging folder beside what is published."""
    if plan.profile is None or dataset.faults:
        return NOT_PROFILED
    try:
        profile = profile_of(plan.profile, dataset.schema, parts or ())
        data, digest = profile_file(profile)
        write_file(f"{plan.staging}/publish/{PROFILE_FILE}", data)
        if plan.drift is None:
            return Profiled(digest, None, (), ())
        return _judge(plan.drift, profile, digest)
    except MillcertError as error:
        return Profiled("", None, (), (), (fault_from(error),))


def profile_of(spec: ProfileSpec, schema: pa.Schema, parts: Iterable[CellPart]) -> Profile:
    """Return the profile of merged cells.

    Raises:
        UsageError: there are more cells than the spec allows.
        MissingColumnError: the spec's label or source is no column of the data.
    """
    empty = empty_profile(spec, schema)
    merged = {group: part for _, (_, found) in parts for group, part in found.items()}
    cells = {tuple(json.loads(group)): cell for group, cell in merged.items() if isinstance(cell, Cell)}
    tables = {group: table for group, table in merged.items() if isinstance(table, TokenTable)}
    tokens = {name: tables.get(_tokens_group(name), NO_TOKENS) for name in spec.tokens}
    return merge_profiles([empty, empty._replace(cells=cells, tokens=tokens)])


def _judge(drift: PlannedDrift, profile: Profile, digest: str) -> Profiled:
    course = judge_course(drift, [read_profile(placed.uri) for placed in drift.course], profile, digest)
    found = _judge_version(drift, profile, digest)
    summary = None if found.drift is None else replace(found.drift, course=course.summary)
    return found._replace(drift=summary, rejects=(*found.rejects, *course.rejects))


def _judge_version(drift: PlannedDrift, profile: Profile, digest: str) -> Profiled:
    if not drift.reference_uri:
        message = "no version was admitted yet, so there is nothing to compare the data with"
        is_waived = drift.on_no_reference == "report"
        missing = () if is_waived else (Reason("drift.no_reference", message),)
        sides = DriftSides(None, "", profile) if is_waived else None
        return Profiled(digest, _summary(drift, None), (), missing, sides=sides)
    reference = read_profile(drift.reference_uri)
    found = compare_profiles(reference, profile, drift.limits, ignore=drift.ignore)
    summary = _summary(drift, found)
    rejects = []
    moved = [one for one in found.found if one.subject.part != "presence"]
    columns = (*found.added, *found.removed, *found.changed)
    if drift.on_drift == "reject" and moved:
        shown = "; ".join(describe(one) for one in moved[:5])
        rejects.append(Reason("drift.found", f"{len(moved)} of {len(found.compared)} comparisons drift: {shown}"))
    if drift.on_drift == "reject" and columns:
        rejects.append(Reason("drift.columns", f"columns differ from the reference: {', '.join(columns[:5])}"))
    sources = [*summary.new_sources, *summary.silent_sources]
    if drift.on_source_change == "reject" and any(one.subject.part == "presence" for one in found.found):
        rejects.append(Reason("drift.sources", f"sources that are new or silent: {', '.join(sources[:5])}"))
    sides = DriftSides(reference, drift.reference_digest, profile, drift.limits, tuple(drift.ignore))
    return Profiled(digest, summary, tuple(rejects), (), sides=sides)


def describe(one: Compared) -> str:
    """Return a comparison in words: what, effect, limit and what chance alone gives."""
    drift = one.drift
    return (
        f"{one.subject.in_words()}: {drift.measure} {drift.value:.4g} (limit {drift.limit:g}, null quantile "
        f"{drift.null_quantile:.4g}, n {drift.reference_rows:,} and {drift.current_rows:,})"
    )


def _summary(drift: PlannedDrift, found: ProfileDrift | None) -> DriftSummary:
    compared = () if found is None else found.compared
    presence = [one for one in compared if one.subject.part == "presence"]
    return DriftSummary(
        reference=drift.reference_digest,
        on_drift=drift.on_drift,
        on_source_change=drift.on_source_change,
        alpha=0.0 if found is None else found.alpha,
        compared=len(compared),
        found=0 if found is None else len(found.found),
        skipped=0 if found is None else len(found.skipped),
        added=() if found is None else found.added,
        removed=() if found is None else found.removed,
        changed=() if found is None else found.changed,
        new_sources=tuple(sorted(one.subject.source for one in presence if one.figures["is_new"])),
        silent_sources=tuple(sorted(one.subject.source for one in presence if not one.figures["is_new"])),
        outcomes=tuple(_outcome(one) for one in compared[:MAX_LISTED]),
    )


def _outcome(one: Compared) -> dict[str, Any]:
    return {**one.subject._asdict(), **one.drift._asdict(), "is_drift": one.drift.is_drift, "figures": one.figures}


def read_profile(uri: str) -> Profile:
    """Return the profile that a run keeps at a place in its staging folder.

    Raises:
        StoreError: it cannot be read.
        IntegrityError, UsageError: it is no profile.
    """
    try:
        with FileSystems.open(uri, compression_type="uncompressed") as stream:
            data = bytes(stream.read())
    except OSError as error:
        raise StoreError(f"Cannot read the profile {uri}: {error}", hint="Run again.") from error
    return load_profile(data)


def _group(name: tuple[str, str]) -> str:
    return json.dumps(name)


def _tokens_group(column: str) -> str:
    return json.dumps({"tokens": column})
