"""Who may sign what: trust rules, the match of files to sources, and the verification of one source.

Rules this module keeps:
  1. Every file matches exactly one source rule; none or several refuses the data set, and names all such files.
  2. A source is verified by a signature over its manifest, or it is "unknown" and the policy accepts that explicitly.
  3. A signature that is there is verified. One that does not verify refuses the source, even where none would be
     accepted: a broken signature is evidence, a missing one is not.
  4. A signer is an issuer and an identity; neither has a default, and no pattern reaches across hosts.
  5. Nothing is remembered between calls.

The languages of both patterns are in docs/formats/trust.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from posixpath import dirname, join
from typing import Literal

from millcert.errors import ManifestError, PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.manifest import Manifest, compare_manifests, parse_manifest
from millcert.provenance.trust_patterns import literal_directory, path_matches, path_pattern_fault
from millcert.provenance.trust_root import TrustRoot, load_trust_root
from millcert.provenance.trust_signers import AuthorityRule, KeyRule, Signer, SignerRule, VerifiedSignature

__all__ = [
    "BUNDLE_SUFFIX",
    "MANIFEST_NAME",
    "AuthorityRule",
    "KeyRule",
    "Signer",
    "SignerRule",
    "SourceRule",
    "TrustRoot",
    "VerifiedSignature",
    "VerifiedSource",
    "load_trust_root",
    "match_sources",
    "provenance_paths",
    "verify_source",
]

#: Where a source's manifest stands unless the policy says otherwise, in the folder that the pattern starts with.
MANIFEST_NAME = "millcert-manifest.json"
#: What is added to a manifest's name for its bundle: the name that `sigstore sign FILE` gives.
BUNDLE_SUFFIX = ".sigstore.json"

_SHOWN = 20


@dataclass(frozen=True)
class SourceRule:
    """Who vouches for some of a data set's files.

    name: the source's word in findings and reports.
    path_pattern: which files it speaks for, POSIX, relative to the data set's root. `*` stands for any characters but
        "/", `?` for one of them, a whole segment `**` for any number of segments; "lab/**" is all below lab.
    signed_by: the signers that are trusted, any one of them; None where nobody signs.
    unsigned_accepted: whether the source may be without a signature; its status is then "unknown".
    manifest: where the manifest is, relative to the data set's root; "" means MANIFEST_NAME in `directory`.
    bundle: where the manifest's bundle is; "" means the manifest's path plus BUNDLE_SUFFIX.

    Raises:
        PolicyError: a name or pattern is malformed, the list of signers is empty, or nobody signs and that is not
            accepted.
    """

    name: str
    path_pattern: str
    signed_by: tuple[Signer, ...] | None = None
    unsigned_accepted: bool = False
    manifest: str = ""
    bundle: str = ""

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

    @property
    def manifest_path(self) -> str:
        """Where the source's manifest is, relative to the data set's root."""
        return self.manifest or join(literal_directory(self.path_pattern), MANIFEST_NAME)

    @property
    def bundle_path(self) -> str:
        """Where the bundle over the manifest's bytes is, relative to the data set's root."""
        return self.bundle or self.manifest_path + BUNDLE_SUFFIX

    @property
    def directory(self) -> str:
        """The folder that the manifest's paths are relative to: "" or without a final slash."""
        return dirname(self.manifest_path)

    def matches(self, path: str) -> bool:
        """Tell whether the rule speaks for a file; `path` is POSIX, relative to the data set's root."""
        return path_matches(self.path_pattern, path)


@dataclass(frozen=True)
class VerifiedSource:
    """The outcome for one source.

    status: "verified": a trusted signer signed a manifest of exactly these bytes; "unknown": unsigned, as accepted.
    signature: None where the status is "unknown".
    manifest_root: of the signed manifest, or, where there is none, of what was found.
    """

    source: str
    status: Literal["verified", "unknown"]
    signature: VerifiedSignature | None
    manifest_root: str


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
    """Return the paths of all manifests and bundles: files that stand among the data but are none."""
    return frozenset(path for rule in rules for path in (rule.manifest_path, rule.bundle_path))


def verify_source(
    files: Manifest,
    manifest_bytes: bytes | None,
    bundle_bytes: bytes | None,
    rule: SourceRule,
    root: TrustRoot | None,
    *,
    is_selection: bool = False,
) -> VerifiedSource:
    """Verify one source: signature, signer, and every file's bytes.

    The caller owes: `files` was computed from the bytes that will be used, and holds every file that `rule` matches.

    Args:
        files: what was found, paths relative to `rule.directory`.
        manifest_bytes: content of `rule.manifest_path`; None where there is no such file.
        bundle_bytes: content of `rule.bundle_path`; None where there is no such file.
        rule: who may sign.
        root: the pinned trusted root; None where the policy pins none.
        is_selection: `files` is a part that was chosen on purpose: files that only the manifest lists are not missing.

    Raises:
        UntrustedSourceError: no signature where one is needed, a signer that the rule does not trust, or a signature
            where the rule names no signer. `reason` is a stable code.
        SignatureError: the signature does not verify; `reason` is a stable code.
        ManifestError, DigestMismatchError: the manifest is malformed, or the files are not those that it lists.
    """
    if bundle_bytes is None:
        return _unsigned(files, manifest_bytes, rule, is_selection=is_selection)
    if rule.signed_by is None:
        raise UntrustedSourceError(
            f"Source {rule.name!r} has a signature at {rule.bundle_path}, but its rule names no signer.",
            hint="Name the signer in the policy, or remove the bundle.",
            reason="no_signer_named",
            source=rule.name,
        )
    if manifest_bytes is None:
        raise ManifestError(
            f"Source {rule.name!r} has a signature at {rule.bundle_path} but no manifest at {rule.manifest_path}.",
            hint="Fetch the manifest that was signed.",
            source=rule.name,
        )
    if root is None:
        raise SignatureError(
            f"Source {rule.name!r} has a signature, but no trusted root is pinned to verify it against.",
            hint="Pin a trusted root in the policy.",
            reason="no_trusted_root",
            source=rule.name,
        )
    from millcert.provenance.bundle import verify_bundle  # loads sigstore: a second, and only where a bundle is there

    signature = verify_bundle(manifest_bytes, bundle_bytes, root=root, identity=rule.signed_by)
    signed = parse_manifest(manifest_bytes)
    compare_manifests(signed, files, is_selection=is_selection)
    return VerifiedSource(rule.name, "verified", signature, signed.root)


def _unsigned(files: Manifest, manifest_bytes: bytes | None, rule: SourceRule, *, is_selection: bool) -> VerifiedSource:
    if not rule.unsigned_accepted:
        raise UntrustedSourceError(
            f"Source {rule.name!r} has no signature at {rule.bundle_path}, and its rule does not accept that.",
            hint="Ask its owner to sign the manifest, or accept the source as unsigned in the policy.",
            reason="unsigned",
            source=rule.name,
        )
    if manifest_bytes is None:
        return VerifiedSource(rule.name, "unknown", None, files.root)
    # Nobody vouches for the manifest, but files that differ from it were damaged on the way at least.
    claimed = parse_manifest(manifest_bytes)
    compare_manifests(claimed, files, is_selection=is_selection)
    return VerifiedSource(rule.name, "unknown", None, claimed.root)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more
