"""A policy in words: what the gate will do under it, limit by limit, and which rule speaks for a file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from millcert.policy_drift_words import explain_drift, explain_fields
from millcert.policy_model import CheckRule, Policy, SourceRule
from millcert.provenance.pq_signature import parse_base64_pq_key
from millcert.provenance.trust import SourceRule as TrustRule
from millcert.provenance.trust_patterns import path_matches

if TYPE_CHECKING:
    from millcert.checks.base import Check

_LISTS = {
    "manifest": "a manifest",
    "model_signing": "an OpenSSF model signature",
    "checksums": "a list of checksums",
    "bagit": "a BagIt manifest",
    "croissant": "a Croissant file",
}

#: How many files of each kind an explanation lists by name; all are counted.
LISTED_FILES = 20


class Paragraph(NamedTuple):
    """A heading and its sentences."""

    heading: str
    sentences: tuple[str, ...]


class FileMatch(NamedTuple):
    """Which rules speak for a file.

    path: POSIX, relative to the data set's root. rules: names of the rules that match; sound only if exactly one.
    status: "signed", "unknown", "no_rule", "several_rules", or "provenance" for a manifest or bundle that a rule names.
    why: one sentence.
    """

    path: str
    rules: tuple[str, ...]
    status: str
    why: str


def explain_policy(policy: Policy, checks: Mapping[int, "Check"]) -> tuple[Paragraph, ...]:
    """Return what a policy makes the gate do.

    Args:
        policy: a validated policy.
        checks: position in `policy.checks` -> the configured check.
    """
    return (
        Paragraph("data set", tuple(_dataset(policy))),
        Paragraph("sources", tuple(_sources(policy))),
        Paragraph("expectations", tuple(_expectations(policy))),
        Paragraph("fields", tuple(explain_fields(policy))),
        Paragraph("profile and drift", tuple(explain_drift(policy))),
        *(
            Paragraph(_heading(rule), tuple(_check(rule, checks[position])))
            for position, rule in enumerate(policy.checks)
        ),
        Paragraph("verdict", tuple(_verdict(policy))),
        Paragraph("roles", tuple(_roles(policy))),
        Paragraph("not covered", tuple(_not_covered(checks.values()))),
    )


def _roles(policy: Policy) -> Iterator[str]:
    section = policy.responsibilities
    if section is None:
        yield "Nobody can override, approve, revoke or declare anything in the ledger."
        return
    for person in section.people:
        yield f"{person.name} is {', '.join(person.roles)}."
    for kind, roles in section.kinds.items():
        yield f"Entries of kind {kind} need {' or '.join(roles)}."
    yield f"Two people let a refusal through, never its submitter alone, for at most {section.max_override_days} days."


def explain_file(policy: Policy, path: str) -> FileMatch:
    """Return which rules speak for a file and why; `path` is POSIX, relative to the data set's root."""
    for rule in policy.sources:
        kind = _evidence_kind(rule, path)
        if kind is not None:
            return FileMatch(path, (rule.name,), "provenance", f"it is the {kind} of {rule.name}")
    found = policy.rules_matching(path)
    names = tuple(rule.name for rule in found)
    if len(found) == 1:
        status = "signed" if found[0].is_signed else "unknown"
        demands = _source(found[0])
        return FileMatch(path, names, status, f'{found[0].name} matches by its path "{found[0].path}": {demands}')
    if found:
        patterns = ", ".join(f'{rule.name} ("{rule.path}")' for rule in found)
        return FileMatch(path, names, "several_rules", f"more than one rule matches: {patterns}")
    reasons = "; ".join(f"{rule.name}: {why_not(rule.path, path)}" for rule in policy.sources)
    return FileMatch(path, names, "no_rule", f"no rule matches ({reasons})")


def _evidence_kind(rule: SourceRule, path: str) -> str | None:
    """Return what a file is to a rule that says where its evidence is, named or not; None where it is data."""
    # Nobody's signature is asked about here.
    places = TrustRule(
        rule.name,
        rule.path,
        unsigned_accepted=True,
        manifest=rule.manifest or "",
        bundle=rule.bundle or "",
        form=rule.form or "manifest",
        digests=rule.digests or ("sha256",),
    )
    if path == places.manifest_path:
        return "manifest" if rule.form in (None, "manifest") else _LISTS[rule.form].partition(" ")[2]
    if path == places.bundle_path:
        return "bundle"
    if path == places.pq_path:
        return "post-quantum signature"
    return "attestation" if path in {one.bundle for one in rule.attestations or ()} else None


