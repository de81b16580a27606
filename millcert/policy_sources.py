"""The policy's `sources`: which files a source speaks for, who may sign it, and what else is asked of it.

The rules that `SourceRule.to_trust_rule` gives are what the gate acts on (provenance/trust.py); here is how they are
written down, with every fault at its key.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from millcert.policy_section import PRINTABLE, Count, Fault, PublicKey, Section, Text, at_least, parsable, shown
from millcert.provenance.spdx_license import license_fault
from millcert.provenance.trust_patterns import identity_pattern_fault, path_matches, path_pattern_fault

if TYPE_CHECKING:
    from millcert.provenance.trust import Signer as TrustSigner
    from millcert.provenance.trust import SourceRule as TrustRule

_PREDICATES = {
    "slsa_provenance": "https://slsa.dev/provenance/v1",
    "slsa_verification_summary": "https://slsa.dev/verification_summary/v1",
}
_REQUIRED = "the key is required"


def _pattern(value: str) -> str:
    if fault := path_pattern_fault(value):
        raise ValueError(f"{fault}, got {shown(value)}")
    return value


def below_root(value: str) -> str:
    """Return a path below the data set's root; ValueError says what is wrong with another."""
    if fault := _relative_path_fault(value):
        raise ValueError(f"{fault}, got {shown(value)}")
    return value


def _relative_path_fault(path: str) -> str | None:
    # None where it is a path below the data set's root.
    if path.startswith("/") or "://" in path or path[1:2] == ":":
        return "expected a path relative to the data set's root"
    if any(segment in {"", ".", ".."} for segment in path.split("/")):
        return "empty segments, . and .. are refused in a path"
    return "expected / between segments, got a backslash" if "\\" in path else None


def _certificate(value: str) -> str:
    import base64

    from cryptography import x509

    try:
        x509.load_der_x509_certificate(base64.b64decode(value, validate=True))
    except ValueError as error:
        raise ValueError(f"expected a certificate as base64 in one line: {error}") from error
    return value


def _pq_key(value: str) -> str:
    from millcert.provenance.pq_signature import parse_base64_pq_key

    return parsable(value, parse_base64_pq_key)


def _day(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"expected a day such as 2027-01-31, got {shown(value)}") from error
    return value


def _license(value: str) -> str:
    if fault := license_fault(value):
        raise ValueError(f"{fault}, got {shown(value)}")
    return value


RootPath: TypeAlias = Annotated[Text, AfterValidator(below_root)]


