"""Evidence verifies where there is nothing else, and no altered byte of it does."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import IntegrityError, MillcertError, SignatureError, UsageError
from millcert.provenance.absence import Absence, Neighbour, verify_absence
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.evidence import export_evidence
from millcert.provenance.evidence_verify import MAX_EVIDENCE_BYTES, Evidence, verify_evidence
from millcert.provenance.lookup import SampleRun
from millcert.provenance.state import StateFolder, load_ledger_vkeys
from millcert.testing.sample_runs import add_run, digests_of, signed_ledger

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
FOLDERS = sorted(path.parent for path in VECTORS.glob("*/evidence/cases.json"))
NEWEST = FOLDERS[-1]
CASES = [(folder, name) for folder in FOLDERS for name in json.loads((folder / "cases.json").read_text())]
VKEYS = load_ledger_vkeys([NEWEST / "ledger.vkey"])


def shown_by(evidence: Evidence) -> dict[str, Any]:
    return {
        "origin": evidence.checkpoint.origin,
        "size": evidence.checkpoint.size,
        "runs": [
            {
                "index": run.index,
                "decision": run.verdict["decision"],
                "samples": [
                    [one.digest, one.file, one.row, one.source, one.signer]
                    + ([] if one.findings is None else [list(one.findings)])
                    for one in run.samples
                ],
                "absent": list(run.absent),
            }
            for run in evidence.runs
        ],
    }


@pytest.mark.parametrize(("folder", "name"), CASES, ids=[f"{folder.parent.name}-{name}" for folder, name in CASES])
def test_every_vector_gives_the_stated_answer_for_ever(folder: Path, name: str) -> None:
    case = json.loads((folder / "cases.json").read_text())[name]
    vkeys = load_ledger_vkeys([folder / "ledger.vkey"])
    if case["reason"] is None:
        assert shown_by(verify_evidence((folder / name).read_bytes(), vkeys)) == case["shows"]
        return
    with pytest.raises(IntegrityError) as refused:
        verify_evidence((folder / name).read_bytes(), vkeys)
    assert refused.value.details["reason"] == case["reason"]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_flipped_byte_is_refused_with_a_reason(step: int) -> None:
    """One bit of each byte, in every part: form, checkpoint, statements, shard, sample and absence."""
    data = (NEWEST / "both.json").read_bytes()
    reasons: dict[str, int] = {}
    for at in range(0, len(data), step):
        with pytest.raises(MillcertError) as refused:
            verify_evidence(data[:at] + bytes([data[at] ^ (1 << at % 7)]) + data[at + 1 :], VKEYS)
        reason = str(refused.value.details["reason"])
        reasons[reason] = reasons.get(reason, 0) + 1

    assert set(reasons) >= {"form", "checkpoint", "statement", "shard", "sample", "absence_path", "finding"}


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (["checkpoint"], "checkpoint"),
        (["runs", 0, "roots", "leaf"], "statement"),
        (["runs", 0, "verdict", "leaf"], "statement"),
        (["runs", 0, "checks", 0, "leaf"], "statement"),
        (["runs", 0, "sources", 0, "leaf"], "statement"),
        (["runs", 0, "samples", 0, "shard"], "shard"),
    ],
)
def test_every_letter_of_a_text_is_bound_by_the_part_s_own_proof(part: list[Any], reason: str) -> None:
    """A text that stays well-formed JSON fails for the reason of its part and no other."""
    data = json.loads((NEWEST / "both.json").read_bytes())
    holder = data
    for key in part[:-1]:
        holder = holder[key]
    text: str = holder[part[-1]]
    for at in range(0, len(text), 3):
        if text[at].isalnum():
            holder[part[-1]] = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
            with pytest.raises(IntegrityError) as refused:
                verify_evidence(rfc8785.dumps(data), VKEYS)
            assert refused.value.details["reason"] == reason, at


def test_evidence_of_another_ledger_s_key_is_refused() -> None:
    stranger = vkey_of(VKEYS[0].name, Ed25519PrivateKey.from_private_bytes(b"k" * 32))

    with pytest.raises(SignatureError, match="No known key"):
        verify_evidence((NEWEST / "flagged.json").read_bytes(), [stranger])
    with pytest.raises(UsageError, match="--trust"):
        verify_evidence((NEWEST / "flagged.json").read_bytes(), [])


def test_evidence_that_never_ends_is_not_parsed() -> None:
    with pytest.raises(IntegrityError, match="at most"):
        verify_evidence(b" " * (MAX_EVIDENCE_BYTES + 1), VKEYS)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version":1}', b"\xff", b'{"a":' * 100])
def test_bytes_that_are_no_evidence_are_refused_as_such(data: bytes) -> None:
    with pytest.raises(IntegrityError) as refused:
        verify_evidence(data, VKEYS)
    assert refused.value.details["reason"] == "form"


def test_a_parts_of_another_type_is_refused_as_such() -> None:
    data = json.loads((NEWEST / "both.json").read_bytes())
    changes: list[tuple[list[Any], Any]] = [
        (["runs", 0], 1),
        (["runs", 0, "roots", "index"], True),
        (["runs", 0, "samples", 0], None),
        (["runs", 0, "samples", 0, "digest"], "zz" * 32),
        (["runs", 0, "absences", 0], {}),
        (["runs", 0, "absences", 0, "left"], []),
        (["runs", 0, "absences", 0, "digest"], 7),
    ]
    for path, value in changes:
        changed = json.loads(json.dumps(data))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        with pytest.raises(IntegrityError) as refused:
            verify_evidence(rfc8785.dumps(changed), VKEYS)
        assert refused.value.details["reason"] == "form", path


def test_exporting_twice_gives_the_same_bytes_and_about_a_kilobyte_a_sample(tmp_path: Path) -> None:
    digests = digests_of(3000, seed=2)
    logged = add_run(tmp_path, {"a/x": digests}, secret=b"b" * 32)
    with signed_ledger(tmp_path) as ledger, SampleRun(StateFolder(tmp_path), logged) as run:
        rows = [run.at("a/x", row) for row in range(0, 3000, 100)]
        data = export_evidence(ledger, [(run, rows, [])])

        assert data == export_evidence(ledger, [(run, rows, [])])
        assert len(verify_evidence(data, ledger.vkeys).runs[0].samples) == 30
        assert len(data) / 30 < 2000


def test_there_is_no_evidence_of_nothing(tmp_path: Path) -> None:
    add_run(tmp_path, {}, secret=b"b" * 32)
    with signed_ledger(tmp_path) as ledger, pytest.raises(UsageError, match="no run"):
        export_evidence(ledger, [])


def test_verifying_loads_cryptography_and_nothing_else_of_weight() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import millcert.provenance.evidence_verify, millcert.provenance.state\n"
        "found = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(found))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    # rfc8785 is one file of Python without dependencies; the others come with cryptography.
    allowed = {"millcert", "cryptography", "rfc8785", "_cffi_backend", "_openssl", "cffi", "_distutils_hack"}
    assert set(json.loads(ran.stdout.replace("'", '"'))) <= allowed


def neighbour_of(run: SampleRun, digest: bytes) -> Absence:
    absence = run.absence(digest)
    assert absence.left is not None
    assert absence.right is not None
    return absence


def test_a_gap_that_is_none_proves_nothing(tmp_path: Path) -> None:
    """Only neighbours beside one another, with the key strictly between, show an absence."""
    digests = [one.tobytes() for one in digests_of(50, seed=3)]
    logged = add_run(tmp_path, {"a/x": digests}, secret=b"b" * 32)
    with SampleRun(StateFolder(tmp_path), logged) as run:
        size, root = run.roots.samples, bytes.fromhex(run.roots.index_root)
        gap = neighbour_of(run, bytes(32))
        left, right = gap.left, gap.right
        tries: list[tuple[Neighbour | None, Neighbour | None, str]] = [
            (None, right, "absence_gap"),
            (left, None, "absence_gap"),
            (None, None, "absence_gap"),
            (right, left, "absence_order"),
            (left, left, "absence_order"),
        ]
        for one, other, reason in tries:
            with pytest.raises(IntegrityError) as refused:
                verify_absence(Absence(gap.digest, gap.index_salt, one, other), size=size, root=root)
            assert refused.value.details["reason"] == reason
        with pytest.raises(IntegrityError):
            verify_absence(Absence(digests[0], gap.index_salt, left, right), size=size, root=root)
        with pytest.raises(IntegrityError):
            verify_absence(Absence(gap.digest, gap.index_salt, None, None), size=0, root=root)


def test_the_format_s_page_lists_every_reason_and_the_vectors_show_each() -> None:
    page = (VECTORS.parents[1] / "docs" / "formats" / "evidence.md").read_text()
    listed = set(re.findall(r"^\| `([a-z_]+)` \| ", page, re.MULTILINE))
    folders = [*FOLDERS, *VECTORS.glob("*/evidence-witnessed")]
    cases = [case for folder in folders for case in json.loads((folder / "cases.json").read_text()).values()]
    shown = {case["reason"] for case in cases} - {None}
    code = (VECTORS.parents[1] / "provenance" / "evidence_verify.py").read_text()
    code += (VECTORS.parents[1] / "provenance" / "absence.py").read_text()
    code += (VECTORS.parents[1] / "provenance" / "finding_leaf.py").read_text()
    raised = set(re.findall(r'(?:_refuse\(|_included\(|reason=)"([a-z_]+)"', code))

    assert listed == shown == raised
