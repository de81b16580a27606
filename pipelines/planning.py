"""From a policy and the user's arguments to the plan of a run: everything that can be refused before data is read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import rfc8785

from millcert import __version__
from millcert.checks.base import Check, Role
from millcert.checks.expectations import load_suite
from millcert.checks.gx_version import require_tested
from millcert.checks.rate_history import TOLERATED_RISE, KeepsRates
from millcert.checks.registry import config_of, get_check
from millcert.checks.source_history import KeepsHistory
from millcert.errors import MissingColumnError, PolicyError, UsageError
from millcert.pipelines.fields import PlannedFields
from millcert.pipelines.formats import ReadLimits, schema_from_json
from millcert.pipelines.plan import PlannedCheck, PlannedSource, VetPlan
from millcert.pipelines.publish import is_local
from millcert.pipelines.records import WorkItem
from millcert.pipelines.reference import planned_drift, profile_spec
from millcert.pipelines.spool import DatasetFile, kind_of, match_files
from millcert.pipelines.view_manifest import PREFIX, ViewSet
from millcert.policy import LoadedPolicy
from millcert.policy_model import CheckRule, Policy
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.trust import SourceRule, load_trust_root, match_sources, provenance_paths, refuse_expired
from millcert.provenance.trust_history import SeenSigner

#: What changes the meaning of a verdict besides the policy and the data. Part of every verdict.
CODE_VERSION = f"millcert/{__version__}"

_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Workspace:
    """Where a run works. staging: a folder that only this run writes to. progress_path: a local file, or ""."""

    staging: str
    progress_path: str = ""


def plan_run(
    loaded: LoadedPolicy,
    datasets: Sequence[str],
    workspace: Workspace,
    *,
    now: datetime | None = None,
    last_signers: Mapping[str, SeenSigner] | None = None,
    views: ViewSet | None = None,
) -> VetPlan:
    """Return the plan of a run.

    Args:
        loaded: the policy with the files that it names.
        datasets: files, folders or globs on any Beam filesystem.
        workspace: where the run works.
        now: when the run began, with a time zone; None for the clock's time. Rules that are over refuse the run, and a
            snapshot's least age counts back from it; nothing else depends on it.
        last_signers: source -> who vouched for its last admitted version (`trust_history.last_signers`).
        views: what `millcert embed` made of these files, for roles that the policy maps to `view:...`.

    Raises:
        UsageError, PolicyError, UnknownCheckError, MissingColumnError: the run cannot be carried out as asked.
        UntrustedSourceError: a file matches no source rule, or several, or one that has expired.
        IntegrityError: the pinned trusted root has another digest.
    """
    policy = loaded.policy
    limits = read_limits(policy)
    started = now or datetime.now(UTC)
    rules = tuple(rule.to_trust_rule(started) for rule in policy.sources)
    evidence = provenance_paths(rules)
    # Evidence stands among the data under any suffix. A place with a wildcard in its name would hide other files.
    beside = tuple(sorted(path for path in evidence if not any(wildcard in path for wildcard in "*?[")))
    # Workers may run in another folder than we do.
    files = match_files(tuple(map(_absolute, datasets)), limits=limits, auxiliary=beside)
    _refuse_names(policy.dataset.name, files)
    is_selection = not all(_is_folder(dataset) for dataset in datasets)
    matched = match_sources([file.name for file in files if file.name not in evidence], rules)
    items = [_work_item(file, matched[file.name]) for file in files if file.name in matched]
    used = _sources_present(rules, files, items)
    refuse_expired([rule for rule in rules if rule.name in used], started)
    roles = policy.roles()
    return VetPlan(
        dataset=policy.dataset.name,
        policy_digest=loaded.digest,
        code_version=CODE_VERSION,
        items=_with_views([item for item in items if item.format != "auxiliary"], roles, views),
        auxiliary=tuple(item for item in items if item.format == "auxiliary"),
        sources=tuple(
            replace(
                _planned_source(rule, files, items, is_selection=is_selection),
                last_signer=(last_signers or {}).get(rule.name),
                on_signer_change=said.on_signer_change or "report",
            )
            for rule, said in zip(rules, policy.sources, strict=True)
            if rule.name in used
        ),
        trust_root=_trust_root(loaded),
        roles=roles,
        declared_schema=_declared_schema(loaded),
        suite=_suite(loaded),
        suite_on_failure="" if policy.expectations is None else policy.expectations.on_failure,
        checks=planned_checks(policy),
        limits=limits,
        max_malformed_fraction=policy.dataset.max_malformed_fraction,
        max_quarantined_fraction=policy.verdict.max_quarantined_fraction,
        max_unknown_provenance_fraction=policy.verdict.max_unknown_provenance_fraction,
        staging=workspace.staging,
        progress_path=workspace.progress_path,
        view_columns={} if views is None else views.columns,
        views_sha256="" if views is None else views.sha256,
        on_backdoor=policy.verdict.on_backdoor or "reject",
        on_bad_source=policy.verdict.on_bad_source or "reject",
        profile=profile_spec(loaded),
        drift=None if policy.drift is None else planned_drift(policy.drift),
        fields=None
        if policy.permitted is None
        else PlannedFields(frozenset(policy.permitted.columns), policy.permitted.unlisted),
    )


def _with_views(
    items: Sequence[WorkItem], roles: Mapping[Role, str | tuple[str, ...]], views: ViewSet | None
) -> tuple[WorkItem, ...]:
    """Return the data files with their views, after every view that the policy reads was found to be there."""
    there = {} if views is None else views.columns
    wanted = sorted(str(column) for column in roles.values() if str(column).startswith(PREFIX))
    missing = [column for column in wanted if column not in there]
    if missing:
        raise UsageError(
            f"The policy reads {missing[0]}; the views that were given are {', '.join(sorted(there)) or 'none'}.",
            hint="Run `millcert embed` on the data, and give its --out as --views.",
            column=missing[0],
        )
    if views is not None and not wanted:
        raise UsageError(
            "Views were given, but the policy reads none.",
            hint="Map a role to one, such as dataset.columns.embedding_self: view:embedding_self.",
        )
    return tuple(items) if views is None else views.attach(items)


def _refuse_names(dataset: str, files: Sequence[DatasetFile]) -> None:
    """Refuse names that no manifest may hold, before anything is read, and those whose quarantine would collide."""
    Manifest(dataset, tuple(FileEntry(file.name, file.size_bytes, _NO_DIGEST) for file in files))
    folders = {parent.as_posix() for file in files for parent in PurePosixPath(file.name).parents}
    clash = sorted(file.name for file in files if f"{file.name}.parquet" in folders)
    if clash:
        raise UsageError(
            f"The samples held back of {clash[0]!r} would need the name of the folder {clash[0] + '.parquet'!r}.",
            hint="Rename the file or the folder.",
            path=clash[0],
        )


def _sources_present(rules: Sequence[SourceRule], files: Sequence[DatasetFile], items: Sequence[WorkItem]) -> set[str]:
    """Return the sources that have a file, or a manifest: one whose files are all gone is missing, not absent."""
    names = {file.name for file in files if not file.is_selection}
    return {item.source for item in items} | {rule.name for rule in rules if rule.manifest_path in names}


def read_limits(policy: Policy) -> ReadLimits:
    """Return the reader's bounds with those that the policy sets."""
    given = {name: value for name, value in policy.limits.model_dump().items() if value is not None}
    return replace(ReadLimits(), **given)


