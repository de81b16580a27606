"""The reference that a run's profile is compared with: a file of the policy, or the profile of an admitted version.

The ledger says which profile an admitted version had (the verdict's entry binds its digest); its bytes are kept
in the state folder under that digest, `profiles/DIGEST.json`, and are believed only if they have it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from millcert.checks.drift import DriftLimits
from millcert.checks.profile import ProfileSpec, are_comparable
from millcert.checks.profile_format import MAX_PROFILE_BYTES, load_with_digest
from millcert.errors import DigestMismatchError, PolicyError, StoreError
from millcert.pipelines.plan import PlannedDrift, VetPlan
from millcert.pipelines.publish import write_file
from millcert.pipelines.rating import RATES_REFERENCE_FILE, compares_rates, rates_digest
from millcert.policy import LoadedPolicy
from millcert.policy_drift import DriftRule
from millcert.provenance.atomic_file import replace_file
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.revocation import Facts, Revocation, touches

#: Where the reference stands in the staging folder.
REFERENCE_FILE = "reference-profile.json"


def profile_spec(loaded: LoadedPolicy) -> ProfileSpec | None:
    """Return how the policy's profile is made; None without the section.

    Raises:
        PolicyError: the label or source has no column of its own, or a size is out of its range.
    """
    section = loaded.policy.profile
    if section is None:
        return None
    key = loaded.files["profile.hash_key"].decode().strip()
    columns = loaded.policy.dataset.columns
    spec = ProfileSpec(
        key,
        label=columns.label or "",
        source=columns.source or "",
        keeps_texts=section.texts == "keep",
        tokens=tuple(sorted(set(section.tokens or ()))),
    )
    return spec if section.max_cells is None else replace(spec, max_cells=section.max_cells)


def planned_drift(rule: DriftRule) -> PlannedDrift:
    """Return the comparison that a policy asks for, without its reference.

    Raises:
        PolicyError: a limit is out of its range.
    """
    return PlannedDrift(
        limits=DriftLimits(**rule.limits.model_dump(exclude_none=True)),
        ignore=rule.ignore or (),
        on_drift=rule.on_drift,
        on_source_change=rule.on_source_change or rule.on_drift,
        on_no_reference=rule.on_no_reference,
        reference=rule.reference,
        versions=rule.versions or 0,
        on_gradual=rule.on_gradual,
    )


def place_reference(
    plan: VetPlan, loaded: LoadedPolicy, state: Path, history: Sequence[Entry], revocations: Sequence[Revocation]
) -> VetPlan:
    """Return the plan with its reference, which now stands in the staging folder; before any data is read.

    Args:
        plan: of the run.
        loaded: the policy with the files that it names.
        state: the state folder.
        history: the ledger's "manifest" and "verdict" entries about the data set, oldest first.
        revocations: in force; a version that one of them takes back is no reference.

    Raises:
        PolicyError: the reference was made with another key, label, source or sizes; or the ledger has no admitted
            version that is in force with the profile that the policy names.
        StoreError: the profile of the last admitted version is not in the state folder.
        DigestMismatchError, IntegrityError: its bytes are not what the ledger says.
    """
    rule = loaded.policy.drift
    if plan.drift is None or rule is None:
        return plan
    if rule.is_last_admitted or rule.admitted_profile:
        digest = _digest_of(rule, history, revocations)
        if not digest:
            return plan
        data = read_kept(profile_path(state, digest), "profile", "profile.json")
    else:
        digest, data = "", loaded.files["drift.reference"]
    reference, actual = load_with_digest(data)
    if digest:
        subject, hint = "The profile of the admitted version has", "Restore it from that version's profile.json."
        require_logged(actual, digest, subject, hint)
    if plan.profile is None or not are_comparable(reference.spec, plan.profile):
        raise PolicyError(
            "The reference profile was made with another hash key, label, source or sizes than the policy asks for.",
            hint="Make it again with this policy's key and columns, or vet once with drift.reference set to a new one.",
        )
    uri = f"{plan.staging}/{REFERENCE_FILE}"
    write_file(uri, data)
    return replace(plan, drift=replace(plan.drift, reference_uri=uri, reference_digest=actual))


def require_logged(actual: str, logged: str, subject: str, hint: str) -> None:
    """Refuse what was kept of a version if its digest is not the one that the ledger has.

    Args:
        actual: hex.
        logged: hex.
        subject: what it is the digest of, with its verb.
        hint: where to get it again.

    Raises:
        DigestMismatchError: they differ.
    """
    if actual != logged:
        raise DigestMismatchError(
            f"{subject} the digest {actual}; the ledger says {logged}.", hint=hint, expected=logged, actual=actual
        )


def place_rates(plan: VetPlan, state: Path, history: Sequence[Entry], revocations: Sequence[Revocation]) -> VetPlan:
    """Return the plan with the rates of the last admitted version, which now stand in the staging folder.

    Args:
        plan: of the run.
        state: as in `place_reference`.
        history: likewise.
        revocations: likewise.

    Raises:
        StoreError: they are not in the state folder.
        DigestMismatchError: they are not what the ledger says.
    """
    digest = last_digest(history, revocations, "rates_digest") if compares_rates(plan) else ""
    if not digest:
        return plan
    path = rates_path(state, digest)
    data = read_kept(path, "rates", "rates.json")
    subject, hint = "The rates of the last admitted version have", "Restore them from that version's rates.json."
    require_logged(rates_digest(data), digest, subject, hint)
    uri = f"{plan.staging}/{RATES_REFERENCE_FILE}"
    write_file(uri, data)
    return replace(plan, rates_uri=uri, rates_digest=digest)


def _digest_of(rule: DriftRule, history: Iterable[Entry], revocations: Sequence[Revocation]) -> str:
    """Return the digest of the profile that the ledger has for the rule, "" where no version was admitted yet."""
    if rule.is_last_admitted:
        return last_profile(history, revocations)
    if rule.admitted_profile not in admitted_digests(history, revocations, "profile_digest"):
        raise PolicyError(
            f"The ledger has no admitted version of this data set with the profile {rule.admitted_profile}, "
            "or it was revoked.",
            hint="Name the profile_digest of an admitted version's verdict in drift.reference.",
        )
    return rule.admitted_profile


def last_profile(history: Iterable[Entry], revocations: Sequence[Revocation]) -> str:
    """Return the profile's digest of the newest admitted version that nobody revoked, "" where there is none."""
    return last_digest(history, revocations, "profile_digest")


