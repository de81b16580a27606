"""in-toto statements: who or what a signed claim is about, and the two claims that a certificate makes.

 - `VerificationSummary`: SLSA's verification summary (VSA) v1, the gate's yes, for tools that know nothing of millcert.
 - `DatasetChecks`: what the gate looked at and found, for those who want to know why.

Source: in-toto attestation framework, Statement v1; SLSA v1 verification summary. Stricter here than the framework
asks: fields that are not known are refused, because a reader that skips what it does not know cannot fail closed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from millcert.errors import SignatureError, UsageError
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields
from millcert.provenance.timestamp import is_timestamp

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
VSA_PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
CHECKS_PREDICATE_TYPE = "urn:millcert:predicate:dataset-checks:v1"

#: Who says so, in a VSA. The key says which gate it was.
VERIFIER_ID = "urn:millcert:gate:v1"

#: The level that an admitted data set has. SLSA: custom levels are allowed and must not start with SLSA_.
ADMITTED_LEVEL = "MILLCERT_DATASET_ADMITTED"

PASSED = "PASSED"
FAILED = "FAILED"

#: Bound on a statement. Our choice: as an envelope, less its base64.
MAX_STATEMENT_BYTES = 48 * 1024 * 1024

_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Subject:
    """What a statement is about: a data set by name and manifest root.

    name: for people; the digest is what counts.
    sha256: 64 lower-case hex digits.
    """

    name: str
    sha256: str

    def __post_init__(self) -> None:
        _require_sha256(self.sha256, "subject's digest", UsageError)


@dataclass(frozen=True)
class Statement:
    """A claim of one type about one subject. predicate: JSON values."""

    subject: Subject
    predicate_type: str
    predicate: Mapping[str, Any]

    def to_json(self) -> bytes:
        """Return the canonical JSON (RFC 8785) of the statement: a DSSE payload.

        Raises:
            UsageError: the predicate has no canonical JSON form.
        """
        value = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.subject.name, "digest": {"sha256": self.subject.sha256}}],
            "predicateType": self.predicate_type,
            "predicate": dict(self.predicate),
        }
        return canonical_json(value, what="in-toto statement")


@dataclass(frozen=True)
class VerificationSummary:
    """SLSA verification summary v1, as far as a data set has one.

    verifier_version: of millcert's code.
    time_verified: RFC 3339 in UTC.
    resource_uri: names the data set; see `resource_uri_of`.
    policy_sha256: digest of the policy that was applied.
    input_sha256: digests of what was judged: the manifest root of the input, hex.
    result: PASSED or FAILED.
    levels: SLSA's `verifiedLevels`.
    """

    verifier_version: str
    time_verified: str
    resource_uri: str
    policy_sha256: str
    input_sha256: tuple[str, ...]
    result: str
    levels: tuple[str, ...]

    def to_predicate(self) -> dict[str, Any]:
        """Return the predicate as JSON values."""
        return {
            "verifier": {"id": VERIFIER_ID, "version": {"millcert": self.verifier_version}},
            "timeVerified": self.time_verified,
            "resourceUri": self.resource_uri,
            "policy": {
                "uri": f"urn:millcert:policy:{self.policy_sha256}",
                "digest": {"sha256": self.policy_sha256},
            },
            "inputAttestations": [
                {"uri": f"urn:millcert:manifest:{digest}", "digest": {"sha256": digest}} for digest in self.input_sha256
            ],
            "verificationResult": self.result,
            "verifiedLevels": list(self.levels),
            "slsaVersion": "1.1",
        }


@dataclass(frozen=True)
class DatasetChecks:
    """Predicate `urn:millcert:predicate:dataset-checks:v1`: what the gate looked at and found.

    verdict: the gate's verdict, any JSON object.
    policy_sha256: digest of the policy.
    trusted_root_sha256: digest of the Sigstore trusted root; None if no source was verified with one.
    code_version: of millcert.
    input_root, output_root: manifest roots of what was read and of what was admitted, hex.
    """

    verdict: Mapping[str, Any]
    policy_sha256: str
    trusted_root_sha256: str | None
    code_version: str
    input_root: str
    output_root: str

    def to_predicate(self) -> dict[str, Any]:
        """Return the predicate as JSON values."""
        return {
            "codeVersion": self.code_version,
            "inputRoot": self.input_root,
            "outputRoot": self.output_root,
            "policyDigest": {"sha256": self.policy_sha256},
            "trustedRootDigest": None if self.trusted_root_sha256 is None else {"sha256": self.trusted_root_sha256},
            "verdict": dict(self.verdict),
        }


def resource_uri_of(name: str) -> str:
    """Return the URI under which a data set is named in a VSA."""
    return f"urn:millcert:dataset:{quote(name, safe='')}"


def parse_statement(payload: bytes, *, predicate_type: str) -> Statement:
    """Read a statement, of the predicate type that the caller expects, about exactly one subject.

    Raises:
        SignatureError: anything else; the class says that a signed claim is not what it is used as.
    """
    value = parse_json_object(payload, what="in-toto statement", max_bytes=MAX_STATEMENT_BYTES, error=SignatureError)
    fields = {"_type": str, "subject": list, "predicateType": str, "predicate": dict}
    require_fields(value, fields, what="in-toto statement", error=SignatureError)
    _require_equal(value["_type"], STATEMENT_TYPE, "statement's type")
    _require_equal(value["predicateType"], predicate_type, "predicate type")
    if len(value["subject"]) != 1 or not isinstance(value["subject"][0], dict):
        raise SignatureError("The in-toto statement must be about exactly one subject.")
    subject = value["subject"][0]
    require_fields(subject, {"name": str, "digest": dict}, what="statement's subject", error=SignatureError)
    digest = _sha256_in(subject["digest"], "subject's digest")
    return Statement(Subject(subject["name"], digest), predicate_type, value["predicate"])


def parse_verification_summary(predicate: Mapping[str, Any]) -> VerificationSummary:
    """Read a VSA predicate that a gate of ours made; a result other than PASSED is read, not refused.

    Raises:
        SignatureError: a field is missing, unknown or malformed.
    """
    what = "verification summary"
    fields = {
        "verifier": dict,
        "timeVerified": str,
        "resourceUri": str,
        "policy": dict,
        "inputAttestations": list,
        "verificationResult": str,
        "verifiedLevels": list,
    }
    require_fields(predicate, fields, what=what, optional={"slsaVersion": str}, error=SignatureError)
    verifier = predicate["verifier"]
    require_fields(verifier, {"id": str, "version": dict}, what=f"{what}'s verifier", error=SignatureError)
    _require_equal(verifier["id"], VERIFIER_ID, "verifier")
    require_fields(verifier["version"], {"millcert": str}, what=f"{what}'s version", error=SignatureError)
    if not is_timestamp(predicate["timeVerified"]):
        raise SignatureError(f"The {what}'s time is not RFC 3339 in UTC: {predicate['timeVerified'][:40]!r}.")
    if predicate["verificationResult"] not in {PASSED, FAILED}:
        raise SignatureError(f"The {what}'s result must be PASSED or FAILED.")
    if not all(isinstance(level, str) for level in predicate["verifiedLevels"]):
        raise SignatureError(f"The {what}'s levels must be texts.")
    return VerificationSummary(
        verifier_version=verifier["version"]["millcert"],
        time_verified=predicate["timeVerified"],
        resource_uri=predicate["resourceUri"],
        policy_sha256=_descriptor(predicate["policy"], f"{what}'s policy"),
        input_sha256=tuple(_descriptor(one, f"{what}'s input") for one in predicate["inputAttestations"]),
        result=predicate["verificationResult"],
        levels=tuple(predicate["verifiedLevels"]),
    )


def parse_dataset_checks(predicate: Mapping[str, Any]) -> DatasetChecks:
    """Read a dataset-checks predicate.

    Raises:
        SignatureError: a field is missing, unknown or malformed.
    """
    what = "dataset-checks predicate"
    fields = {
        "codeVersion": str,
        "inputRoot": str,
        "outputRoot": str,
        "policyDigest": dict,
        "trustedRootDigest": object,
        "verdict": dict,
    }
    require_fields(predicate, fields, what=what, error=SignatureError)
    for name in ("inputRoot", "outputRoot"):
        _require_sha256(predicate[name], f"{what}'s {name}", SignatureError)
    trusted = predicate["trustedRootDigest"]
    return DatasetChecks(
        verdict=predicate["verdict"],
        policy_sha256=_sha256_in(predicate["policyDigest"], f"{what}'s policy digest"),
        trusted_root_sha256=None if trusted is None else _sha256_in(trusted, f"{what}'s trusted root digest"),
        code_version=predicate["codeVersion"],
        input_root=predicate["inputRoot"],
        output_root=predicate["outputRoot"],
    )


def _descriptor(value: object, what: str) -> str:
    if not isinstance(value, dict):
        raise SignatureError(f"The {what} must be an object.")
    require_fields(value, {"uri": str, "digest": dict}, what=what, error=SignatureError)
    return _sha256_in(value["digest"], f"{what}'s digest")


def _sha256_in(value: object, what: str) -> str:
    if not isinstance(value, dict):
        raise SignatureError(f"The {what} must be an object.")
    require_fields(value, {"sha256": str}, what=what, error=SignatureError)
    digest: str = value["sha256"]
    _require_sha256(digest, what, SignatureError)
    return digest


def _require_sha256(text: str, what: str, error: type[SignatureError] | type[UsageError]) -> None:
    if not _HEX64.fullmatch(text):
        raise error(f"The {what} must be a SHA-256 in 64 lower-case hex digits, got {text[:80]!r}.")


def _require_equal(actual: str, expected: str, what: str) -> None:
    if actual != expected:
        raise SignatureError(
            f"The {what} is {actual[:100]!r}, expected {expected!r}.", expected=expected, actual=actual
        )
