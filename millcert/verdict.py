"""The verdict: what the gate decided about a data set, and every figure that it decided on.

A verdict is a value. It holds no clock, no host name and no path of the machine that ran the job, so the same data
under the same policy and code gives the same canonical bytes and the same digest on every runner, worker count and
retry.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import rfc8785

from millcert.errors import InternalError

Decision: TypeAlias = Literal["admitted", "rejected", "inconclusive"]
CheckStatus: TypeAlias = Literal["passed", "warned", "failed", "inconclusive"]
SourceStatus: TypeAlias = Literal["verified", "unknown"]

EXIT_CODES: Mapping[Decision, int] = {"admitted": 0, "rejected": 1, "inconclusive": 4}

#: Figures keep this many significant digits in a verdict: far more than any decision needs, and few enough that the
#: last bits of a linear algebra library on another machine do not change the digest.
SIGNIFICANT_DIGITS = 6

_SINCE_VERSION_2 = frozenset({"clusters", "cluster_count", "selftest_sha256", "views_sha256"})


@dataclass(frozen=True)
class Reason:
    """Why the decision is what it is. code: stable, dotted; message: for people."""

    code: str
    message: str


@dataclass(frozen=True)
class SampleCounts:
    """Where every sample went. `seen` = admitted + quarantined + malformed, or the verdict is not written."""

    seen: int
    admitted: int
    quarantined: int
    malformed: int
    unknown_provenance: int

    def __post_init__(self) -> None:
        if self.seen != self.admitted + self.quarantined + self.malformed:
            raise InternalError(
                f"Samples do not add up: {self.seen} read, but {self.admitted} admitted + {self.quarantined} "
                f"quarantined + {self.malformed} malformed.",
                hint="Please report this; nothing was admitted.",
            )


@dataclass(frozen=True)
class SourceSummary:
    """One source: who vouches for it, and what was found in it.

    status: "verified" by a signature that the policy trusts, or "unknown" where the policy accepts it unsigned.
    identity, issuer, signed_at: of the signature; "" where there is none.
    manifest_root: root of the source's actual files, hex.
    signer_change: one sentence where another signer vouched for its last admitted version, else "".
    """

    name: str
    status: SourceStatus
    identity: str
    issuer: str
    signed_at: str
    manifest_root: str
    files: int
    samples: int
    flagged: int
    malformed: int
    signer_change: str = ""


@dataclass(frozen=True)
class CheckSummary:
    """One check over the whole data set.

    check: which one it is, where the policy gave it a name of its own; left out where `name` is the check's.
    reference: digest of what was kept of the last admitted version, where it was compared with that; else left out.
    flagged_fraction: flagged / scored samples, in [0, 1]. config_digest: SHA-256 of the check's canonical
    configuration.
    evidence: one mapping a group, suspicious groups first, at most `MAX_EVIDENCE`; `groups` counts all of them.
    """

    name: str
    version: str
    config_digest: str
    severity: str
    status: CheckStatus
    scored: int
    flagged: int
    flagged_fraction: float
    max_flagged_fraction: float
    on_flagged: str
    over_limit: str
    message: str
    groups: int
    suspicious_groups: int
    estimated_count: float
    evidence: tuple[Mapping[str, Any], ...]
    check: str = ""
    reference: str = ""


@dataclass(frozen=True)
class ExpectationSummary:
    """The suite's outcome; `outcomes` holds one mapping an expectation, in the suite's order.

    failing_rows: samples that fail an expectation. rows_digest: of those rows, with what each one fails
    (docs/formats/output.md); both are left out of a verdict that was made before there were any.
    """

    suite_digest: str
    success: bool
    evaluated: int
    unsuccessful: int
    on_failure: str
    outcomes: tuple[Mapping[str, Any], ...]
    failing_rows: int = 0
    rows_digest: str = ""


@dataclass(frozen=True)
class ClusterSummary:
    """What all checks together say of some flagged samples; see `millcert.checks.fusion.Cluster`.

    severity: of the kind. action: "reject" where the cluster is a reason to reject under the policy, else "warn".
    """

    kind: str
    severity: str
    action: str
    label: str
    source: str
    labels: Mapping[str, int]
    sources: Mapping[str, int]
    samples: int
    votes: Mapping[str, int]
    founded_on: tuple[str, ...]
    estimated_count: float
    count_low: float
    count_high: float
    p_value: float | None
    figures: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class CourseSummary:
    """How the data changed over versions; see docs/drift.md.

    versions: digests of the admitted versions' profiles, oldest first; the data's own comes after them.
    found: how many comparisons changed. changes: one mapping each, the strongest first, at most 50; "at": the first
        version after the change, in which 0 is the first of `versions`.
    """

    versions: tuple[str, ...]
    on_gradual: str
    found: int
    changes: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class DriftSummary:
    """How the data's profile differs from the reference's; see docs/drift.md.

    reference: digest of the reference profile, "" where no version was admitted yet and nothing was compared.
    alpha: the level of each comparison, so that all of them together keep the family's.
    compared, found, skipped: how many comparisons there were, drift, and had too few rows.
    outcomes: one mapping a comparison, drifting ones first, at most 100.
    course: what changed over the last admitted versions; left out where the policy does not follow them.
    """

    reference: str
    on_drift: str
    on_source_change: str
    alpha: float
    compared: int
    found: int
    skipped: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    new_sources: tuple[str, ...]
    silent_sources: tuple[str, ...]
    outcomes: tuple[Mapping[str, Any], ...]
    course: CourseSummary | None = None


@dataclass(frozen=True)
class RateSummary:
    """What became of the rates that checks keep since the last admitted version; see docs/label-noise.md.

    reference: digest of that version's rates, "" where there is none.
    alpha: chance that any rise is told where nothing rose.
    compared, new, risen: rates that both versions have, that only this one has, and that rose.
    on_rise: check -> "reject" or "warn".
    rises: one mapping a rise, the surest first, at most 100.
    """

    reference: str
    alpha: float
    compared: int
    new: int
    risen: int
    on_rise: Mapping[str, str]
    rises: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class OverrideUse:
    """An override that this verdict rests on; see `millcert.provenance.override`.

    leaf: hash of its ledger entry, hex. lifted: the reasons that do not count because of it. samples: how many it kept
    out of quarantine. expires_at: until when a certificate with this verdict counts, RFC 3339 in UTC.
    """

    leaf: str
    scope: str
    checks: tuple[str, ...]
    reason: str
    expires_at: str
    proposed_by: str
    approved_by: tuple[str, ...]
    lifted: tuple[Reason, ...]
    samples: int


@dataclass(frozen=True)
class Verdict:
    """The decision with all that it rests on. Field names are the keys of `verdict.json`.

    version: 2. A verdict of version 1 is read as it was: it has no clusters, and no keys for them.
    clusters: at most `MAX_CLUSTERS`, gravest first; `cluster_count` counts all of them.
    selftest_sha256: of the self-test's file that the run was given; "" without one.
    overrides: those that it rests on, by leaf; the key is left out where there are none.
    views_sha256: of the manifest of the views that the run read beside the data; "" without views.
    profile_digest, drift: of the data's profile, and how it differs from the reference; left out without them.
    dropped_columns: columns of the files that the policy does not list and that are in no sample; left out without any.
    rates_digest, rates: of the rates that checks keep, and what became of them since the last admitted version; left
        out where no check keeps any.
    """

    version: int
    dataset: str
    decision: Decision
    reasons: tuple[Reason, ...]
    policy_digest: str
    trusted_root_sha256: str
    code_version: str
    schema_id: str
    input_root: str
    output_root: str
    files: int
    size_bytes: int
    reads: int
    samples: SampleCounts
    sources: tuple[SourceSummary, ...]
    expectations: ExpectationSummary | None
    checks: tuple[CheckSummary, ...]
    not_covered: tuple[str, ...]
    clusters: tuple[ClusterSummary, ...] = ()
    cluster_count: int = 0
    selftest_sha256: str = ""
    overrides: tuple[OverrideUse, ...] = ()
    views_sha256: str = ""
    profile_digest: str = ""
    drift: DriftSummary | None = None
    dropped_columns: tuple[str, ...] = ()
    rates_digest: str = ""
    rates: RateSummary | None = None

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise InternalError(f"A verdict has version 1 or 2, got {self.version}.")
        if self.version == 1 and (self.clusters or self.cluster_count or self.selftest_sha256 or self.views_sha256):
            raise InternalError("A verdict of version 1 has no clusters and no self-test.")

    @property
    def exit_code(self) -> int:
        """The exit code of the command line for this decision."""
        return EXIT_CODES[self.decision]

    def to_mapping(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values, floats rounded to 6 significant digits."""
        values = asdict(self)
        if not self.overrides:
            del values["overrides"]  # a verdict that rests on none has the same bytes as before there were any
        for name in ("profile_digest", "drift", "dropped_columns", "rates_digest", "rates"):
            if not values[name]:
                del values[name]
        _drop_none(values.get("drift"), "course")
        for check in values["checks"]:
            for name in ("check", "reference"):
                if not check[name]:
                    del check[name]
        if self.expectations is not None and not self.expectations.rows_digest:
            del values["expectations"]["failing_rows"], values["expectations"]["rows_digest"]
        if self.version == 1:
            values = {name: value for name, value in values.items() if name not in _SINCE_VERSION_2}
            for source in values["sources"]:
                del source["signer_change"]
        return canonical_value(values)

    def to_json(self) -> bytes:
        """Return the canonical JSON (RFC 8785) of the verdict."""
        return rfc8785.dumps(self.to_mapping())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