def last_digest(history: Iterable[Entry], revocations: Sequence[Revocation], key: str) -> str:
    """Return what the newest admitted version that nobody revoked has under a key, "" where there is none.

    The arguments are those of `admitted_digests`.
    """
    return (admitted_digests(history, revocations, key) or [""])[-1]


def admitted_digests(history: Iterable[Entry], revocations: Sequence[Revocation], key: str) -> list[str]:
    """Return what each admitted version that nobody revoked has under a key, oldest first.

    Args:
        key: of the "verdict" entry, such as "profile_digest".
        history: the ledger's "manifest" and "verdict" entries of one data set, oldest first.
        revocations: in force. Those of a data set, its input, a source or a signer count; what a file or sample was
            in stands in no entry, so their revocation takes no reference away.
    """
    found: list[str] = []
    sources: list[tuple[str, str, str]] = []
    for entry in history:
        body = entry.body
        if entry.kind == "manifest" and isinstance(body.get("source"), str):
            sources.append((body["source"], str(body.get("identity", "")), str(body.get("issuer", ""))))
        elif entry.kind == "verdict":
            facts = Facts(
                sources=tuple(sources),
                output_root=str(body.get("output_root")),
                input_root=str(body.get("input_root")),
                files=frozenset(),
                verified_at=entry.recorded_at,
            )
            sources = []
            digest = body.get(key)
            is_reference = body.get("decision") == "admitted" and isinstance(digest, str)
            if is_reference and not any(touches(one, facts) for one in revocations):
                found.append(str(digest))
    return found


def keep_profile(state: Path, digest: str, data: bytes) -> None:
    """Keep an admitted version's profile in the state folder, before the ledger says that it was admitted.

    Raises:
        StoreError: the folder cannot be written.
    """
    keep_bytes(profile_path(state, digest), data, "profile")


def keep_rates(state: Path, digest: str, data: bytes) -> None:
    """Keep an admitted version's rates in the state folder, as `keep_profile` does; errors likewise."""
    keep_bytes(rates_path(state, digest), data, "rates")


def profile_path(state: Path, digest: str) -> Path:
    """Return where the profile of that digest is kept."""
    return state / "profiles" / f"{digest}.json"


def rates_path(state: Path, digest: str) -> Path:
    """Return where the rates of that digest are kept."""
    return state / "rates" / f"{digest}.json"


def keep_bytes(path: Path, data: bytes, what: str) -> None:
    """Keep what an admitted version leaves in the state folder, before the ledger says that it was admitted.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, lambda stream: _write(stream, data))
    except OSError as error:
        raise StoreError(
            f"Cannot keep the {what} at {path}: {error}", hint="Free space or rights, run again."
        ) from error


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


def read_kept(path: Path, what: str, published: str, most: int = MAX_PROFILE_BYTES) -> bytes:
    """Return what the state folder keeps of an admitted version, one byte more than `most` at the most.

    Raises:
        StoreError: it is not there.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise StoreError(
            f"The {what} of the admitted version cannot be read: {error}",
            hint=f"Copy that version's {published} to {path}, then run again.",
        ) from error
