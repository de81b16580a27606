"""Drift from a reference profile as custom expectations of Great Expectations, so that a suite can hold them.

Importing this module registers them with GX, after which GX's own classes load, save and validate suites that have
them. Importing it imports GX (`millcert.checks.gx_adapter`), so only functions import it. Two engines answer by the
same code, `millcert.checks.drift_question`:
  - millcert's: from the profile of the run, whatever its size, and the reference that the policy names;
  - GX on a pandas frame: the frame is profiled with the reference's spec. `reference` is then the path of a profile
    file, which is the one thing that this module reads.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import pyarrow as pa

from millcert.checks import gx_adapter
from millcert.checks.drift_question import DRIFT_METRIC, PARAMETERS, DriftQuestion, DriftSides, question_of
from millcert.checks.profile import Profile, add_batch, empty_profile
from millcert.checks.profile_format import MAX_PROFILE_BYTES, load_profile, profile_digest
from millcert.errors import UsageError

#: Rows of a frame that are profiled at a time.
_ROWS = 1 << 18


_MetricExpectation: Any = gx_adapter.metric_expectation()


class ProfileDriftExpectation(_MetricExpectation):  # type: ignore[misc] # GX has no types here
    """What the drift expectations share: one metric, whose value is the whole answer."""

    reference: str
    family_alpha: float | None = None

    @abstractmethod
    def question(self) -> DriftQuestion:
        """Return what is asked."""

    def asked(self) -> tuple[str, dict[str, Any]]:
        """Return the metric, with the question as its parameters."""
        asked = self.question()
        return DRIFT_METRIC, {name: getattr(asked, name) for name in PARAMETERS}


class ExpectColumnDriftToBeWithin(ProfileDriftExpectation):
    """Expect a column to be distributed as in a reference profile, over all rows and in each source.

    Args:
        column: the column.
        reference: the profile to compare with: in the gate as the policy's `drift.reference` names it, or its digest;
            in GX on pandas the path of a profile file.
        source: one source, or "" for all rows only. Default: all rows and every source.
        measure: wasserstein, kolmogorov_smirnov, cramers_v, total_variation or mean_embedding. Default: all that apply.
        limit: of that measure. Default: the policy's.
        tolerated_part: the part of each limit up to which a true difference is natural.
        family_alpha: how probable any false alarm may be over all comparisons of the two profiles.

    Fails if an effect reaches its limit and exceeds its null quantile, or if the column is new, missing or of another
    type. `observed_value` is the strongest effect; `details` has its measure, limit, null quantile and rows.
    """

    column: str
    source: str | None = None
    measure: str | None = None
    limit: float | None = None
    tolerated_part: float | None = None

    def question(self) -> DriftQuestion:
        """Return what is asked."""
        return DriftQuestion(
            "column",
            self.reference,
            self.column,
            self.source,
            self.measure,
            self.limit,
            self.tolerated_part,
            self.family_alpha,
        )


class ExpectLabelGivenSourceToBeWithin(ProfileDriftExpectation):
    """Expect each source to give each label as often as in a reference profile.

    Args: as `ExpectColumnDriftToBeWithin`, without `column`. The label is the column that the profile's spec names.
    """

    source: str | None = None
    measure: str | None = None
    limit: float | None = None
    tolerated_part: float | None = None

    def question(self) -> DriftQuestion:
        """Return what is asked."""
        return DriftQuestion(
            "label",
            self.reference,
            None,
            self.source,
            self.measure,
            self.limit,
            self.tolerated_part,
            self.family_alpha,
        )


class ExpectTokensToBeTiedToLabelsAsInReference(ProfileDriftExpectation):
    """Expect no token of a column to be tied to a label far more than in a reference profile.

    Args:
        column: one of the columns whose tokens both profiles count (`profile.tokens` of the policy).
        reference: as `ExpectColumnDriftToBeWithin`.
        limit: by how much of its rows a token may be more often in a label. Default: the policy's.
        tolerated_part, family_alpha: as there.

    `observed_value` is the strongest shift; `details` lists what drifts, each token by its hash.
    """

    column: str
    limit: float | None = None
    tolerated_part: float | None = None

    def question(self) -> DriftQuestion:
        """Return what is asked."""
        return DriftQuestion(
            "tokens",
            self.reference,
            self.column,
            measure="token_label",
            limit=self.limit,
            tolerated_part=self.tolerated_part,
            family_alpha=self.family_alpha,
        )


class ExpectSourcesToBeThoseOfReference(ProfileDriftExpectation):
    """Expect no source that the reference profile lacks, and none of its sources to be silent, beyond chance.

    Args:
        reference: as `ExpectColumnDriftToBeWithin`.
        family_alpha: as there.

    `observed_value` is the number of such sources; `details` names them.
    """

    def question(self) -> DriftQuestion:
        """Return what is asked."""
        return DriftQuestion("sources", self.reference, family_alpha=self.family_alpha)


def _answer(frame: Any, parameters: Any) -> dict[str, Any]:
    """Return the whole answer of `DriftSides`, for a pandas frame."""
    question = question_of(parameters)
    reference = _read(question.reference)
    sides = DriftSides(reference, profile_digest(reference), _profile_of(frame, reference))
    return sides.answer(question, sides.compare(question))


def _read(path: str) -> Profile:
    try:
        with Path(path).open("rb") as stream:
            return load_profile(stream.read(MAX_PROFILE_BYTES + 1))
    except OSError as error:
        raise UsageError(
            f"The reference profile {path!r} cannot be read: {error}", hint="Outside of the gate, name its file."
        ) from error


def _profile_of(frame: Any, reference: Profile) -> Profile:
    """Return the profile of a pandas frame, its columns in the reference's Arrow types where these have a name."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for at, field in enumerate(table.schema):
        wanted = reference.types.get(field.name, str(field.type))
        if wanted != str(field.type):
            try:
                table = table.set_column(at, field.name, table.column(at).cast(pa.type_for_alias(wanted)))
            except (ValueError, pa.ArrowException):
                continue  # it stays as pandas has it, and is told as a column of another type
    table = table.replace_schema_metadata(None)
    profile = empty_profile(reference.spec, table.schema)
    for batch in table.combine_chunks().to_batches(_ROWS):
        profile = add_batch(profile, batch)
    return profile


gx_adapter.register_metric(DRIFT_METRIC, PARAMETERS, _answer)
