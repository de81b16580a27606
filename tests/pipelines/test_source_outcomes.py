"""`policy explain --verify`: the gate's own answer for each source, with the reason, before a run is paid for."""

import json
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.pipelines.source_outcomes import SourceOutcome, source_outcomes
from millcert.policy import load_policy


def outcomes(bench: Any) -> dict[str, SourceOutcome]:
    return {one.source: one for one in source_outcomes(load_policy(written(bench)), str(bench.data))}


def written(bench: Any) -> Path:
    path: Path = bench.save_policy()
    return path


def test_a_source_that_passes_says_who_signed_it_and_when(bench: Any) -> None:
    found = outcomes(bench)["north"]
    assert (found.status, found.code) == ("passed", "")
    assert "data@north.example by https://issuer.example signed at 20" in found.why


def test_each_refusal_is_told_for_its_source_and_the_others_still_pass(bench: Any) -> None:
    data = bench.data / "north"
    victim = next(path for path in sorted(data.iterdir()) if "manifest" not in path.name)
    whole = victim.read_bytes()
    victim.write_bytes(whole + b"x")
    found = outcomes(bench)
    assert (found["north"].status, found["north"].code) == ("refused", "integrity.digest_mismatch")
    assert victim.name in found["north"].why
    assert found["south"].status == "passed"
    victim.write_bytes(whole)
    (data / "millcert-manifest.json.sigstore.json").unlink()
    assert "no signature" in outcomes(bench)["north"].why


def test_an_unsigned_source_is_called_unknown(bench: Any) -> None:
    rule = bench.policy["sources"][0]
    del rule["signed_by"]
    rule["unsigned"] = "accept_as_unknown"
    (bench.data / "north" / "millcert-manifest.json.sigstore.json").unlink()
    assert outcomes(bench)["north"].status == "unknown"


def test_what_refuses_the_data_set_before_any_signature_is_told(bench: Any) -> None:
    bench.policy["sources"][0]["expires"] = "2020-01-31"
    found = outcomes(bench)
    assert (found["north"].status, found["south"].status) == ("refused", "not_reached")
    assert "expired" in found["north"].why
    del bench.policy["sources"][0]["expires"]
    (bench.data / "stray.jsonl").write_text("{}\n")
    found = outcomes(bench)
    assert {one.status for one in found.values()} == {"not_reached"}
    assert "stray.jsonl" in found["north"].why


def test_the_command_says_why_and_exits_3_where_a_source_is_refused(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = str(written(bench))
    assert main(["policy", "explain", policy, str(bench.data), "--verify"]) == 0
    assert "  passed      north: Its " in capsys.readouterr().out
    (bench.data / "north" / "millcert-manifest.json").write_text("{}")
    assert main(["policy", "explain", policy, str(bench.data), "--verify", "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert [one["status"] for one in answer["verification"]] == ["refused", "passed"]
    assert main(["policy", "explain", policy, "--verify"]) == 2
    assert main(["policy", "explain", policy, "north/x.parquet", "--verify"]) == 2


def test_a_clones_own_folders_are_no_data_to_owner_and_gate_alike(bench: Any) -> None:
    from millcert.provenance.digest import hash_folder

    before = hash_folder(bench.data)
    for name in (".git", "north/.cache"):
        (bench.data / name).mkdir()
        (bench.data / name / "config").write_text("x")
    assert hash_folder(bench.data) == before
    assert {one.status for one in outcomes(bench).values()} == {"passed"}
