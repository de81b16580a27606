"""`millcert vet`: what it prints, where, and with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main
from millcert.cli.vet import describe
from millcert.verdict import CheckSummary, ExpectationSummary, Reason, SampleCounts, SourceSummary, Verdict

POLICY = """
version: 1
dataset: {name: small, columns: {label: label, embedding_external: embedding}, max_malformed_fraction: 0}
sources: [{name: lab, path: "**", unsigned: accept_as_unknown}]
checks: [{check: label_noise, max_flagged_fraction: 0.5}]
verdict: {max_quarantined_fraction: 0.5, max_unknown_provenance_fraction: LIMIT}
ledger: {origin: test.example/ledger}
"""
HEX = "ab" * 32


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder with 90 samples and a policy that admits them."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 90)
    embedding = (rng.normal(size=(90, 4)) + 6 * np.eye(4)[label]).astype(np.float32)
    (tmp_path / "data").mkdir()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 4)
    pq.write_table(pa.table({"label": label, "embedding": vectors}), tmp_path / "data" / "a.parquet")
    (tmp_path / "policy.yaml").write_text(POLICY.replace("LIMIT", "1"))
    return tmp_path


def arguments(top: Path, *more: str) -> list[str]:
    named = ["--policy", f"{top}/policy.yaml", "--out", f"{top}/out", "--state", f"{top}/state"]
    return ["vet", f"{top}/data", *named, *more]


def test_an_admitted_data_set_is_exit_0_and_the_last_line_says_what_to_do_next(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(arguments(top))
    answer = capsys.readouterr()

    lines = answer.out.rstrip().splitlines()
    assert code == 0
    assert lines[0] == "admitted  small  90 samples = 90 admitted + 0 quarantined + 0 malformed"
    assert lines[-1] == f"  next: millcert admit {top}/out/admitted --certificate {top}/out/certificate.json"
    assert re.search(r"lab +UNKNOWN +90 samples, 0 flagged; unsigned, accepted by the policy", answer.out)
    assert re.search(r"label_noise +PASSED +0 flagged \(0\.00%, limit 50\.00%\)", answer.out)
    assert (top / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_a_rejected_data_set_is_exit_1_and_one_json_object(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (top / "policy.yaml").write_text(POLICY.replace("LIMIT", "0"))

    code = main(arguments(top, "--json", "--quiet"))
    answer = json.loads(capsys.readouterr().out)

    assert code == answer["exit_code"] == 1
    assert (answer["version"], answer["decision"], answer["certificate"]) == (1, "rejected", None)
    assert answer["verdict"] == json.loads((top / "out" / "verdict.json").read_text())
    assert answer["ledger"]["origin"] == "test.example/ledger"
    assert not (top / "out" / "admitted").exists()


@pytest.mark.parametrize(
    ("change", "exit_code", "words"),
    [
        (["--runner=DaskRunner"], 2, "refused"),
        (["--no_such_option=3"], 2, "Neither millcert nor Beam knows the option --no_such_option"),
        (["--workers", "0"], 2, "--workers"),
        (["absent"], 2, "absent"),
        (["--policy", "absent.yaml"], 2, "absent.yaml"),
    ],
)
def test_a_mistake_is_told_without_a_traceback_and_nothing_is_written(
    top: Path, change: list[str], exit_code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(arguments(top, *change))
    answer = capsys.readouterr()

    assert code == exit_code
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert not (top / "out").exists()


def test_options_without_a_data_set_are_a_usage_error(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["vet", "--runner=FlinkRunner", *arguments(top)[2:]])

    assert code == 2
    assert "No data set was named" in capsys.readouterr().err


def test_data_that_is_broken_is_exit_3_in_json_too(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (top / "data" / "a.parquet").write_bytes(b"PAR1 and then nothing of the kind PAR1")

    code = main(arguments(top, "--json", "--quiet"))
    answer = json.loads(capsys.readouterr().out)

    assert code == answer["error"]["exit_code"] == 3
    assert answer["error"]["code"] == "integrity.hostile_data"
    assert not (top / "out").exists()


GROUP = {"group": "lab/cat", "is_suspicious": True, "estimated_count": 4, "count_low": 2, "count_high": "inf"}
VERDICT = Verdict(
    version=1,
    dataset="small",
    decision="rejected",
    reasons=(Reason("check.over_limit", "too many"),),
    policy_digest=HEX,
    trusted_root_sha256=HEX,
    code_version="millcert/0",
    schema_id=HEX,
    input_root=HEX,
    output_root="",
    files=1,
    size_bytes=1,
    reads=4,
    samples=SampleCounts(1000, 900, 90, 10, 0),
    sources=(SourceSummary("lab", "verified", "a@lab.example", "https://i", "", HEX, 1, 1000, 90, 10),),
    expectations=ExpectationSummary(HEX, False, 3, 1, "warn", ()),
    checks=(
        CheckSummary(
            "odd", "1", HEX, "reject", "failed", 990, 90, 0.0909, 0.05, "quarantine", "reject", "", 1, 1, 4, (GROUP,)
        ),
    ),
    not_covered=("backdoor_clean_label",),
)


def text_of(verdict: Verdict) -> str:
    recorded = SimpleNamespace(origin="test.example/ledger", index=7)
    result: Any = SimpleNamespace(
        verdict=verdict, out="out", recorded=recorded, findings=0, malformed=0, work=(), decided_at=""
    )
    return describe(result)


def test_a_rejection_says_why_who_and_what_to_do() -> None:
    text = text_of(VERDICT)

    assert text.splitlines()[:2] == [
        "rejected  small  1,000 samples = 900 admitted + 90 quarantined + 10 malformed",
        "  reason: too many",
    ]
    assert "signed by a@lab.example" in text
    assert "suspicious: lab/cat, about 4 samples (2 to inf)" in text
    assert re.search(r"expectations +FAILED +3 evaluated, 1 unsuccessful", text)
    assert "not covered: backdoor_clean_label" in text
    assert text.splitlines()[-1] == "  next: open out/report.html, then mend the data or the policy and run again"


@pytest.mark.parametrize("hidden", ["\n", "\r", "\x1b[2J", "\u202e", "\u2028", "\x07"])
def test_no_label_or_name_can_end_a_line_or_command_the_terminal(hidden: str) -> None:
    """Rule: data is hostile: labels and names come from whoever made the files."""
    group = {**GROUP, "group": f"cat{hidden}admitted  small"}
    check = replace(VERDICT.checks[0], evidence=(group,))
    source = replace(VERDICT.sources[0], identity=f"a{hidden}b")

    text = text_of(replace(VERDICT, checks=(check,), sources=(source,)))

    assert len(text.splitlines()) == len(text_of(VERDICT).splitlines())
    assert hidden[0] not in text.replace("\n", "" if hidden != "\n" else "\n") or hidden == "\n"
    assert f"cat\\u{ord(hidden[0]):04x}" in text


@pytest.mark.slow
@pytest.mark.parametrize(("how", "expected"), [("worker", 5), ("interrupt", 130)])
def test_a_run_of_several_processes_ends_when_a_worker_dies_or_the_user_says_so(
    top: Path, how: str, expected: int
) -> None:
    """Rule: a job whose worker died ends with exit 5, because its runner would wait for ever."""
    table = pq.read_table(top / "data" / "a.parquet")
    for number in range(40):
        pq.write_table(pa.concat_tables([table] * 400), top / "data" / f"b{number}.parquet")
    command = [sys.executable, "-m", "millcert", *arguments(top, "--workers", "2", "--quiet")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as job:
        worker = wait_for_worker(job)
        if how == "worker":
            os.kill(worker, signal.SIGKILL)
        else:
            job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=60)  # ends only if no worker is left that holds the pipe open

    assert job.returncode == expected, said
    assert not (top / "out").exists()
    if how == "worker":
        assert "worker processes died" in said


def wait_for_worker(job: "subprocess.Popen[str]") -> int:
    """Return a worker of the job, not the shell that Beam starts it in, once both are there."""
    from threading import Event

    from millcert.pipelines.watchdog import worker_processes

    tick = Event()
    while job.poll() is None:
        found = worker_processes(job.pid)
        below = [worker for shell in found for worker in worker_processes(shell)]
        if len(found) == 2 and below:
            tick.wait(1.5)  # the watchdog looks twice a second; a worker that it never saw cannot be missed
            return below[0]
        tick.wait(0.05)
    raise AssertionError("the job ended before it had workers")


@pytest.mark.parametrize("option", ["--dry-run", "--dry_run"])
def test_a_dry_run_prints_the_graph_and_leaves_no_state(
    top: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    code = main(arguments(top, option))
    text = capsys.readouterr().out
    assert main(arguments(top, option, "--json")) == code == 0
    payload = json.loads(capsys.readouterr().out)

    assert text.startswith("dry run  local  nothing was read, submitted or published\n  data: 1 files, ")
    assert text.rstrip().endswith("next: run the same command without --dry-run")
    assert (payload["runner"], payload["files"], payload["images"]) == ("local", 1, [])
    assert len(payload["fusion_breaks"]) == payload["reads"]
    assert sorted(path.name for path in top.iterdir()) == ["data", "policy.yaml"]