class Signer(Section):
    """One who may sign: an identity, a key, or a name under an authority (docs/formats/trust.md).

    issuer with identity or identity_pattern: a keyless signer. key: the public key, SubjectPublicKeyInfo in base64;
    with `unlogged: accept` also without a log entry. authorities with subject: certificates (DER, base64) that may
    begin a chain, and the signing certificate's subject.
    """

    issuer: Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=2048), PRINTABLE] | None = None
    identity: Text | None = None
    identity_pattern: Text | None = None
    key: PublicKey | None = None
    unlogged: Literal["accept"] | None = None
    authorities: Annotated[tuple[Annotated[Text, AfterValidator(_certificate)], ...], at_least(1)] | None = None
    subject: Text | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """Exactly one way to name the signer, whole, and never everybody."""
        kinds = [key for key in ("key", "authorities") if key in raw]
        if kinds:
            others = {"key": {"unlogged"}, "authorities": {"subject"}}[kinds[0]]
            for key in sorted(raw.keys() & cls.model_fields.keys() - others - {kinds[0]}):
                yield (key,), f"give {kinds[0]} or {key}, not both"
            if kinds[0] == "authorities" and "subject" not in raw:
                yield ("subject",), _REQUIRED
            return
        if "issuer" not in raw:
            yield ("issuer",), _REQUIRED
        if "unlogged" in raw:
            yield ("unlogged",), "only the signatures of a key can be accepted without a log"
        if "subject" in raw:
            yield ("subject",), "it is a name under authorities, and there are none"
        yield from exactly_one(raw, "identity", "identity_pattern")
        pattern = raw.get("identity_pattern")
        fault = identity_pattern_fault(pattern) if isinstance(pattern, str) else None
        if fault is not None:
            yield ("identity_pattern",), f"{fault}, got {shown(pattern)}"

    @property
    def is_logged(self) -> bool:
        """Whether only signatures that a transparency log has count."""
        return self.authorities is None and self.unlogged is None

    def to_trust_rule(self) -> "TrustSigner":
        """Return the signer as the gate's trust rules have it."""
        import base64

        from millcert.provenance.public_key import parse_base64_key
        from millcert.provenance.trust import AuthorityRule, KeyRule, SignerRule

        if self.key is not None:
            return KeyRule(parse_base64_key(self.key), self.unlogged is not None)
        if self.authorities is not None:
            return AuthorityRule(tuple(base64.b64decode(one) for one in self.authorities), self.subject or "")
        return SignerRule(self.issuer or "", self.identity, self.identity_pattern)

    def __str__(self) -> str:
        if self.key is not None:
            logged = "logged or not" if self.unlogged else "logged"
            return f"the {self.to_trust_rule()} ({logged})"
        if self.authorities is not None:
            return f'a certificate of "{self.subject}" under an authority of the policy (never logged)'
        if self.identity is not None:
            return f"{self.identity} (vouched for by {self.issuer})"
        return f'an identity that matches all of "{self.identity_pattern}" (vouched for by {self.issuer})'


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, (Mapping, Signer)) else value


Signers: TypeAlias = Annotated[
    tuple[Signer, ...],
    at_least(1),
    BeforeValidator(_one_or_many, json_schema_input_type=Signer | Annotated[list[Signer], Field(min_length=1)]),
]


def _text_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


