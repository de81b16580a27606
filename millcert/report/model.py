"""What a report is made of: plain frozen values, so that a report can be rendered from a verdict or by hand.

Every text in these classes may come from hostile data; nothing here is trusted, escaped or shortened. That is the
renderer's work. Fractions are in [0, 1].
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from millcert.errors import InternalError

Decision: TypeAlias = Literal["admitted", "rejected", "inconclusive"]
SourceStatus: TypeAlias = Literal["verified", "unknown", "refused"]
CheckStatus: TypeAlias = Literal["passed", "warned", "failed", "inconclusive"]
Method: TypeAlias = Literal["exact", "sketch"]


@dataclass(frozen=True)
class Reason:
    """Why the decision is what it is. code: stable, dotted; message: for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Counts:
    """Where the rows went. The report shows rows_in = admitted + quarantined + malformed, or says that it fails."""

    rows_in: int
    admitted: int
    quarantined: int
    malformed: int

    @property
    def adds_up(self) -> bool:
        """Whether every row that came in is accounted for."""
        return self.rows_in == self.admitted + self.quarantined + self.malformed


@dataclass(frozen=True)
class Source:
    """One source and who vouches for it. identity, issuer: of the signer, "" where there is none."""

    name: str
    status: SourceStatus
    identity: str
    issuer: str
    files: int
    samples: int
    flagged: int = 0
    malformed: int = 0
    message: str = ""


@dataclass(frozen=True)
class Work:
    """What became of the files in one step of the run: read in it, or found as kept (docs/resume.md)."""

    step: str
    read: int
    reused: int


@dataclass(frozen=True)
class Expectation:
    """One expectation's outcome.

    success: None where it could not be evaluated; `message` then says why.
    arguments: what the suite asks for, in short; the columns are in `column`.
    observed: the observed value as text, "" where there is none.
    unexpected_count, unexpected_fraction: None where the expectation has no such figure.
    """

    kind: str
    column: str
    success: bool | None
    observed: str = ""
    unexpected_count: int | None = None
    unexpected_fraction: float | None = None
    method: Method = "exact"
    message: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Group:
    """What a check says of one group of samples; `checks.base.GroupEvidence` in plain values."""

    group: str
    label: str
    source: str
    samples: int
    statistic: tuple[tuple[str, float], ...]
    is_suspicious: bool
    estimated_count: float
    count_low: float
    count_high: float
    p_value: float | None = None
    top_features: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Histogram:
    """How a check's scores are spread.

    edges: n + 1 finite numbers, not falling; counts, flagged_counts: n numbers, flagged_counts[i] <= counts[i].
    threshold: where a line is drawn; None where there is none or it differs by group.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    flagged_counts: tuple[int, ...]
    threshold: float | None = None

    def __post_init__(self) -> None:
        finite = all(abs(edge) < float("inf") for edge in self.edges)
        rising = all(a <= b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if len(self.edges) != len(self.counts) + 1 or len(self.flagged_counts) != len(self.counts):
            raise InternalError(
                f"A histogram of {len(self.counts)} bins needs {len(self.counts) + 1} edges and {len(self.counts)} "
                f"flagged counts, got {len(self.edges)} and {len(self.flagged_counts)}."
            )
        if not finite or not rising:
            raise InternalError("A histogram's edges must be finite and must not fall.")
        if any(not 0 <= flagged <= count for flagged, count in zip(self.flagged_counts, self.counts, strict=True)):
            raise InternalError("A histogram's bin must have 0 <= flagged <= count.")


@dataclass(frozen=True)
class Check:
    """One check over the data set.

    max_flagged_fraction: the policy's limit; None where it sets none.
    groups: how many groups there are in all; `evidence` may hold fewer, the most suspicious first.
    """

    name: str
    version: str
    severity: str
    status: CheckStatus
    scored: int
    flagged: int
    max_flagged_fraction: float | None
    groups: int
    evidence: tuple[Group, ...]
    message: str = ""
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Cluster:
    """What all checks together say of some flagged samples; `millcert.verdict.ClusterSummary` in plain values.

    labels, sources, votes: (name, samples). figures: (check, its figures as (name, value)).
    """

    kind: str
    action: str
    labels: tuple[tuple[str, int], ...]
    sources: tuple[tuple[str, int], ...]
    samples: int
    votes: tuple[tuple[str, int], ...]
    estimated_count: float
    count_low: float
    count_high: float
    p_value: float | None = None
    figures: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()


@dataclass(frozen=True)
class PixelArray:
    """An image in numbers. pixels: height x width x channels bytes, row by row; channels: 1 (grey) or 3 (RGB)."""

    width: int
    height: int
    channels: int
    pixels: bytes

    def __post_init__(self) -> None:
        if self.channels not in {1, 3} or self.width < 1 or self.height < 1:
            raise InternalError(f"An image must be grey or RGB, got {self.width}x{self.height}x{self.channels}.")
        if len(self.pixels) != self.width * self.height * self.channels:
            raise InternalError(
                f"An image of {self.width}x{self.height}x{self.channels} needs that many bytes, got {len(self.pixels)}."
            )


#: A value as the report can show it. A tuple is a list of numbers or texts, such as an embedding.
SampleValue: TypeAlias = str | int | float | bytes | PixelArray | tuple[str | int | float, ...] | None


@dataclass(frozen=True)
class SampleField:
    """One field of a sample. value: bytes are drawn if they are a small image, and described if not."""

    name: str
    value: SampleValue


@dataclass(frozen=True)
class Finding:
    """One flagged sample under one check. row: 0-based record index; sample_digest: hex, "" where unknown.

    kind, votes: what the sample is evidence of, and which checks flagged it. suggestion: what a check of labels
    suggests, in words; "" of others. neighbours: in words, nearest first.
    """

    file: str
    row: int
    sample_digest: str
    source: str
    label: str
    check: str
    score: float
    threshold: float
    reason: str
    sample: tuple[SampleField, ...] = ()
    kind: str = ""
    votes: tuple[str, ...] = ()
    suggestion: str = ""
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class MalformedRow:
    """One record that could not be read as a sample."""

    file: str
    row: int
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class DriftRow:
    """One comparison with the reference: an effect, from where on it matters, and what chance alone gives.

    source: "" for all rows. part: what of the column was compared; "presence" of a source that one side lacks.
    detail: which token and label, or "". figures: (name, value) without a limit, such as PSI.
    """

    source: str
    column: str
    part: str
    measure: str
    value: float
    limit: float
    null_quantile: float
    reference_rows: int
    current_rows: int
    is_drift: bool
    detail: str = ""
    figures: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class DistributionPanel:
    """Shares of a column's bars or categories, in [0, 1]; () where a side has none. source: "" for all rows."""

    source: str
    reference: tuple[float, ...]
    current: tuple[float, ...]