def planned_checks(policy: Policy) -> tuple[PlannedCheck, ...]:
    """Return the policy's checks, configured, in its order.

    Raises:
        UnknownCheckError, PolicyError: a check is unknown or its configuration wrong.
        MissingColumnError: the policy maps no column for a role that a check needs.
    """
    return tuple(_planned_check(rule, policy, policy.roles()) for rule in policy.checks)


def _planned_check(rule: CheckRule, policy: Policy, roles: Mapping[Role, str | tuple[str, ...]]) -> PlannedCheck:
    config: dict[str, Any] = dict(rule.config)
    if policy.dataset.classes is not None and "classes" not in config and rule.check == "label_noise":
        config["classes"] = tuple(policy.dataset.classes)
    drawn = policy.dataset.images.get(str(roles.get("features")))
    if drawn is not None and "shape" not in config and rule.check in {"trigger_mining", "shortcut_mining"}:
        config["shape"] = tuple(drawn.shape)
    if rule.check == "shortcut_mining" and not config.get("shape"):
        raise PolicyError(
            "shortcut_mining looks at pictures, and nothing says what shape they have.",
            hint="Name the column of features under dataset.images; a table has no shortcuts to look for.",
        )
    check = get_check(rule.check, config)
    _refuse_missing_roles(check, roles)
    severity_default = "reject" if check.severity == "reject" else "warn"
    keeps_rates = isinstance(check, KeepsRates)
    if not keeps_rates and (rule.on_rise is not None or rule.tolerated_rise is not None):
        raise PolicyError(
            f"{rule.name} keeps no rates, so on_rise and tolerated_rise mean nothing for it.",
            hint="Take them out of the policy; label_noise and annotator_quality keep rates.",
        )
    if rule.reference is not None and not isinstance(check, KeepsHistory):
        raise PolicyError(
            f"{rule.name} keeps nothing of a version, so there is no reference to compare with.",
            hint="Take `reference` out of the policy; source_shift keeps what it needs.",
        )
    if rule.tolerated_rise is not None and rule.on_rise is None:
        raise PolicyError(
            f"{rule.name} has tolerated_rise and no on_rise, so nothing is compared.",
            hint="Say what a rise means: on_rise: warn, or reject.",
        )
    return PlannedCheck(
        check=check,
        config_digest=_config_digest(check),
        max_flagged_fraction=rule.max_flagged_fraction,
        over_limit=rule.over_limit or severity_default,
        on_flagged=rule.on_flagged,
        on_rise=rule.on_rise or "",
        tolerated_rise=TOLERATED_RISE if rule.tolerated_rise is None else rule.tolerated_rise,
        called=rule.called or "",
        reference=rule.reference or "",
    )


