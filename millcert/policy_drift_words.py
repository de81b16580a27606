"""A policy's fields, profile and drift in words."""

from collections.abc import Iterator

from millcert.policy_model import Policy

_OUTCOME = {"reject": "rejects the data set", "warn": "is reported in the verdict and rejects nothing"}


def explain_drift(policy: Policy) -> Iterator[str]:
    """Yield what the gate does with the distribution of the data."""
    profile, drift = policy.profile, policy.drift
    if profile is None:
        yield "None: the gate does not keep how the data is distributed, and compares it with nothing."
        return
    texts = "with" if profile.texts == "keep" else "without"
    yield f"The profile of all samples, {texts} the values of columns that have few, is published, signed and logged."
    if profile.tokens:
        yield f"Tokens of {', '.join(profile.tokens)} are counted against the label, as hashes."
    if drift is None:
        yield "It is compared with nothing."
        return
    what = "the profile of the last admitted version in the ledger" if drift.is_last_admitted else drift.reference
    if drift.admitted_profile:
        what = f"the profile {drift.reference} of an admitted version that the ledger has and nobody revoked"
    yield f"It is compared with {what}."
    yield f"A difference over its limit and beyond chance {_OUTCOME[drift.on_drift]}."
    yield f"A column that came, went or changed its type {_OUTCOME[drift.on_drift]}."
    yield f"A source that is new or silent {_OUTCOME[drift.on_source_change or drift.on_drift]}."
    if drift.is_last_admitted:
        first = "is inconclusive" if drift.on_no_reference == "inconclusive" else "is let in uncompared"
        yield f"The first version, which has nothing before it, {first}."
    if drift.versions:
        yield (
            f"It is followed over the last {drift.versions} admitted versions; "
            f"a change little by little {_OUTCOME[drift.on_gradual]}."
        )
    if drift.ignore:
        yield f"These columns are not compared: {', '.join(drift.ignore)}."


def explain_fields(policy: Policy) -> Iterator[str]:
    """Yield which columns may be used, and what becomes of any other."""
    if policy.permitted is None:
        yield "None are listed: every column may be used."
        return
    yield from (f"{name}: {purpose}." for name, purpose in policy.permitted.columns.items())
    if policy.permitted.unlisted == "refuse":
        yield "Data with any other column is refused before a sample is read (exit code 2)."
    else:
        yield "Any other column is dropped: no sample, check, profile or admitted file has it."
