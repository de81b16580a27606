"""Certificates: one passes, and every way to put another together fails."""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millcert.errors import (
    InclusionError,
    IntegrityError,
    LedgerError,
    ManifestError,
    MillcertError,
    SignatureError,
    UsageError,
)
from millcert.provenance.certificate import Certificate, issue_certificate, verify_certificate
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.dsse import sign_envelope
from millcert.provenance.ledger import Entry, Ledger, open_ledger
from millcert.provenance.ledger_entry import parse_entry
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.statement import FAILED, VSA_PREDICATE_TYPE, Statement, Subject

ORIGIN = "example.com/ledger"
GATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
WHEN = "2026-11-23T02:38:55Z"
POLICY, TRUSTED, INPUT = "aa" * 32, "bb" * 32, "cc" * 32
VERDICT: dict[str, Any] = {"decision": "admitted", "checks": [{"name": "robust_spectral", "flagged": 0}]}


def manifest_of(*names: str, dataset: str = "pets") -> Manifest:
    digest = hashlib.sha256(b"data").hexdigest()
    return Manifest(dataset, tuple(FileEntry(name, 4, digest) for name in names))


MANIFEST = manifest_of("a.csv", "b/c.csv")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.db", origin=ORIGIN, key=LOG, create=True) as opened:
        opened.append([Entry("manifest", INPUT, WHEN, {"root": INPUT})])
        yield opened


def issue(ledger: Ledger, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "manifest": MANIFEST,
        "verdict": VERDICT,
        "policy_digest": POLICY,
        "trusted_root_digest": TRUSTED,
        "input_root": INPUT,
        "code_version": "0.1.0",
        "time_verified": WHEN,
        "key": GATE,
        "ledger": ledger,
    }
    return issue_certificate(**{**arguments, **changes})


def verify(data: bytes) -> Certificate:
    return verify_certificate(data, gate_keys=[GATE.public_key()], ledger_vkeys=[vkey_of(ORIGIN, LOG)])


def edited(data: bytes, *path: Any, value: object) -> bytes:
    whole = json.loads(data)
    target = whole
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return json.dumps(whole).encode()


def test_an_issued_certificate_verifies_and_says_what_was_admitted(ledger: Ledger) -> None:
    certificate = verify(issue(ledger))

    assert certificate.manifest == MANIFEST
    assert certificate.summary.policy_sha256 == POLICY
    assert certificate.checks.verdict == VERDICT
    assert certificate.checks.trusted_root_sha256 == TRUSTED
    assert (certificate.index, certificate.checkpoint.origin) == (1, ORIGIN)


def test_the_leaf_binds_statements_root_and_verdict(ledger: Ledger) -> None:
    whole = json.loads(issue(ledger))

    entry = parse_entry(base64.b64decode(whole["ledger"]["leaf"]))

    assert (entry.kind, entry.subject, entry.recorded_at) == ("certificate", MANIFEST.root, WHEN)
    assert entry == ledger.find(kind="certificate")[0].entry
    verdict = json.dumps(VERDICT, sort_keys=True, separators=(",", ":")).encode()
    assert entry.body["verdict_digest"] == hashlib.sha256(verdict).hexdigest()


def test_a_retry_returns_the_same_bytes_and_logs_nothing_twice(ledger: Ledger) -> None:
    first = issue(ledger)
    ledger.append([Entry("verdict", INPUT, WHEN, {})])

    again = issue(ledger)

    assert again == first
    assert len(ledger.find(kind="certificate")) == 1


def test_a_certificate_without_a_trusted_root_says_so(ledger: Ledger) -> None:
    assert verify(issue(ledger, trusted_root_digest=None)).checks.trusted_root_sha256 is None


