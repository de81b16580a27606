"""Who may sign what: one place to import trust rules, the match of files to sources, and their verification from.

Rules that these modules keep:
  1. Every file matches exactly one source rule; none or several refuses the data set, and names all such files.
  2. A source is verified by a signature over its manifest, or it is "unknown" and the policy accepts that explicitly.
  3. A signature that is there is verified. One that does not verify refuses the source, even where none would be
     accepted: a broken signature is evidence, a missing one is not.
  4. A signer is an issuer and an identity, a key, or a name under an authority; none has a default, and no pattern
     reaches across hosts.
  5. Nothing is remembered between calls.

The languages of both patterns are in docs/formats/trust.md.
"""

from millcert.provenance.attestation import AttestationRule
from millcert.provenance.trust_root import TrustRoot, load_trust_root
from millcert.provenance.trust_rules import (
    BUNDLE_SUFFIX,
    MANIFEST_NAME,
    Form,
    SourceRule,
    match_sources,
    provenance_paths,
    refuse_expired,
)
from millcert.provenance.trust_signers import AuthorityRule, KeyRule, Signer, SignerRule, VerifiedSignature
from millcert.provenance.trust_verify import VerifiedSource, verify_source

__all__ = [
    "BUNDLE_SUFFIX",
    "MANIFEST_NAME",
    "AttestationRule",
    "AuthorityRule",
    "Form",
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
    "refuse_expired",
    "verify_source",
]
