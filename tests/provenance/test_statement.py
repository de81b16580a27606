"""Statements say one thing about one subject, and nothing that their reader does not know."""

import copy
import json
from typing import Any

import pytest

from millcert.errors import SignatureError, UsageError
from millcert.provenance.statement import (
    ADMITTED_LEVEL,
    CHECKS_PREDICATE_TYPE,
    PASSED,
    STATEMENT_TYPE,
    VSA_PREDICATE_TYPE,
    DatasetChecks,
    Statement,
    Subject,
    VerificationSummary,
    parse_dataset_checks,
    parse_statement,
    parse_verification_summary,
    resource_uri_of,
)

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
SUMMARY = VerificationSummary(
    verifier_version="0.1.0",
    time_verified="2026-11-23T02:38:55Z",
    resource_uri=resource_uri_of("pets and more"),
    policy_sha256=A,
    input_sha256=(B,),
    result=PASSED,
    levels=(ADMITTED_LEVEL,),
)
CHECKS = DatasetChecks({"decision": "admitted"}, A, C, "0.1.0", B, C)
STATEMENT = Statement(Subject("pets", C), VSA_PREDICATE_TYPE, SUMMARY.to_predicate())


def test_a_statement_has_the_fields_of_in_toto() -> None:
    value = json.loads(STATEMENT.to_json())

    assert value["_type"] == STATEMENT_TYPE == "https://in-toto.io/Statement/v1"
    assert value["subject"] == [{"name": "pets", "digest": {"sha256": C}}]
    assert value["predicateType"] == "https://slsa.dev/verification_summary/v1"


def test_a_summary_has_the_fields_of_slsa() -> None:
    """SLSA verification summary v1: the fields that it requires, and levels that do not start with SLSA_."""
    predicate = SUMMARY.to_predicate()

    required = {"verifier", "timeVerified", "resourceUri", "policy", "verificationResult", "verifiedLevels"}
    assert required <= predicate.keys()
    assert predicate["verifier"]["id"] == "urn:millcert:gate:v1"
    assert predicate["policy"]["digest"] == {"sha256": A}
    assert predicate["inputAttestations"][0]["digest"] == {"sha256": B}
    assert predicate["resourceUri"] == "urn:millcert:dataset:pets%20and%20more"
    assert not any(level.startswith("SLSA_") for level in predicate["verifiedLevels"])


def test_what_is_written_is_read_back() -> None:
    assert parse_statement(STATEMENT.to_json(), predicate_type=VSA_PREDICATE_TYPE) == STATEMENT
    assert parse_verification_summary(SUMMARY.to_predicate()) == SUMMARY
    assert parse_dataset_checks(CHECKS.to_predicate()) == CHECKS
    without_root = DatasetChecks({}, A, None, "0.1.0", B, C)
    assert parse_dataset_checks(without_root.to_predicate()) == without_root


def test_a_statement_of_another_type_is_not_the_one_that_is_asked_for() -> None:
    with pytest.raises(SignatureError, match="predicate type"):
        parse_statement(STATEMENT.to_json(), predicate_type=CHECKS_PREDICATE_TYPE)


def changed(value: dict[str, Any], path: tuple[Any, ...], new: object) -> dict[str, Any]:
    """Return a copy with the value at `path` replaced, or taken away where `new` is None."""
    result = copy.deepcopy(value)
    target: Any = result
    for key in path[:-1]:
        target = target[key]
    if new is None:
        del target[path[-1]]
    else:
        target[path[-1]] = new
    return result


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("_type",), None),
        (("extra",), 1),
        (("subject",), []),
        (("subject",), ["pets"]),
        (("subject",), [{"name": "a", "digest": {"sha256": C}}] * 2),
        (("subject", 0, "name"), None),
        (("subject", 0, "name"), 1),
        (("subject", 0, "uri"), "x"),
        (("subject", 0, "digest"), {}),
        (("subject", 0, "digest"), {"sha512": C}),
        (("subject", 0, "digest"), {"sha256": C, "sha512": C}),
        (("subject", 0, "digest", "sha256"), "CC" * 32),
        (("subject", 0, "digest", "sha256"), "cc"),
        (("predicate",), []),
    ],
)
def test_a_statement_that_is_malformed_is_refused(path: tuple[Any, ...], new: object) -> None:
    value = changed(json.loads(STATEMENT.to_json()), path, new)

    with pytest.raises(SignatureError):
        parse_statement(json.dumps(value).encode(), predicate_type=VSA_PREDICATE_TYPE)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("verifier",), None),
        (("verifier", "id"), "urn:other"),
        (("verifier", "version"), {"other": "1"}),
        (("timeVerified",), "yesterday"),
        (("verificationResult",), "passed"),
        (("verifiedLevels",), [1]),
        (("policy",), "x"),
        (("policy", "digest"), None),
        (("policy", "digest"), "x"),
        (("policy", "digest", "sha256"), "x"),
        (("inputAttestations",), ["x"]),
        (("inputAttestations",), None),
        (("unknown",), 1),
    ],
)
def test_a_summary_that_is_malformed_is_refused(path: tuple[Any, ...], new: object) -> None:
    with pytest.raises(SignatureError):
        parse_verification_summary(changed(SUMMARY.to_predicate(), path, new))


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("verdict",), None),
        (("verdict",), []),
        (("inputRoot",), "x"),
        (("outputRoot",), None),
        (("policyDigest",), {"sha256": "x"}),
        (("policyDigest",), {"md5": A}),
        (("trustedRootDigest",), "x"),
        (("trustedRootDigest",), {"sha256": 1}),
        (("codeVersion",), 1),
        (("unknown",), 1),
    ],
)
def test_checks_that_are_malformed_are_refused(path: tuple[Any, ...], new: object) -> None:
    with pytest.raises(SignatureError):
        parse_dataset_checks(changed(CHECKS.to_predicate(), path, new))


def test_a_subject_needs_a_sha256() -> None:
    with pytest.raises(UsageError, match="SHA-256"):
        Subject("pets", "x")


def test_a_predicate_without_canonical_form_is_not_stated() -> None:
    with pytest.raises(UsageError, match="canonical"):
        Statement(Subject("pets", C), CHECKS_PREDICATE_TYPE, {"a": float("nan")}).to_json()
