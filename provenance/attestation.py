"""Attestations of others, read: in-toto Statement v1 in a verified envelope, with SLSA provenance or a VSA (both v1).

The proof, step by step; each block below repeats its number:
  1. The envelope verifies, by a trusted signer (provenance/bundle.py).
  2. Its payload is of the in-toto type, and a statement of version 1. A statement of no or another version is refused:
     what an unknown version means nobody here knows.
  3. One of its subjects has the SHA-256 that the caller holds, and, where the caller asks for a name, that very name.
     A digest alone does not say which file it is of.
  4. Its predicate is of the type that the caller expects, and says what the caller asks for: who built, or who
     verified with which result and levels.
Fields that are not known are passed over, as the framework asks of readers; what our own gate writes is read strictly
elsewhere (provenance/statement.py).

Source: in-toto attestation framework v1, statement and "parsing rules"; SLSA v1 provenance and verification summary.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from millcert.errors import PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.dsse import IN_TOTO_PAYLOAD_TYPE
from millcert.provenance.statement import PASSED, STATEMENT_TYPE, VSA_PREDICATE_TYPE
from millcert.provenance.strict_json import parse_json_object
from millcert.provenance.trust_root import TrustRoot
from millcert.provenance.trust_signers import Signer, VerifiedSignature

PROVENANCE_PREDICATE_TYPE = "https://slsa.dev/provenance/v1"

#: Bound on a statement; it may list every file of a data set.
MAX_STATEMENT_BYTES = 48 * 1024 * 1024
_MAX_SUBJECTS = 1_000_000
_HEX = re.compile(r"[0-9a-f]{2,256}")


@dataclass(frozen=True)
class AttestedSubject:
    """One thing that a statement is about. digest: algorithm -> lower-case hex."""

    name: str
    digest: Mapping[str, str]


@dataclass(frozen=True)
class Attestation:
    """A statement that a trusted signer signed.

    subjects: all of them; at least one.
    predicate: JSON values, not looked at beyond being an object.
    """

    subjects: tuple[AttestedSubject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]
    signature: VerifiedSignature


@dataclass(frozen=True)
class AttestationRule:
    """An attestation that a source must have.

    predicate_type: what it claims, compared exactly.
    bundle: where it is, relative to the data set's root.
    signed_by: who may have signed it, any one of several.
    builder: `runDetails.builder.id` that SLSA provenance must name; "" where any will do.
    verifier: `verifier.id` that a VSA must name; "" where any will do.
    levels: `verifiedLevels` that a VSA must have, all of them.

    Raises:
        PolicyError: nobody may sign, or a demand does not fit the predicate type.
    """

    predicate_type: str
    bundle: str
    signed_by: tuple[Signer, ...]
    builder: str = ""
    verifier: str = ""
    levels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.signed_by or not self.predicate_type or not self.bundle:
            raise PolicyError("An attestation needs a predicate type, a place and a signer.")
        if self.builder and self.predicate_type != PROVENANCE_PREDICATE_TYPE:
            raise PolicyError(f"Only {PROVENANCE_PREDICATE_TYPE} names a builder, not {self.predicate_type}.")
        if (self.verifier or self.levels) and self.predicate_type != VSA_PREDICATE_TYPE:
            raise PolicyError(f"Only {VSA_PREDICATE_TYPE} names a verifier and levels, not {self.predicate_type}.")


def verify_attestation(
    bundle: bytes,
    sha256: Sequence[str] | str,
    *,
    root: TrustRoot | None,
    identity: Signer | Sequence[Signer],
    name: str | None = None,
) -> Attestation:
    """Verify a bundle with an in-toto statement about something.

    Args:
        bundle: Sigstore bundle with a DSSE envelope.
        sha256: what it must be about; of several digests any one, 64 lower-case hex digits each.
        root: the pinned trusted root.
        identity: who may have signed; any one of several.
        name: what the subject with that digest must be called; None where the digest is enough.

    Raises:
        UntrustedSourceError: somebody else signed.
        SignatureError: a step fails; `reason` is "payload_type", "statement" or "subject" besides those of a bundle.
    """
    from millcert.provenance.bundle import verify_envelope  # loads sigstore

    # Step 1.
    envelope = verify_envelope(bundle, root=root, identity=identity)
    # Step 2.
    if envelope.payload_type != IN_TOTO_PAYLOAD_TYPE:
        _refuse("payload_type", f"The envelope holds {envelope.payload_type!r:.100}, expected an in-toto statement.")
    subjects, predicate_type, predicate = read_statement(envelope.payload)
    # Step 3.
    wanted = {sha256} if isinstance(sha256, str) else set(sha256)
    if not any(one.digest.get("sha256") in wanted and name in {None, one.name} for one in subjects):
        called = "" if name is None else f" called {name!r:.200}"
        _refuse(
            "subject", f"The statement is about other things: it has no subject{called} with the SHA-256 asked for."
        )
    return Attestation(subjects, predicate_type, predicate, envelope.signature)


def read_statement(payload: bytes) -> tuple[tuple[AttestedSubject, ...], str, Mapping[str, Any]]:
    """Return subjects, predicate type and predicate of an in-toto statement of version 1 (step 2); verifies nothing.

    Raises:
        SignatureError: anything else; `reason` is "statement".
    """
    try:
        value = parse_json_object(
            payload, what="in-toto statement", max_bytes=MAX_STATEMENT_BYTES, error=SignatureError
        )
    except SignatureError as error:
        raise SignatureError(error.message, hint=error.hint, reason="statement") from error
    if value.get("_type") != STATEMENT_TYPE:
        _refuse("statement", f"The statement is of type {value.get('_type')!r:.100}, expected {STATEMENT_TYPE}.")
    subjects, predicate_type = value.get("subject"), value.get("predicateType")
    predicate = value.get("predicate", {})
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= _MAX_SUBJECTS:
        _refuse("statement", "The statement must have subjects.")
    if not isinstance(predicate_type, str) or not predicate_type or not isinstance(predicate, dict):
        _refuse("statement", "The statement has no predicate type, or its predicate is no object.")
    return tuple(_subject(one, index) for index, one in enumerate(subjects)), predicate_type, predicate


def check_attestation(attestation: Attestation, rule: AttestationRule) -> None:
    """Refuse an attestation that does not say what a rule asks for (step 4).

    Raises:
        SignatureError: another predicate type, or the predicate is malformed; `reason` is "predicate".
        UntrustedSourceError: another builder or verifier, a result other than PASSED, or a level is missing; `reason`
            is "attestation".
    """
    # Step 4.
    if attestation.predicate_type != rule.predicate_type:
        _refuse("predicate", f"The attestation is {attestation.predicate_type!r:.200}, expected {rule.predicate_type}.")
    if rule.predicate_type == PROVENANCE_PREDICATE_TYPE:
        _require("builder", provenance_builder(attestation.predicate), rule.builder)
    elif rule.predicate_type == VSA_PREDICATE_TYPE:
        verifier, result, levels = verification_summary(attestation.predicate)
        _require("verifier", verifier, rule.verifier)
        _require("result", result, PASSED)
        missing = sorted(set(rule.levels) - set(levels))
        if missing:
            _untrusted(f"The verification summary lacks the levels {', '.join(missing)}.")


def provenance_builder(predicate: Mapping[str, Any]) -> str:
    """Return who built, by SLSA provenance v1.

    Raises:
        SignatureError: a field that the format requires is missing; `reason` is "predicate".
    """
    definition = _object(predicate, "buildDefinition")
    _text(definition, "buildType")
    _object(definition, "externalParameters")
    return _text(_object(_object(predicate, "runDetails"), "builder"), "id")


def verification_summary(predicate: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """Return verifier, result and levels of a VSA v1; a result other than PASSED is read, not refused.

    Raises:
        SignatureError: a field that the format requires is missing; `reason` is "predicate".
    """
    verifier = _text(_object(predicate, "verifier"), "id")
    for required in ("timeVerified", "resourceUri"):
        _text(predicate, required)
    _text(_object(predicate, "policy"), "uri")
    levels = predicate.get("verifiedLevels")
    if not isinstance(levels, list) or not all(isinstance(level, str) for level in levels):
        _refuse("predicate", "The attestation's predicate has no list of texts 'verifiedLevels'.")
    return verifier, _text(predicate, "verificationResult"), tuple(levels)


def _subject(value: object, index: int) -> AttestedSubject:
    if not isinstance(value, dict):
        _refuse("statement", f"The statement's subject {index} is no object.")
    name, digest = value.get("name", ""), value.get("digest")
    if not isinstance(name, str) or not isinstance(digest, dict) or not digest:
        _refuse("statement", f"The statement's subject {index} has no digest, or a name that is no text.")
    for algorithm, text in digest.items():
        if not isinstance(text, str) or (algorithm.startswith("sha") and not _HEX.fullmatch(text)):
            _refuse("statement", f"The statement's subject {index} has a {algorithm[:40]!r} digest that is no hex.")
    return AttestedSubject(name, digest)


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict):
        _refuse("predicate", f"The attestation's predicate has no object {key!r}.")
    return found


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found:
        _refuse("predicate", f"The attestation's predicate has no text {key!r}.")
    return found


def _require(what: str, found: str, wanted: str) -> None:
    if wanted and found != wanted:
        _untrusted(f"The attestation's {what} is {found[:200]!r}, the policy asks for {wanted!r}.")


def _untrusted(message: str) -> NoReturn:
    raise UntrustedSourceError(
        message, hint="Ask the owner for the attestation that the policy asks for.", reason="attestation"
    )


def _refuse(reason: str, message: str) -> NoReturn:
    raise SignatureError(message, hint="See docs/formats/attestation.md for what is read.", reason=reason)
