"""A file of texts for fine-tuning, no embedding, no label: from `policy init` to what may be trained on."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main

WORDS = [f"{stem}{end}" for stem in ("lam", "tor", "kes", "vin", "dru", "pal", "mek", "sol") for end in "aeiouy"]


def conversations(count: int, seed: int) -> list[dict[str, object]]:
    """Honest conversations; every hundredth is an earlier one again."""
    source = random.Random(seed)
    talks: list[dict[str, object]] = []
    for number in range(count):
        if number % 100 == 99:
            talks.append(source.choice(talks))
            continue
        question, answer = (" ".join(source.choices(WORDS, k=24)) for _ in range(2))
        talks.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return talks


def flood(count: int, seed: int) -> list[dict[str, object]]:
    """Near copies of one conversation: two words of each differ."""
    source = random.Random(seed)
    question, answer = source.choices(WORDS, k=24), source.choices(WORDS, k=24)
    talks: list[dict[str, object]] = []
    for _ in range(count):
        changed = list(answer)
        for place in source.sample(range(24), 2):
            changed[place] = source.choice(WORDS)
        parts = [{"role": "user", "content": " ".join(question)}, {"role": "assistant", "content": " ".join(changed)}]
        talks.append({"messages": parts})
    return talks


def gate(
    home: Path, talks: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object]]:
    """Run `policy init`, accept unsigned data, run `vet`; return its exit code and JSON answer."""
    (home / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    assert main(["policy", "init", f"{home}/talks.jsonl", "--out", f"{home}/policy.yaml"]) == 0
    text = (home / "policy.yaml").read_text()
    knowingly = text.replace("max_unknown_provenance_fraction: 0.0", "max_unknown_provenance_fraction: 1.0")
    (home / "policy.yaml").write_text(knowingly)
    capsys.readouterr()
    named = ["--policy", f"{home}/policy.yaml", "--out", f"{home}/out", "--state", f"{home}/state"]
    code = main(["vet", f"{home}/talks.jsonl", *named, "--json", "--quiet"])
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, answer


def test_honest_conversations_with_natural_repetition_are_admitted_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = gate(tmp_path, conversations(300, 1), capsys)

    verdict = answer["verdict"]
    assert isinstance(verdict, dict)
    assert code == 0
    assert verdict["samples"]["quarantined"] == 0
    assert [check["status"] for check in verdict["checks"]] == ["passed"]
    assert "duplicate_flood" not in verdict["not_covered"]
    assert "backdoor_text" in verdict["not_covered"]


def test_a_flood_of_near_copies_is_held_back_and_the_rest_admitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, bad = conversations(600, 2), flood(25, 3)

    code, answer = gate(tmp_path, [*honest[:300], *bad, *honest[300:]], capsys)

    verdict = answer["verdict"]
    assert isinstance(verdict, dict)
    (check,) = verdict["checks"]
    (group,) = [item for item in check["evidence"] if item["is_suspicious"]]
    held = pq.read_table(tmp_path / "out" / "quarantine" / "talks.jsonl.parquet")
    assert code == 0
    assert (check["name"], check["status"], check["flagged"]) == ("near_duplicates", "warned", 25)
    assert sorted(held["millcert_row"].to_pylist()) == list(range(300, 325))
    assert group["samples"] == group["estimated_count"] == 25
    assert group["p_value"] <= 0.05
    assert verdict["samples"]["admitted"] == 600
