"""Who may sign: an identity that an issuer vouches for, a bare key, or a name under an authority of one's own.

A signer has no default part: no issuer is implied, no key is taken from what was signed, and a signature that no
transparency log has seen counts only where the rule says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from millcert.errors import PolicyError
from millcert.provenance.public_key import PublicKey
from millcert.provenance.trust_patterns import identity_matches, identity_pattern_fault


@dataclass(frozen=True)
class SignerRule:
    """One signer that is trusted.

    issuer: the OIDC issuer that vouches for the identity, compared exactly.
    identity: the certificate's subject alternative name (an email address or a URI), compared exactly; or
    identity_pattern: must match all of it; `*` stands for any characters but "/" and "@", `**` for any at all. The host
        of a URI and the domain of an email address must be literal.

    Raises:
        PolicyError: the issuer is empty, not exactly one of identity and identity_pattern is given, or the pattern is
            too wide.
    """

    issuer: str
    identity: str | None = None
    identity_pattern: str | None = None

    def __post_init__(self) -> None:
        if not self.issuer:
            raise PolicyError("A signer needs an issuer.", hint="Without it any issuer may claim the identity.")
        if bool(self.identity) == bool(self.identity_pattern):
            raise PolicyError(
                f"A signer under {self.issuer} needs either an identity or an identity_pattern, not both or none."
            )
        fault = identity_pattern_fault(self.identity_pattern) if self.identity_pattern else None
        if fault is not None:
            raise PolicyError(f"The identity_pattern {self.identity_pattern!r:.200} is refused: {fault}.")

    def matches(self, *, issuer: str, identity: str) -> bool:
        """Tell whether this rule trusts that identity as vouched for by that issuer."""
        if issuer != self.issuer:
            return False
        if self.identity_pattern:
            return identity_matches(self.identity_pattern, identity)
        return identity == self.identity

    def __str__(self) -> str:
        return f"{self.identity or self.identity_pattern} by {self.issuer}"


@dataclass(frozen=True)
class KeyRule:
    """A bare key that is trusted: whoever holds the private one is the signer.

    key: the public key itself; a fingerprint would leave it to the signer to show the key.
    is_unlogged_accepted: whether a signature that no transparency log has counts. Such a signature has no trusted time,
        and nobody would see that the key was stolen and used.
    """

    key: PublicKey
    is_unlogged_accepted: bool = False

    @property
    def identity(self) -> str:
        """How the signer is named in findings: `key:sha256:` and the digest of the SubjectPublicKeyInfo, hex."""
        return f"key:sha256:{self.key.sha256}"

    def __str__(self) -> str:
        return self.identity


@dataclass(frozen=True)
class AuthorityRule:
    """A name under a certificate authority of one's own, as OpenSSF model signing's certificate mode has it.

    Nothing of it is logged, has a trusted time, or can be revoked, so it is always knowingly unlogged.

    authorities: certificates that may begin a chain, DER; at least one.
    identity: the signing certificate's subject (RFC 4514, such as "CN=data,O=lab"), compared exactly.

    Raises:
        PolicyError: no authority or no identity is given.
    """

    authorities: tuple[bytes, ...]
    identity: str

    def __post_init__(self) -> None:
        if not self.authorities or not self.identity:
            raise PolicyError("An authority rule needs at least one certificate and the subject that may sign.")

    def __str__(self) -> str:
        return f"{self.identity} under an authority of the policy"


@dataclass(frozen=True)
class VerifiedSignature:
    """What a signature that verified says.

    identity: the certificate's only subject alternative name; a key's name (`key:sha256:...`); or, under an authority
        of the policy's own, the certificate's subject.
    issuer: the OIDC issuer that vouched for it; "" for the other two.
    signed_at: when, by the earliest trusted clock, RFC 3339 in UTC; None for a kind of signature without trusted time.
    log_index: the entry's place in its transparency log, as far as something signed says so; None without a log.
    log_key_id: the log's id, hex; "" without a log.
    bundle_sha256, trusted_root_sha256: digests of what was verified and of what it was verified against, hex; the
        second is "" without a log.
    """

    identity: str
    issuer: str
    signed_at: str | None
    log_index: int | None
    log_key_id: str
    bundle_sha256: str
    trusted_root_sha256: str


#: Any way to name one who may sign.
Signer = SignerRule | KeyRule | AuthorityRule


def as_signers(identity: Signer | Sequence[Signer]) -> tuple[Signer, ...]:
    """Return the signers that a caller names, one or several.

    Raises:
        PolicyError: none is named.
    """
    signers = (identity,) if isinstance(identity, (SignerRule, KeyRule, AuthorityRule)) else tuple(identity)
    if not signers:
        raise PolicyError("A signature cannot be verified without a signer who is trusted.")
    return signers
