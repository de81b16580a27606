"""Source rules: which files a source speaks for, who may sign it, and what else is asked of it.

Every demand that a rule makes is refused where it is not met; none is a remark.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from posixpath import dirname, join
from typing import Literal

from millcert.errors import PolicyError, UntrustedSourceError
from millcert.provenance.attestation import AttestationRule
from millcert.provenance.checksums import BAGIT_NAMES, CHECKSUMS_NAMES
from millcert.provenance.croissant import CROISSANT_NAME
from millcert.provenance.digest_algorithms import ALGORITHMS, DigestAlgorithm
from millcert.provenance.oms import SIGNATURE_NAME
from millcert.provenance.pq_signature import PQ_SUFFIX, PqPublicKey
from millcert.provenance.spdx_license import license_fault
from millcert.provenance.trust_patterns import literal_directory, path_matches, path_pattern_fault
from millcert.provenance.trust_signers import AuthorityRule, KeyRule, Signer, SignerRule

#: Where a source's manifest stands unless the policy says otherwise, in the folder that the pattern starts with.
MANIFEST_NAME = "millcert-manifest.json"
#: What is added to a manifest's name for its bundle: the name that `sigstore sign FILE` gives.
BUNDLE_SUFFIX = ".sigstore.json"

#: What lists a source's files.
Form = Literal["manifest", "model_signing", "checksums", "bagit", "croissant"]
#: How much is asked of a source at least; see `SourceRule.tier`.
Tier = Literal["high", "standard"]

_NAMES: Mapping[Form, str] = {
    "manifest": MANIFEST_NAME,
    "model_signing": SIGNATURE_NAME,
    "checksums": CHECKSUMS_NAMES["sha256"],
    "bagit": BAGIT_NAMES["sha256"],
    "croissant": CROISSANT_NAME,
}
_SHOWN = 20


@dataclass(frozen=True)
class SourceRule:
    """Who vouches for some of a data set's files.

    name: the source's word in findings and reports.
    path_pattern: which files it speaks for, POSIX, relative to the data set's root. `*` stands for any characters but
        "/", `?` for one of them, a whole segment `**` for any number of segments; "lab/**" is all below lab.
    signed_by: the signers that are trusted, any one of them; None where nobody signs.
    unsigned_accepted: whether the source may be without a signature; its status is then "unknown".
    manifest: where the list of files is, relative to the data set's root; "" means the form's own name in the folder
        that the pattern starts with. A model signature is list and bundle in one, so it has no manifest.
    bundle: where the list's bundle is; "" means the list's path plus BUNDLE_SUFFIX.
    form: what lists the files: our manifest, or what publishers sign in its place.
    attestations: what must be there besides, about the list's bytes or about the manifest root.
    expires: the last day on which the rule counts, UTC; None for no end.
    signed_before: the latest time of signing that counts, so that others see a fresh snapshot first; None for any.
    licenses: SPDX identifiers of which the stated licence must be; None for any. Only a Croissant file states one.
    tier: "high" asks for a logged signature of one identity or key; patterns, unlogged and unsigned ones are refused.
    pq_keys: post-quantum keys of which one must have signed besides; () where none is asked for.
    digests: the algorithms of which a listed file must have a digest; it must meet all that it has of them.

    Raises:
        PolicyError: a name or pattern is malformed, the list of signers is empty, nobody signs and that is not
            accepted, or two parts of the rule contradict each other.
    """

    name: str
    path_pattern: str
    signed_by: tuple[Signer, ...] | None = None
    unsigned_accepted: bool = False
    manifest: str = ""
    bundle: str = ""
    form: Form = "manifest"
    attestations: tuple[AttestationRule, ...] = ()
    expires: date | None = None
    signed_before: datetime | None = None
    licenses: tuple[str, ...] | None = None
    tier: Tier = "standard"
    pq_keys: tuple[PqPublicKey, ...] = ()
    digests: tuple[DigestAlgorithm, ...] = ("sha256",)

    def __post_init__(self) -> None:
        if not self.name:
            raise PolicyError("A source needs a name.")
        fault = path_pattern_fault(self.path_pattern)
        if fault is not None:
            raise PolicyError(
                f"The path pattern {self.path_pattern!r:.200} of source {self.name!r} is refused: {fault}."
            )
        if self.signed_by is not None and not self.signed_by:
            raise PolicyError(f"The list of signers of source {self.name!r} is empty; nobody could sign it.")
        if self.signed_by is None and not self.unsigned_accepted:
            raise PolicyError(
                f"Source {self.name!r} has no signer, and being unsigned is not accepted.",
                hint="Name its signer, or accept it as unsigned.",
            )
        fault = self._digest_fault() or self._fault()
        if fault is not None:
            raise PolicyError(f"The rule of source {self.name!r} is refused: {fault}.")

    def _fault(self) -> str | None:
        """Return which demands of the rule contradict each other, None where none do."""
        if self.form == "model_signing" and self.manifest:
            return "a model signature is list and bundle in one; name it under bundle"
        asked = self.attestations or self.licenses is not None or self.signed_before or self.pq_keys
        if self.signed_by is None and asked:
            return "attestations, licences, an age and a second signature are asked of signed sources only"
        if self.licenses is not None:
            if self.form != "croissant":
                return "only a Croissant file states a licence"
            faults = [fault for one in self.licenses if (fault := license_fault(one))]
            if faults or not self.licenses:
                return faults[0] if faults else "no licence is allowed"
        return None if self.tier == "standard" else self._tier_fault()

    def _digest_fault(self) -> str | None:
        if not self.digests or not set(self.digests) <= set(ALGORITHMS):
            return f"the digests that count are {', '.join(ALGORITHMS)}, at least one of them"
        if self.form == "manifest" and "sha256" not in self.digests:
            return "our own manifest lists SHA-256 digests, so they must be allowed"
        return None

    def _tier_fault(self) -> str | None:
        if self.unsigned_accepted:
            return "a source of tier high is never unsigned"
        for rule in self.signed_by or ():
            if isinstance(rule, SignerRule) and rule.identity_pattern:
                return "a source of tier high names each signer exactly, with no pattern"
            if isinstance(rule, AuthorityRule) or (isinstance(rule, KeyRule) and rule.is_unlogged_accepted):
                return "a source of tier high accepts no unlogged signature"
        return None

    @property
    def needs_trust_root(self) -> bool:
        """Whether a signature that the rule trusts is verified against the trusted root."""
        signers = [*(self.signed_by or ()), *(one for rule in self.attestations for one in rule.signed_by)]
        return any(
            isinstance(rule, SignerRule) or (isinstance(rule, KeyRule) and not rule.is_unlogged_accepted)
            for rule in signers
        )

    @property
    def manifest_path(self) -> str:
        """Where the source's list of files is, relative to the data set's root."""
        given = self.bundle if self.form == "model_signing" else self.manifest
        return given or join(literal_directory(self.path_pattern), self._usual_name)

    @property
    def _usual_name(self) -> str:
        names = {"checksums": CHECKSUMS_NAMES, "bagit": BAGIT_NAMES}.get(self.form, {})
        return _NAMES[self.form] if "sha256" in self.digests else names.get(self.digests[0], _NAMES[self.form])

    @property
    def bundle_path(self) -> str:
        """Where the bundle over the list's bytes is, relative to the data set's root."""
        if self.form == "model_signing":
            return self.manifest_path
        return self.bundle or self.manifest_path + BUNDLE_SUFFIX

    @property
    def pq_path(self) -> str:
        """Where a post-quantum signature over the list is, relative to the data set's root."""
        return self.manifest_path + PQ_SUFFIX

    @property
    def directory(self) -> str:
        """The folder that the manifest's paths are relative to: "" or without a final slash."""
        return dirname(self.manifest_path)

    def matches(self, path: str) -> bool:
        """Tell whether the rule speaks for a file; `path` is POSIX, relative to the data set's root."""
        return path_matches(self.path_pattern, path)