PqKey: TypeAlias = Annotated[Text, AfterValidator(_pq_key)]
PqKeys: TypeAlias = Annotated[
    tuple[PqKey, ...],
    at_least(1),
    BeforeValidator(_text_or_many, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
]


class Attestation(Section):
    """An attestation that a source must have: `type` a short name or a predicate type, `bundle` where it is."""

    type: Text
    bundle: RootPath
    signed_by: Signers
    builder: Text | None = None
    verifier: Text | None = None
    levels: Annotated[tuple[Text, ...], at_least(1)] | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """A demand is one that the type of attestation can meet."""
        predicate = _PREDICATES.get(str(raw.get("type")), raw.get("type"))
        if "builder" in raw and predicate != _PREDICATES["slsa_provenance"]:
            yield ("builder",), "only slsa_provenance names one"
        for key in ("verifier", "levels"):
            if key in raw and predicate != _PREDICATES["slsa_verification_summary"]:
                yield (key,), "only slsa_verification_summary has this"

    @property
    def predicate_type(self) -> str:
        """The predicate type that the attestation must have."""
        return _PREDICATES.get(self.type, self.type)


class SourceRule(Section):
    """Who vouches for the files below a path: a signer, or by explicit acceptance nobody."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=128), PRINTABLE]
    path: Annotated[Text, AfterValidator(_pattern)]
    signed_by: Signers | None = None
    form: Literal["manifest", "model_signing", "checksums", "bagit", "croissant"] | None = None
    manifest: RootPath | None = None
    bundle: RootPath | None = None
    unsigned: Literal["accept_as_unknown"] | None = None
    tier: Literal["high", "standard"] | None = None
    expires: Annotated[Text, AfterValidator(_day)] | None = None
    min_age_days: Count | None = None
    licenses: Annotated[tuple[Annotated[Text, AfterValidator(_license)], ...], at_least(1)] | None = None
    attestations: Annotated[tuple[Attestation, ...], at_least(1)] | None = None
    on_signer_change: Literal["report", "reject"] | None = None
    require_pq: PqKeys | None = None
    digests: Annotated[tuple[Literal["sha256", "sha384", "sha512", "blake3"], ...], at_least(1)] | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """Signed or knowingly unsigned; what only a signed source has, and what the tier does not allow."""
        yield from exactly_one(raw, "signed_by", "unsigned")
        if "unsigned" in raw and "signed_by" not in raw:
            for key in (
                "manifest",
                "bundle",
                "form",
                "min_age_days",
                "licenses",
                "attestations",
                "require_pq",
                "digests",
            ):
                if raw.get(key) is not None:
                    yield (key,), "only a signed source has one; name its signer under signed_by"
        if raw.get("form") == "model_signing" and raw.get("manifest") is not None:
            yield ("manifest",), "a model signature is list and bundle in one; name it under bundle"
        if raw.get("licenses") is not None and raw.get("form") != "croissant":
            yield ("licenses",), "only a source of form croissant states its licence"
        digests = raw.get("digests")
        if isinstance(digests, (list, tuple)) and digests and raw.get("form") in (None, "manifest"):
            if "sha256" not in digests:
                yield ("digests",), "our own manifest lists SHA-256 digests, so they must be among these"
            elif len(digests) > 1:
                yield ("digests",), "our own manifest lists SHA-256 digests only; name the form that has the others"
        if raw.get("tier") == "high":
            yield from _tier_faults(raw)

    @property
    def is_signed(self) -> bool:
        """Whether the rule demands a signature."""
        return self.signed_by is not None

    def matches(self, path: str) -> bool:
        """Tell whether the rule speaks for a file; `path` is POSIX, relative to the data set's root."""
        return path_matches(self.path, path)

    def to_trust_rule(self, now: datetime) -> "TrustRule":
        """Return the rule as the gate acts on it.

        Args:
            now: when the run began, with a time zone; a snapshot's least age counts back from it.
        """
        from millcert.provenance.pq_signature import parse_base64_pq_key
        from millcert.provenance.trust import AttestationRule
        from millcert.provenance.trust import SourceRule as TrustRule

        return TrustRule(
            name=self.name,
            path_pattern=self.path,
            signed_by=None if self.signed_by is None else tuple(one.to_trust_rule() for one in self.signed_by),
            unsigned_accepted=self.unsigned is not None,
            manifest=self.manifest or "",
            bundle=self.bundle or "",
            form=self.form or "manifest",
            attestations=tuple(
                AttestationRule(
                    one.predicate_type,
                    one.bundle,
                    tuple(signer.to_trust_rule() for signer in one.signed_by),
                    one.builder or "",
                    one.verifier or "",
                    one.levels or (),
                )
                for one in self.attestations or ()
            ),
            expires=None if self.expires is None else date.fromisoformat(self.expires),
            signed_before=None if self.min_age_days is None else now - timedelta(days=self.min_age_days),
            licenses=self.licenses,
            tier=self.tier or "standard",
            pq_keys=tuple(parse_base64_pq_key(one) for one in self.require_pq or ()),
            digests=self.digests or ("sha256",),
        )


def exactly_one(raw: Mapping[str, Any], first: str, second: str) -> Iterator[Fault]:
    """Yield a fault unless exactly one of two keys is given."""
    given = [key for key in (first, second) if raw.get(key) is not None]
    if len(given) == 2:
        yield (second,), f"give {first} or {second}, not both"
    elif not given and not (first in raw or second in raw):
        yield (), f"give {first} or {second}; neither is there"


def _tier_faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    if raw.get("unsigned") is not None:
        yield ("unsigned",), "a source of tier high is never unsigned"
    signers = _one_or_many(raw.get("signed_by"))
    for position, signer in enumerate(signers if isinstance(signers, (list, tuple)) else ()):
        given = signer.model_dump(exclude_none=True) if isinstance(signer, Signer) else signer
        if not isinstance(given, Mapping):
            continue
        for key in ("identity_pattern", "unlogged", "authorities"):
            if key in given:
                yield ("signed_by", position, key), "a source of tier high asks for one logged identity or key"