@pytest.mark.parametrize("verdict", [{}, {"decision": "rejected"}, {"decision": "inconclusive"}, {"decision": True}])
def test_only_an_admitted_data_set_gets_a_certificate(ledger: Ledger, verdict: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Only an admitted"):
        issue(ledger, verdict=verdict)

    assert ledger.find(kind="certificate") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_digest": "x"},
        {"input_root": "x"},
        {"trusted_root_digest": "x"},
        {"time_verified": "now"},
        {"verdict": {**VERDICT, "score": float("nan")}},
    ],
)
def test_what_could_not_be_verified_is_not_signed_or_logged(ledger: Ledger, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        issue(ledger, **changes)

    assert ledger.find(kind="certificate") == []


def test_a_key_is_never_taken_from_the_certificate(ledger: Ledger) -> None:
    data = issue(ledger)
    forged = issue(ledger, key=STRANGER)

    for gate_keys, vkeys in (([], [vkey_of(ORIGIN, LOG)]), ([GATE.public_key()], [])):
        with pytest.raises(UsageError, match="public keys"):
            verify_certificate(data, gate_keys=gate_keys, ledger_vkeys=vkeys)
    with pytest.raises(SignatureError):
        verify(forged)
    with pytest.raises(SignatureError):
        verify_certificate(data, gate_keys=[GATE.public_key()], ledger_vkeys=[vkey_of(ORIGIN, STRANGER)])
    with pytest.raises(SignatureError):
        verify_certificate(data, gate_keys=[GATE.public_key()], ledger_vkeys=[vkey_of("example.com/other", LOG)])


@pytest.mark.parametrize("part", ["vsa", "checks", "ledger", "manifest"])
def test_parts_of_two_certificates_do_not_make_one(ledger: Ledger, part: str) -> None:
    """Steps 4 to 7: all parts are about one root, and one leaf binds them."""
    one = issue(ledger)
    other = issue(ledger, manifest=manifest_of("a.csv"), input_root="dd" * 32)

    with pytest.raises(IntegrityError):
        verify(edited(one, part, value=json.loads(other)[part]))


OTHER_RUNS: dict[str, dict[str, Any]] = {
    "policy": {"policy_digest": "dd" * 32},
    "input": {"input_root": "dd" * 32},
    "code": {"code_version": "0.2.0"},
    "verdict": {"verdict": {**VERDICT, "more": 1}},
    "time": {"time_verified": "2026-11-24T02:38:55Z"},
}


@pytest.mark.parametrize(
    ("part", "run"),
    [
        *(("vsa", run) for run in ("policy", "input", "code", "time")),
        *(("checks", run) for run in ("policy", "input", "code", "verdict")),
        *(("ledger", run) for run in OTHER_RUNS),
    ],
)
def test_statements_of_two_runs_over_one_data_set_do_not_mix(ledger: Ledger, part: str, run: str) -> None:
    """Steps 5 and 6: a lenient run's yes cannot be put in front of a strict run's findings."""
    one, other = issue(ledger), issue(ledger, **OTHER_RUNS[run])

    with pytest.raises(IntegrityError):
        verify(edited(one, part, value=json.loads(other)[part]))


def resigned(data: bytes, part: str, *path: Any, value: object) -> bytes:
    """The certificate with a statement changed and signed by the very gate key."""
    whole = json.loads(data)
    statement = base64.b64decode(whole[part]["payload"])
    return edited(data, part, value=sign_envelope(edited(statement, *path, value=value), GATE).to_mapping())


@pytest.mark.parametrize(
    ("part", "path", "value", "error"),
    [
        ("vsa", ("predicate", "verificationResult"), FAILED, "not admitted"),
        ("vsa", ("predicate", "resourceUri"), "urn:millcert:dataset:other", "do not agree"),
        ("vsa", ("subject", 0, "name"), "other", "are about"),
        ("checks", ("subject", 0, "digest", "sha256"), "dd" * 32, "are about"),
        ("checks", ("predicate", "verdict", "decision"), "rejected", "not admitted"),
        ("checks", ("predicate", "outputRoot"), "dd" * 32, "do not agree"),
        ("checks", ("predicate", "policyDigest", "sha256"), "dd" * 32, "do not agree"),
        ("checks", ("predicate", "verdict", "big"), 2**60, "malformed"),
        ("checks", ("predicate", "verdict", "more"), 1, "does not bind"),
        ("checks", ("predicateType",), VSA_PREDICATE_TYPE, "predicate type"),
    ],
)
def test_even_the_gate_cannot_sign_a_certificate_that_contradicts_itself(
    ledger: Ledger, part: str, path: tuple[Any, ...], value: object, error: str
) -> None:
    with pytest.raises(IntegrityError, match=error):
        verify(resigned(issue(ledger), part, *path, value=value))


def test_a_statement_that_was_never_logged_does_not_count(ledger: Ledger, tmp_path: Path) -> None:
    with open_ledger(tmp_path / "other.db", origin=ORIGIN, key=STRANGER, create=True) as private:
        private.append([Entry("manifest", INPUT, WHEN, {"root": INPUT})])
        hidden = issue(private)

    with pytest.raises(SignatureError):
        verify(hidden)


def test_a_certificate_of_a_renamed_file_or_data_set_is_refused(ledger: Ledger) -> None:
    data = issue(ledger)
    renamed = manifest_of("a.csv", "b/d.csv")
    other_name = manifest_of("a.csv", "b/c.csv", dataset="dogs")

    for manifest in (renamed, other_name):
        with pytest.raises(SignatureError, match="are about"):
            verify(edited(data, "manifest", value=json.loads(manifest.to_json())))
    with pytest.raises(ManifestError):
        verify(edited(data, "manifest", "name", value="dogs"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("version",), True),
        (("version",), "1"),
        (("extra",), 1),
        (("vsa",), []),
        (("ledger",), {}),
        (("ledger", "key"), "x"),
        (("ledger", "leaf"), "!"),
        (("ledger", "leaf"), "e30="),
        (("ledger", "proof"), ""),
        (("ledger", "proof"), "\u00e9"),
        (("manifest",), {}),
    ],
)
def test_a_malformed_certificate_is_refused(ledger: Ledger, path: tuple[Any, ...], value: object) -> None:
    with pytest.raises(IntegrityError):
        verify(edited(issue(ledger), *path, value=value))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"version":1,"version":1}'])