def match_sources(paths: Iterable[str], rules: Iterable[SourceRule]) -> Mapping[str, SourceRule]:
    """Return for each file the one rule that speaks for it, in the order of `paths`.

    Args:
        paths: data files, POSIX, relative to the data set's root; without those of `provenance_paths`.
        rules: all source rules of the policy, with unique names.

    Raises:
        PolicyError: two rules have one name.
        UntrustedSourceError: some files match no rule or several; `unmatched` (paths) and `ambiguous` (path -> names)
            hold all of them.

    Cost: files times rules, some microseconds each.
    """
    known = tuple(rules)
    names = [rule.name for rule in known]
    if len(set(names)) != len(names):
        raise PolicyError(f"Two source rules have one name: {', '.join(sorted(names))}.")
    matched: dict[str, SourceRule] = {}
    unmatched: list[str] = []
    ambiguous: dict[str, tuple[str, ...]] = {}
    for path in paths:
        found = tuple(rule for rule in known if rule.matches(path))
        if len(found) == 1:
            matched[path] = found[0]
        elif found:
            ambiguous[path] = tuple(rule.name for rule in found)
        else:
            unmatched.append(path)
    if unmatched or ambiguous:
        parts = []
        if unmatched:
            parts.append(f"{len(unmatched)} match none ({_some(unmatched)})")
        if ambiguous:
            clashes = [f"{path}: {', '.join(clash)}" for path, clash in ambiguous.items()]
            parts.append(f"{len(ambiguous)} match several ({_some(clashes)})")
        raise UntrustedSourceError(
            f"Every file must match exactly one source rule: {'; '.join(parts)}.",
            hint="Change the path patterns of the sources.",
            reason="no_single_rule",
            unmatched=tuple(unmatched),
            ambiguous=ambiguous,
        )
    return matched


def provenance_paths(rules: Iterable[SourceRule]) -> frozenset[str]:
    """Return the paths of all lists, signatures and attestations: files that stand among the data but are none."""
    return frozenset(
        path
        for rule in rules
        for path in (
            rule.manifest_path,
            rule.bundle_path,
            rule.pq_path,
            *(one.bundle for one in rule.attestations),
        )
    )


def refuse_expired(rules: Iterable[SourceRule], now: datetime) -> None:
    """Refuse rules whose last day is over.

    Args:
        rules: those that speak for files of the data set.
        now: with a time zone.

    Raises:
        UntrustedSourceError: at least one is expired; `reason` is "expired", `sources` names them.
    """
    today = now.astimezone(UTC).date()
    expired = [rule for rule in rules if rule.expires is not None and rule.expires < today]
    if expired:
        shown = ", ".join(f"{rule.name} ({rule.expires})" for rule in expired)
        raise UntrustedSourceError(
            f"Trust in these sources has expired: {shown}.",
            hint="Look again at who signs them, then set sources[].expires to a later day.",
            reason="expired",
            sources=tuple(rule.name for rule in expired),
        )


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