@dataclass(frozen=True)
class Distribution:
    """How a column is distributed. what: "values", "lengths", "categories" or "class".

    names: of the categories, or the edges of the bars, one more than there are bars.
    panels: all rows, then each source.
    """

    column: str
    what: str
    names: tuple[str, ...]
    panels: tuple[DistributionPanel, ...]


@dataclass(frozen=True)
class CourseChange:
    """One change over the last versions.

    at: the first version after it, 1 or above. pace: "abrupt", "gradual" or "unclear". course: effect between the first
    version and each later one, the last of which is this data; None where one had too few rows.
    """

    source: str
    column: str
    part: str
    measure: str
    value: float
    limit: float
    null_quantile: float
    at: int
    pace: str
    course: tuple[float | None, ...]
    detail: str = ""


@dataclass(frozen=True)
class Course:
    """How the data changed over admitted versions. versions: how many stand before this data; found: all changes."""

    versions: int
    found: int
    changes: tuple[CourseChange, ...]


@dataclass(frozen=True)
class Drift:
    """The comparison with a reference. reference: digest of its profile, "" where nothing was compared.

    rows: the first of `compared` comparisons, drifting ones first; found: how many drift.
    columns: what came, went or changed type, in words.
    """

    reference: str
    compared: int
    found: int
    skipped: int
    rows: tuple[DriftRow, ...]
    columns: tuple[str, ...] = ()
    new_sources: tuple[str, ...] = ()
    silent_sources: tuple[str, ...] = ()
    course: Course | None = None


@dataclass(frozen=True)
class Provenance:
    """What the verdict is bound to; digests in hex, "" or None where there is none."""

    manifest_root: str
    policy_digest: str
    output_root: str = ""
    schema_id: str = ""
    trusted_root_sha256: str = ""
    verdict_digest: str = ""
    ledger_origin: str = ""
    ledger_index: int | None = None
    checkpoint: str = ""
    certificate_file: str = ""


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    not_covered: attack families that no check of this run could see.
    clusters: gravest first; clusters_total: how many there are in all.
    findings: the top ones, most suspect first; findings_total: how many there are in all.
    malformed: the first ones; how many there are in all stands in `counts`.
    drift: None where the policy asks for no comparison. distributions: none without a profile.
    next_commands: command lines that a reader may want to run next.
    dropped_columns: columns that the policy does not list and that are in no sample.
    work: by step, how much of the run was done and how much was found as kept.
    """

    dataset: str
    decision: Decision
    reasons: tuple[Reason, ...]
    counts: Counts
    files: int
    size_bytes: int
    provenance: Provenance
    sources: tuple[Source, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    checks: tuple[Check, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    clusters_total: int = 0
    not_covered: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    findings_total: int = 0
    malformed: tuple[MalformedRow, ...] = ()
    next_commands: tuple[str, ...] = ()
    code_version: str = ""
    drift: Drift | None = None
    distributions: tuple[Distribution, ...] = ()
    work: tuple[Work, ...] = ()
    dropped_columns: tuple[str, ...] = ()