def _drop_none(values: dict[str, Any] | None, name: str) -> None:
    if values is not None and values[name] is None:
        del values[name]


def canonical_value(value: Any) -> Any:
    """Return `value` as JSON values whose canonical form does not depend on the machine.

    Floats keep 6 significant digits; integral floats become integers; infinities and NaN become strings, because JSON
    has no number for them and a verdict must not lose that they were there.
    """
    if isinstance(value, Mapping):
        return {str(key): canonical_value(item) for key, item in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, Sequence):
        return [canonical_value(item) for item in value]
    raise InternalError(f"A verdict cannot hold a {type(value).__name__}.")


def _rounded(value: float) -> float | int | str:
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) <= 2**53 else rounded


def verdict_from_mapping(raw: Mapping[str, Any]) -> Verdict:
    """Return the verdict that `Verdict.to_mapping` made `raw` of.

    Raises:
        KeyError, TypeError: a field is missing, unknown or of another shape; the caller says where the mapping is from.
    """
    values = dict(raw)
    if values["version"] != 1 and (missing := _SINCE_VERSION_2 - set(values)):
        raise KeyError(*sorted(missing))
    expectations = values["expectations"]
    return Verdict(
        **{
            **values,
            "reasons": tuple(Reason(**reason) for reason in values["reasons"]),
            "samples": SampleCounts(**values["samples"]),
            "sources": tuple(SourceSummary(**source) for source in values["sources"]),
            "expectations": None
            if expectations is None
            else ExpectationSummary(**{**expectations, "outcomes": tuple(expectations["outcomes"])}),
            "checks": tuple(
                CheckSummary(**{**check, "evidence": tuple(check["evidence"])}) for check in values["checks"]
            ),
            "not_covered": tuple(values["not_covered"]),
            "drift": _drift(values.get("drift")),
            "dropped_columns": tuple(values.get("dropped_columns", ())),
            "rates": _rates(values.get("rates")),
            "overrides": tuple(
                OverrideUse(
                    **{
                        **use,
                        "checks": tuple(use["checks"]),
                        "approved_by": tuple(use["approved_by"]),
                        "lifted": tuple(Reason(**reason) for reason in use["lifted"]),
                    }
                )
                for use in values.get("overrides", ())
            ),
            "clusters": tuple(
                ClusterSummary(**{**cluster, "founded_on": tuple(cluster["founded_on"])})
                for cluster in values.get("clusters", ())
            ),
        }
    )


def _drift(raw: Mapping[str, Any] | None) -> DriftSummary | None:
    if raw is None:
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    course = values.get("course")
    if course is not None:
        course = CourseSummary(**{**course, "versions": tuple(course["versions"]), "changes": tuple(course["changes"])})
    return DriftSummary(**{**values, "course": course})


def _rates(raw: Mapping[str, Any] | None) -> RateSummary | None:
    return None if raw is None else RateSummary(**{**raw, "rises": tuple(raw["rises"])})
