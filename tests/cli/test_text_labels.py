"""A JSONL file of texts with labels and no embedding: wrong labels are listed, and nothing is rejected for them."""

import json
import random
from pathlib import Path

import pytest
import yaml

from millcert.cli.main import main

TOPICS = {"sport": ["goal", "match", "team", "coach"], "money": ["bank", "stock", "price", "bond"]}


@pytest.mark.slow
def test_wrong_labels_of_texts_are_listed_by_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = random.Random(4)
    records, wrong = [], set()
    for row in range(400):
        topic = source.choice(sorted(TOPICS))
        words = [source.choice(TOPICS[topic]) if place % 2 else source.choice("abcdefgh") for place in range(14)]
        if row % 20 == 7:
            wrong.add(row)
        label = topic if row not in wrong else ({"sport", "money"} - {topic}).pop()
        records.append({"label": label, "text": " ".join(words)})
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    policy = {
        "version": 1,
        "dataset": {"name": "texts", "columns": {"label": "label", "text": "text"}, "max_malformed_fraction": 0},
        "sources": [{"name": "lab", "path": "**", "unsigned": "accept_as_unknown"}],
        "checks": [
            {"check": "label_noise", "max_flagged_fraction": 0.2, "config": {"view": "text"}, "on_flagged": "report"}
        ],
        "verdict": {"max_quarantined_fraction": 0.5, "max_unknown_provenance_fraction": 1},
        "ledger": {"origin": "test.example/ledger"},
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    named = ["--policy", f"{tmp_path}/policy.yaml", "--out", f"{tmp_path}/out", "--state", f"{tmp_path}/state"]

    code = main(["vet", f"{tmp_path}/texts.jsonl", *named, "--json", "--quiet"])

    answer = json.loads(capsys.readouterr().out)
    assert "verdict" in answer, answer
    (check,) = answer["verdict"]["checks"]
    assert code == 0
    assert check["name"] == "label_noise"
    assert 0.7 * len(wrong) <= check["flagged"] <= 2 * len(wrong)
    assert any(item["top_features"] for item in check["evidence"])