def test_bytes_that_are_no_certificate_are_refused(data: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(data)


def test_a_leaf_of_another_kind_is_no_certificate(ledger: Ledger) -> None:
    data = issue(ledger)
    entry = parse_entry(base64.b64decode(json.loads(data)["ledger"]["leaf"]))
    other = Entry("verdict", entry.subject, entry.recorded_at, entry.body)
    index = ledger.append([other]).indexes[0]
    forged = edited(data, "ledger", "leaf", value=base64.b64encode(other.leaf()).decode())

    with pytest.raises(InclusionError, match="does not bind"):
        verify(edited(forged, "ledger", "proof", value=ledger.prove(index).decode()))


def test_a_proof_of_another_entry_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        verify(edited(issue(ledger), "ledger", "proof", value=ledger.prove(0).decode()))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused_or_says_the_same(issued: bytes, place: int, bit: int) -> None:
    """No bit of a certificate can be changed so that it verifies and says something else."""
    changed = bytearray(issued)
    changed[place % len(changed)] ^= 1 << bit

    try:
        certificate = verify(bytes(changed))
    except MillcertError:
        return
    assert certificate == verify(issued)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with open_ledger(tmp_path_factory.mktemp("l") / "ledger.db", origin=ORIGIN, key=LOG, create=True) as ledger:
        return issue(ledger)


def test_a_summary_that_stands_alone_verifies_for_tools_that_know_slsa_only(ledger: Ledger) -> None:
    payload = base64.b64decode(json.loads(issue(ledger))["vsa"]["payload"])

    statement = json.loads(payload)

    assert payload == Statement(Subject("pets", MANIFEST.root), VSA_PREDICATE_TYPE, statement["predicate"]).to_json()
    assert statement["predicate"]["verificationResult"] == "PASSED"