def why_not(pattern: str, path: str) -> str:
    """Return in words where a pattern and a path that it does not match part."""
    wanted, given = pattern.split("/"), path.split("/")
    for position, segment in enumerate(wanted):
        if segment == "**":
            return (
                f'it does not end as "{pattern}" does' if position < len(given) else f'"{pattern}" means what is below'
            )
        if position == len(given):
            return f'"{pattern}" means something deeper'
        if not path_matches(segment, given[position]):
            return f'"{given[position]}" is not "{segment}"'
    return f'"{pattern}" means nothing that deep'


def printable(text: str) -> str:
    """Show characters that do not print by their number: a file name must not command the terminal."""
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def file_lines(matches: Sequence[FileMatch]) -> Iterator[str]:
    """Yield lines about files: the faults first, then counts by rule with some names."""
    faults = [match for match in matches if match.status in {"no_rule", "several_rules"}]
    for match in faults[:LISTED_FILES]:
        yield f"REFUSED  {printable(match.path)}: {printable(match.why)}"
    if len(faults) > LISTED_FILES:
        yield f"REFUSED  and {len(faults) - LISTED_FILES:,} files more"
    for name in sorted({match.rules[0] for match in matches if len(match.rules) == 1}):
        mine = [match for match in matches if match.rules == (name,)]
        if len(matches) <= LISTED_FILES:
            yield from (f"{match.status:<9}{printable(match.path)}: {printable(match.why)}" for match in mine)
        else:
            yield f"{mine[0].status:<9}{len(mine):,} files of {name}, such as {printable(mine[0].path)}"


def _dataset(policy: Policy) -> Iterator[str]:
    dataset = policy.dataset
    roles = policy.roles()
    named = ", ".join(
        f"{role} from column {column!r}" if isinstance(column, str) else f"{role} from columns {', '.join(column)}"
        for role, column in roles.items()
    )
    yield f"It is called {dataset.name}; {named or 'no column has a role, so only files and expectations are tested'}."
    if dataset.classes:
        yield f"It has {len(dataset.classes)} classes; pred_probs has a column for each, in the order of the policy."
    if dataset.schema_file:
        yield f"The types of its columns are those of {dataset.schema_file}."
    yield _limit("record is malformed", "of the records are malformed", dataset.max_malformed_fraction)


def _sources(policy: Policy) -> Iterator[str]:
    yield "Every file must match exactly one of these rules, or the gate refuses the data set (exit code 3)."
    for rule in policy.sources:
        yield f'"{rule.path}" is source {rule.name}: {_source(rule)}'
    if policy.trust is not None:
        yield (
            f"Signatures are verified against {policy.trust.trusted_root} with SHA-256 "
            f"{policy.trust.trusted_root_sha256} and against nothing else."
        )


def _source(rule: SourceRule) -> str:
    if rule.signed_by is None:
        return f"nobody needs to vouch for it; its samples count as of unknown provenance.{_demands(rule)}"
    signers = " or ".join(str(signer) for signer in rule.signed_by)
    return (
        f"its files must be exactly those of {_LISTS[rule.form or 'manifest']} signed by {signers}; "
        f"another signer, no signature or one changed byte is refused (exit code 3).{_demands(rule)}"
    )


def _demands(rule: SourceRule) -> str:
    """Return what a rule asks for besides the signature, one sentence each."""
    found = []
    if rule.expires is not None:
        found.append(f"After {rule.expires} (UTC) the rule counts no more, and its files are refused.")
    if rule.min_age_days is not None:
        found.append(f"It must have been signed {rule.min_age_days} days before the run or earlier.")
    if rule.require_pq is not None:
        keys = " or ".join(f"key:sha256:{one.sha256}" for one in map(parse_base64_pq_key, rule.require_pq))
        found.append(f"The post-quantum {keys} must have signed the same bytes with ML-DSA-65.")
    if rule.digests is not None:
        counted = " or ".join(rule.digests)
        found.append(f"Each file must have a digest by {counted}, and meet all that it has of these.")
    if rule.licenses is not None:
        found.append(f"The licence that it states must be covered by {', '.join(rule.licenses)}.")
    for one in rule.attestations or ():
        asked = [f"by builder {one.builder}"] if one.builder else []
        asked += [f"by verifier {one.verifier}"] if one.verifier else []
        asked += [f"with {', '.join(one.levels)}"] if one.levels else []
        signers = " or ".join(str(signer) for signer in one.signed_by)
        found.append(f"An attestation {' '.join([one.type, *asked])}, signed by {signers}, must be at {one.bundle}.")
    if rule.on_signer_change == "reject":
        found.append("A signer who is not that of its last admitted version rejects the data set.")
    return "".join(f" {sentence}" for sentence in found)