def _config_digest(check: Check) -> str:
    try:
        return hashlib.sha256(rfc8785.dumps(config_of(check))).hexdigest()
    except (TypeError, ValueError) as error:
        raise PolicyError(f"The configuration of check {check.name} has no canonical JSON form: {error}") from error


def _refuse_missing_roles(check: Check, roles: Mapping[Role, str | tuple[str, ...]]) -> None:
    missing = sorted(check.columns - set(roles) - {"source", "sample_digest"})
    if missing:
        raise MissingColumnError(
            f"Check {check.name} needs {', '.join(missing)}; the policy maps {', '.join(sorted(roles)) or 'nothing'}.",
            hint=f"Name the column under dataset.columns.{missing[0]}, or take the check out of the policy.",
            column=missing[0],
        )


def _planned_source(
    rule: SourceRule, files: Sequence[DatasetFile], items: Sequence[WorkItem], *, is_selection: bool
) -> PlannedSource:
    uris = {file.name: file.uri for file in files}
    # Names are relative to the folder that the user named; the manifest's place is relative to the same folder.
    mine = next((item.name for item in items if item.source == rule.name), rule.manifest_path)
    base = uris[mine].removesuffix(mine)
    manifest, bundle = rule.manifest_path, rule.bundle_path
    return PlannedSource(
        rule=rule,
        manifest_uri=uris.get(manifest, base + manifest),
        bundle_uri=uris.get(bundle, base + bundle),
        prefix=f"{rule.directory}/" if rule.directory else "",
        is_selection=is_selection,
    )


def _absolute(dataset: str) -> str:
    return str(Path(dataset).absolute()) if is_local(dataset) else dataset


def _is_folder(dataset: str) -> bool:
    if is_local(dataset):
        return Path(dataset).is_dir()
    return not any(wildcard in dataset for wildcard in "*?[") and kind_of(dataset) is None


def _work_item(file: DatasetFile, rule: SourceRule) -> WorkItem:
    return WorkItem(
        name=file.name, uri=file.uri, format=file.format, source=rule.name, size_bytes=file.size_bytes, sha256=""
    )


def _trust_root(loaded: LoadedPolicy) -> Any:
    trust = loaded.policy.trust
    if trust is None:
        return None
    return load_trust_root(loaded.files["trust.trusted_root"], trust.trusted_root_sha256)


def _declared_schema(loaded: LoadedPolicy) -> pa.Schema | None:
    data = loaded.files.get("dataset.schema")
    return None if data is None else schema_from_json(data)


def _suite(loaded: LoadedPolicy) -> Any:
    data = loaded.files.get("expectations.suite")
    if data is None:
        return None
    require_tested()
    return load_suite(data)


def refuse_unreadable(plan: VetPlan) -> None:
    """Refuse a plan that has nothing to read.

    Raises:
        UsageError: no data file matched.
        PolicyError: a check would travel under a name that the pipeline keeps for itself.
    """
    if not plan.items:
        raise UsageError("The data set has no data file.", hint="Name a file, a folder or a glob that has some.")
    names = [planned.name for planned in plan.checks]
    if len(set(names)) != len(names):
        raise PolicyError("Two checks have one name.", hint="Give one of them a name of its own: `as: NAME`.")
