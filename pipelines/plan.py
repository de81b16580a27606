"""The plan of one run: everything that was decided before any byte of data is read. Frozen; travels to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from millcert.checks.base import Check, Role
from millcert.checks.drift import DriftLimits
from millcert.checks.expectations import SuiteSpec
from millcert.checks.profile import ProfileSpec
from millcert.pipelines.fields import PlannedFields
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.records import WorkItem
from millcert.provenance.override import OverrideState
from millcert.provenance.trust import SourceRule, TrustRoot
from millcert.provenance.trust_history import SeenSigner


@dataclass(frozen=True)
class PlannedCheck:
    """A check with what the policy makes of its flags.

    reference: "last_admitted" where it is compared with that version, else "". reference_digest: of what was kept of
        it, "" where there is none to compare with.
    called: its own name in this run, "" where it goes by the check's: one check may stand several times.
    max_flagged_fraction: in [0, 1]; above it the check fails (over_limit "reject") or warns ("warn").
    on_flagged: "quarantine" holds a flagged sample back, "report" only lists it.
    on_rise: of a check that keeps rates, what a rate that rose since the last admitted version means: "reject" or
        "warn"; "" where nothing is compared. tolerated_rise: what a rate may grow by, in [0, 1].
    """

    check: Check
    config_digest: str
    max_flagged_fraction: float
    over_limit: str
    on_flagged: str
    on_rise: str = ""
    tolerated_rise: float = 0.0
    called: str = ""
    reference: str = ""
    reference_digest: str = ""

    @property
    def name(self) -> str:
        """What accumulators, models, findings and the verdict know it by; unique in a run."""
        return self.called or self.check.name


@dataclass(frozen=True)
class PlannedSource:
    """A source rule and where its manifest and bundle are: "" where the source is accepted unsigned and has none.

    prefix: the folder of the manifest, as a name prefix ("" or ending in "/"); the manifest's paths are relative to it.
    is_selection: the run was given some files of the source by name or glob, so files that the manifest lists besides
    are not missing.
    last_signer: who vouched for it in its last admitted version; None where the ledger has none.
    on_signer_change: "report" or "reject", where that was somebody else.
    """

    rule: SourceRule
    manifest_uri: str
    bundle_uri: str
    prefix: str
    is_selection: bool
    last_signer: SeenSigner | None = None
    on_signer_change: str = "report"


class PlacedProfile(NamedTuple):
    """A profile in the staging folder, and its digest."""

    uri: str
    digest: str


@dataclass(frozen=True)
class PlannedDrift:
    """What the run's profile is compared with.

    reference: as the policy names it. reference_uri: a profile in the staging folder, "" where no version was admitted
        yet. reference_digest: of it.
    on_drift, on_source_change: "reject" or "warn". on_no_reference: "inconclusive" or "report".
    versions: how many admitted versions the data is followed over; 0: none. on_gradual: "reject" or "warn".
    course: their profiles, oldest first.
    """

    limits: DriftLimits
    ignore: tuple[str, ...]
    on_drift: str
    on_source_change: str
    on_no_reference: str
    reference: str = ""
    reference_uri: str = ""
    reference_digest: str = ""
    versions: int = 0
    on_gradual: str = "warn"
    course: tuple[PlacedProfile, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """By which a suite may name the reference: as the policy does, or by its digest."""
        return tuple(name for name in (self.reference, self.reference_digest) if name)


@dataclass(frozen=True)
class PlannedOverride:
    """An approved override that may count in this run. digests: of its samples, 32 bytes each."""

    state: OverrideState
    digests: frozenset[bytes]


@dataclass(frozen=True)
class PlannedWork:
    """What workers keep of what they find out (`millcert.pipelines.work_keeping`).

    kept: where the store is that outlives the run, "" for none. left: staging folders of runs that this one resumes.
    packages: of plug-in checks. least_bytes: work on smaller files is done again.
    """

    kept: str = ""
    left: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    least_bytes: int = 256 * 1024


@dataclass(frozen=True)
class VetPlan:
    """All that a run needs to know.

    items: data files, sorted by name. auxiliary: files that belong to the data set but hold no samples (a Hugging Face
    folder's state.json); they are hashed, verified and copied. staging: a folder on a Beam filesystem that only this
    run writes to. progress_path: a local file, or "". on_backdoor, on_bad_source: "reject", or "quarantine" where the
    checks' own limits decide. selftest_sha256: of the self-test's file, or "". overrides: approved ones about this data
    set (`millcert.pipelines.overriding`). view_columns: column -> width of the views beside the data; views_sha256: of
    their manifest, or "". profile: how the data's profile is made, None without one; drift: what it is compared with.
    fields: which columns may be used, None for all. work: what is kept of the work, None for nothing. rates_uri: the
    rates of the last admitted version, in the staging folder, "" where there is none; rates_digest: of them.
    history_uri: likewise, of what checks kept of it (`millcert.pipelines.history`).
    """

    dataset: str
    policy_digest: str
    code_version: str
    items: tuple[WorkItem, ...]
    auxiliary: tuple[WorkItem, ...]
    sources: tuple[PlannedSource, ...]
    trust_root: TrustRoot | None
    roles: Mapping[Role, str | tuple[str, ...]]
    declared_schema: pa.Schema | None
    suite: SuiteSpec | None
    suite_on_failure: str
    checks: tuple[PlannedCheck, ...]
    limits: ReadLimits
    max_malformed_fraction: float
    max_quarantined_fraction: float
    max_unknown_provenance_fraction: float
    staging: str
    progress_path: str
    on_backdoor: str = "reject"
    on_bad_source: str = "reject"
    selftest_sha256: str = ""
    overrides: tuple[PlannedOverride, ...] = ()
    view_columns: Mapping[str, int] = field(default_factory=dict)
    views_sha256: str = ""
    profile: ProfileSpec | None = None
    drift: PlannedDrift | None = None
    fields: PlannedFields | None = None
    work: PlannedWork | None = None
    rates_uri: str = ""
    rates_digest: str = ""
    history_uri: str = ""

    @property
    def passes(self) -> int:
        """Full reads that feed accumulators: the most that any check needs, and at least one."""
        return max([1, *(planned.check.passes for planned in self.checks)])

    @property
    def reads(self) -> int:
        """How often every data file is read from start to end: hash, describe, the passes, score."""
        return 2 + self.passes + 1

    @property
    def wants_digests(self) -> bool:
        """Whether a check asks for sample digests, so that they are kept for the passes behind the first one."""
        return any("sample_digest" in planned.check.columns for planned in self.checks)

    @property
    def keeps_digests(self) -> bool:
        """Whether the first pass writes sample digests down: for later passes, or for later runs."""
        return self.wants_digests or (self.work is not None and bool(self.work.kept))

    def source(self, name: str) -> PlannedSource:
        """Return the planned source of that name."""
        return next(source for source in self.sources if source.rule.name == name)
