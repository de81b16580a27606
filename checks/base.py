"""What a check is: the protocol that every detector follows, and the values that it returns.

Rules that every check keeps (the conformance suite falsifies each):
  1. A check is immutable and picklable; it does no I/O, reads no clock and has no global random state.
  2. An accumulator is a dict from group to part, and any sub-dict is a valid accumulator of the same check. A
     part has a size that does not grow with the number of samples beyond what the class's docstring states.
  3. `merge` is associative and commutative to the last bit: the same samples in any batches, in any order, on any
     number of workers give the same model and the same scores.
  4. A larger score is more suspect. Scores are finite.
  5. `add` never changes an accumulator that it was not given alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pyarrow as pa

#: Names of the columns that a check may ask for. The pipeline maps the user's columns to these roles.
Role: TypeAlias = Literal[
    "label",
    "source",
    "annotator",
    "split",
    "text",
    "embedding_self",
    "embedding_external",
    "pred_probs",
    "features",
    "sample_digest",
]

#: An accumulator: group -> part. The group is any text the check chooses, the part any picklable value.
Accumulator: TypeAlias = Mapping[str, Any]

#: How many features the evidence of a group names.
MAX_TOP_FEATURES = 5

#: A sample near a flagged one: its digest, its label, and how far it is in the units of the view.
NEIGHBOUR_TYPE = pa.struct(
    [
        pa.field("sample_digest", pa.binary(32)),
        pa.field("label", pa.string()),
        pa.field("distance", pa.float64()),
    ]
)

#: What a finding means for the verdict. Label noise warns; evidence of a backdoor or of a bad source rejects.
Severity: TypeAlias = Literal["warn", "reject"]


class Suggestions(NamedTuple):
    """What a check would look at instead of the labels that it flags, for its m flagged samples, in order.

    A suggestion to look, not a correction: see docs/label-noise.md.

    label: string array (m,): the likeliest class, null where that is the given one.
    given_probability, probability: float64 (m,), of the given and of the likeliest class, in [0, 1].
    neighbours: list array (m,) of `NEIGHBOUR_TYPE`, nearest first: samples whose label the check is confident of;
        null where it has no view to find any in.
    """

    label: pa.StringArray
    given_probability: np.ndarray
    probability: np.ndarray
    neighbours: pa.ListArray


class Scores(NamedTuple):
    """One check's answer for a batch of n samples, in the batch's order.

    score: float64 (n,), finite, larger = more suspect; comparable within one check and group.
    threshold: float64 (n,): the score above which a sample of that group would be flagged; +inf = not suspicious.
    flagged: bool (n,).
    group: string array (n,): the group that the sample was judged in, "source/class" or "class".
    reason: stable code of what a flag means, such as "label_noise.given_label_unlikely".
    suggestions: for the flagged samples, of a check that judges labels; else None.
    """

    score: np.ndarray
    threshold: np.ndarray
    flagged: np.ndarray
    group: pa.StringArray
    reason: str
    suggestions: Suggestions | None = None


class GroupEvidence(NamedTuple):
    """What a fitted check says of one group (class, source, or both), before any sample is looked at.

    group: as in Scores.group.
    label: the class, or "" where the group is not of one class.
    source: the source, or "" where the group is not of one source.
    samples: how many samples the group has.
    statistic: name -> value, the figures that decided, such as {"ashman_d": 8.46}.
    is_suspicious: whether the check flags anything in this group.
    estimated_count: how many samples the check believes are bad; 0.0 where not suspicious.
    count_low, count_high: interval for that count (95 % unless the check says otherwise).
    p_value: under the check's null, family-wise corrected; None where the check has no null.
    top_features: what decided, by name, the strongest first, each with its score or share; at most `MAX_TOP_FEATURES`.
    """

    group: str
    label: str
    source: str
    samples: int
    statistic: Mapping[str, float]
    is_suspicious: bool
    estimated_count: float
    count_low: float
    count_high: float
    p_value: float | None
    top_features: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class Check(Protocol):
    """The protocol. A concrete check is a frozen dataclass; its fields are its configuration.

    name: the word in policies and reports, lower_snake_case, unique.
    version: changes whenever the same data could give other scores.
    columns: the roles that a batch must have for `add` and `score`.
    severity: what a flag means for the verdict.
    covers: attack families that the check can see, for the verdict's list of what was not covered.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    columns: ClassVar[frozenset[Role]]
    severity: ClassVar[Severity]
    covers: ClassVar[frozenset[str]]

    @property
    def passes(self) -> int:
        """How many full reads of the data `fit` needs. Scoring is one more, shared by all checks."""
        ...

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        ...

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        """Return `acc` with a batch added.

        Args:
            acc: an accumulator of the same pass.
            batch: columns named by role (see `millcert.checks.columns`), 0 or more rows.
            model: what `fit` returned for the pass before; None in the first pass.

        Raises:
            MissingColumnError: the batch lacks a role.
            InvalidSampleError: a value is outside its domain.
        """
        ...

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        ...

    def fit(self, acc: Accumulator, model: Any) -> Any:
        """Return the model after a pass: the input of the next pass, or of `score` after the last.

        Raises:
            NotEnoughSamplesError: the statistic is undefined on these samples.
        """
        ...

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch under the model of the last pass."""
        ...

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        """Return what the fitted model says of each group, sorted by group."""
        ...


@runtime_checkable
class GivesNotice(Protocol):
    """A check that has something to say of its input besides flags, for the verdict's message about it."""

    def notices(self, model: Any) -> tuple[str, ...]:
        """Return sentences for people, none where there is nothing to say."""
        ...


def merge_groups(accs: Iterable[Accumulator], merged: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Return the accumulator of all of `accs`, its groups sorted: what a check's `merge` is.

    Args:
        accs: accumulators of one check and pass.
        merged: makes one part of the parts of a group, at least one.
    """
    gathered: dict[str, list[Any]] = {}
    for acc in accs:
        for group, part in acc.items():
            gathered.setdefault(group, []).append(part)
    return {group: merged(parts) for group, parts in sorted(gathered.items())}


def merge_alike(parts: list[Any]) -> Any:
    """Return one part of parts that have a `merge` of their own, at least one."""
    return parts[0].merge(parts[1:])


def fit_check(check: Check, batches: Iterable[pa.RecordBatch]) -> Any:
    """Run all passes of a check in process and return its model: what a notebook, a test or a bench needs.

    Cost: `check.passes` iterations over `batches`, which must be a sequence or another re-iterable.
    """
    model: Any = None
    for _ in range(check.passes):
        acc = check.empty()
        for batch in batches:
            acc = check.add(acc, batch, model)
        model = check.fit(acc, model)
    return model