def _expectations(policy: Policy) -> Iterator[str]:
    if policy.expectations is None:
        yield "None: neither schema nor ranges are tested."
        return
    outcomes = {
        "reject": "a failed critical expectation rejects the data set; others are reported.",
        "quarantine_rows": "a sample that a critical expectation on rows does not expect is held back, whatever the "
        "expectation's `mostly`; a failed critical expectation on a whole column or table rejects the data set; others "
        "are reported.",
        "warn": "failures are reported and never reject the data set.",
    }
    outcome = outcomes[policy.expectations.on_failure]
    yield f"The suite {policy.expectations.suite} is evaluated over all samples; {outcome}"


def _heading(rule: CheckRule) -> str:
    return f"check {rule.check}" if rule.called is None else f"check {rule.name} ({rule.check})"


def _check(rule: CheckRule, check: "Check") -> Iterator[str]:
    over = rule.over_limit or check.severity
    by = "" if rule.over_limit else " (by the check's own severity)"
    outcome = f"the data set is rejected{by}" if over == "reject" else f"the verdict carries a warning{by}"
    share = f"more than {_percent(rule.max_flagged_fraction)} of the samples are flagged"
    yield f"If {'any sample is flagged' if rule.max_flagged_fraction == 0 else share}, {outcome}."
    from millcert.checks.rate_history import KeepsRates  # numpy, which has loaded with the check

    if isinstance(check, KeepsRates):
        risen = {"reject": "rejects the data set", "warn": "is reported"}
        if rule.on_rise is None:
            yield "Its rates are kept, and not compared with those of the last admitted version."
        else:
            yield f"A rate of doubted labels that rose since the last admitted version {risen[rule.on_rise]}."
    if rule.reference is not None:
        yield "It also compares the data with the last admitted version, so the verdict depends on what was admitted."
    if rule.on_flagged == "quarantine":
        yield "Every flagged sample is held back in quarantine and not trained on."
    else:
        yield "Flagged samples are listed in the findings and still admitted."
    yield f"It reads {', '.join(sorted(check.columns))} and needs {check.passes} passes over the data before it scores."
    if rule.config:
        yield f"Its configuration differs from the defaults in: {', '.join(sorted(rule.config))}."


def _verdict(policy: Policy) -> Iterator[str]:
    verdict = policy.verdict
    yield _limit("sample is quarantined", "of the samples are quarantined", verdict.max_quarantined_fraction)
    if verdict.max_quarantined_fraction < 1:
        yield "Samples that are held back for a doubted label and nothing else do not count there."
    for what, word in (("backdoor", verdict.on_backdoor), ("bad source", verdict.on_bad_source)):
        yield (
            f"If the checks together show a {what}, the limits of the checks decide."
            if word == "quarantine"
            else f"If the checks together show a {what}, the data set is rejected, however few samples it has."
        )
    limit = verdict.max_unknown_provenance_fraction
    yield _limit("sample is of unknown provenance", "of the samples are of unknown provenance", limit)
    if limit == 0 and any(not rule.is_signed for rule in policy.sources):
        names = ", ".join(rule.name for rule in policy.sources if not rule.is_signed)
        yield f"So one sample from {names} is enough to reject: sign the source, or raise the limit knowingly."
    yield f"The verdict is logged in the ledger {policy.ledger.origin}; a check that cannot run leaves it inconclusive."
    witnessing = policy.ledger.witnessing()
    if witnessing is not None:
        names = ", ".join(sorted({site.name for site in witnessing.sites}))
        yield f"Nothing is published before {witnessing.required} of these witnesses cosigned the ledger: {names}."


def _percent(fraction: float) -> str:
    return f"{fraction * 100:g} %"


def _limit(one: str, share: str, limit: float) -> str:
    if limit >= 1:
        return f"There is no limit: however many {share}, that rejects nothing."
    return f"If {f'any {one}' if limit == 0 else f'more than {_percent(limit)} {share}'}, the data set is rejected."


def _not_covered(checks: Iterable["Check"]) -> Iterator[str]:
    from millcert.checks.coverage import ATTACK_FAMILIES, families_of, not_covered

    families = not_covered(families_of(check) for check in checks)
    yield from (f"{family}: {ATTACK_FAMILIES[family]}." for family in families)
    if not families:
        yield "Every attack family that millcert knows is looked for by some check."
