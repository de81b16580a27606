"""A source whose signer is not that of its last admitted version: what a takeover looks like from outside."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from millcert.cli.main import main

OLD, NEW = "data@north.example", "newcomer@north.example"


@pytest.fixture
def shared(bench: Any) -> Any:
    """Either of two identities may sign `north`; the policy is right about both."""
    rule = bench.policy["sources"][0]
    issuer = rule["signed_by"]["issuer"]
    rule["signed_by"] = [{"issuer": issuer, "identity": who} for who in (OLD, NEW)]
    return bench


def changes(result: Any) -> dict[str, str]:
    return {source.name: source.signer_change for source in result.verdict.sources}


def test_another_signer_than_that_of_the_last_admitted_version_is_reported(shared: Any) -> None:
    first = shared.vet()
    shared.sign("north", identity=NEW)
    second = shared.vet(replace=True)
    third = shared.vet(replace=True)

    assert (first.verdict.decision, second.verdict.decision, third.verdict.decision) == ("admitted",) * 3
    assert changes(first) == changes(third) == {"north": "", "south": ""}
    by = "by https://issuer.example"
    assert changes(second) == {
        "north": f"Source 'north' was vouched for by {OLD} {by} in its last admitted version, now by {NEW} {by}.",
        "south": "",
    }


def test_a_change_of_signer_rejects_where_the_rule_says_so(shared: Any) -> None:
    shared.policy["sources"][0]["on_signer_change"] = "reject"
    shared.vet()
    shared.sign("north", identity=NEW)
    for _ in range(2):  # a rejected run moves nothing: the next one is rejected, too
        result = shared.vet(replace=True)
        assert result.verdict.exit_code == 1
        assert [reason.code for reason in result.verdict.reasons] == ["source.signer_changed"]
        assert not (shared.out / "admitted").exists()
    shared.sign("north", identity=OLD)
    assert shared.vet(replace=True).verdict.decision == "admitted"


def test_a_signature_that_is_gone_is_a_change_of_signer(shared: Any) -> None:
    shared.vet()
    shared.policy["verdict"]["max_unknown_provenance_fraction"] = 1.0
    shared.policy["sources"][0] = {
        "name": "north",
        "path": "north/**",
        "unsigned": "accept_as_unknown",
        "on_signer_change": "reject",
    }
    for name in ("millcert-manifest.json", "millcert-manifest.json.sigstore.json"):
        (shared.data / "north" / name).unlink()
    result = shared.vet(replace=True)
    assert result.verdict.decision == "rejected"
    assert changes(result)["north"].endswith("now by nobody.")


def test_the_same_ledger_gives_the_same_verdict_whenever_its_runs_were(shared: Any, tmp_path: Path) -> None:
    shared.vet()
    shared.sign("north", identity=NEW)
    shared.policy["verdict"]["max_quarantined_fraction"] = 0.0
    one = shared.vet(replace=True)
    other = tmp_path / "other"
    other.mkdir()
    (shared.top / "state").rename(other / "old")
    shared.sign("north", identity=OLD)
    shared.vet(replace=True)
    shared.sign("north", identity=NEW)
    assert shared.vet(replace=True).verdict.digest == one.verdict.digest


def test_the_change_is_in_the_terminals_text_in_json_and_in_the_report(
    shared: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.vet()
    shared.sign("north", identity=NEW)
    policy = shared.save_policy()
    assert yaml.safe_load(policy.read_text())["sources"][0].get("on_signer_change") is None
    arguments = ["vet", str(shared.data), "--policy", str(policy), "--state", str(shared.top / "state"), "--quiet"]

    assert main([*arguments, "--out", str(shared.top / "text")]) == 0
    text = capsys.readouterr().out
    shared.sign("north", identity=OLD)
    assert main([*arguments, "--out", str(shared.top / "json"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)

    assert f"NOTICE       Source 'north' was vouched for by {OLD}" in text
    (north,) = [source for source in answer["verdict"]["sources"] if source["name"] == "north"]
    assert north["signer_change"].endswith(f"now by {OLD} by https://issuer.example.")
    assert f"now by {NEW}" in (shared.top / "text" / "report.html").read_text()
