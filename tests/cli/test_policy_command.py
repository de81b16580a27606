"""`millcert policy`: init, check, explain, schema."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import yaml

from millcert.cli.main import main
from millcert.cli.policy import write_new
from millcert.errors import UsageError
from millcert.policy import load_policy
from millcert.policy_template import MAX_SOURCES, guess_roles, sketch_dataset

VECTORS = pa.array([[0.5, 1.0]], pa.list_(pa.float32()))
TABLE = pa.table({"label": ["a"], "embedding": VECTORS, "clip_embedding": VECTORS, "n": [1]})

POLICY: dict[str, Any] = {
    "version": 1,
    "dataset": {
        "name": "digits",
        "columns": {"label": "label", "embedding_self": "embedding"},
        "classes": ["0", "1"],
        "schema": "schema.json",
        "max_malformed_fraction": 0.01,
    },
    "trust": {"trusted_root": "root.json", "trusted_root_sha256": hashlib.sha256(b"{}").hexdigest()},
    "sources": [
        {
            "name": "lab-a",
            "path": "lab-a/**",
            "signed_by": [
                {"issuer": "https://issuer.example", "identity": "a@example.org"},
                {"issuer": "https://issuer.example", "identity_pattern": "*@lab-a.example"},
            ],
            "bundle": "lab-a/b.json",
        },
        {"name": "scraped", "path": "scraped/**", "unsigned": "accept_as_unknown"},
        {"name": "csv", "path": "scraped/*.csv", "unsigned": "accept_as_unknown"},
    ],
    "expectations": {"suite": "suite.json"},
    "checks": [{"check": "robust_spectral", "max_flagged_fraction": 0.05}],
    "verdict": {"max_quarantined_fraction": 1, "max_unknown_provenance_fraction": 0},
    "ledger": {"origin": "example.org/training-data"},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("root.json", "suite.json", "schema.json"):
        Path(name).write_text("{}")
    Path("policy.yaml").write_text(yaml.safe_dump(POLICY, sort_keys=False))
    return tmp_path


def answer_of(arguments: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def text_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


# init


def dataset(root: Path) -> Path:
    for folder in ("lab-a", "lab-b/deep"):
        (root / "data" / folder).mkdir(parents=True)
        pq.write_table(TABLE, root / "data" / folder / "x.parquet")
    return root / "data"


def test_init_writes_a_valid_policy_fitted_to_folders_and_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.yaml"

    answer = answer_of(["policy", "init", str(dataset(tmp_path)), "--out", str(out)], capsys)

    policy = load_policy(out).policy
    assert policy.dataset.name == "data"
    assert policy.roles() == {"label": "label", "embedding_self": "embedding", "embedding_external": "clip_embedding"}
    assert answer["roles"] == policy.roles()
    assert [(rule.name, rule.path) for rule in policy.sources] == [("lab-a", "lab-a/**"), ("lab-b", "lab-b/**")]
    assert [rule.check for rule in policy.checks] == [
        "robust_spectral",
        "view_contradiction",
        "label_noise",
        "near_duplicates",
    ]
    assert policy.checks[2].on_rise is None  # else a second run of the same data would have another verdict
    assert "# on_rise: warn" in out.read_text()
    assert policy.checks[2].config["seed"]


@pytest.mark.parametrize(
    ("column", "view"), [("clip_embedding", "embedding_external"), ("pixels", "features"), ("embedding", "")]
)
def test_init_compares_sources_where_there_are_three_and_a_view_shows_them(
    column: str, view: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folders in (2, 3):
        root, out = tmp_path / f"data{folders}", tmp_path / f"policy{folders}.yaml"
        for folder in range(folders):
            (root / f"lab-{folder}").mkdir(parents=True)
            pq.write_table(pa.table({"label": ["a"], column: VECTORS}), root / f"lab-{folder}" / "x.parquet")

        text_of(["policy", "init", str(root), "--out", str(out)], capsys)

        rules = {rule.check: rule for rule in load_policy(out).policy.checks}
        assert ("source_shift" in rules) == (folders == 3 and bool(view))
        assert "source_shift" not in rules or rules["source_shift"].config == {"view": view}


def test_what_doubts_labels_is_held_back_and_never_rejects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Label noise alone never rejects, and what is flagged is held back: issue 6, point 5."""
    out = tmp_path / "policy.yaml"

    text_of(["policy", "init", str(dataset(tmp_path)), "--out", str(out)], capsys)

    (rule,) = (rule for rule in load_policy(out).policy.checks if rule.check == "label_noise")
    assert (rule.over_limit, rule.on_flagged) == ("warn", "quarantine")


def test_labels_that_hashed_words_doubt_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They doubt a third of the labels of clean texts (docs/selftest.md), which nobody would want to lose."""
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"label": ["a", "b"], "text": ["good", "bad"]}), tmp_path / "data" / "x.parquet")
    out = tmp_path / "policy.yaml"

    text_of(["policy", "init", str(tmp_path / "data"), "--out", str(out)], capsys)

    (rule,) = (rule for rule in load_policy(out).policy.checks if rule.check == "label_noise")
    assert (rule.config["view"], rule.on_flagged) == ("text", "report")


def test_what_init_writes_admits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No default may admit data: every source is of unknown provenance, and none of that is allowed."""
    out = tmp_path / "policy.yaml"

    text_of(["policy", "init", str(dataset(tmp_path)), "--out", str(out)], capsys)

    policy = load_policy(out).policy
    assert not any(rule.is_signed for rule in policy.sources)
    assert policy.verdict.max_unknown_provenance_fraction == 0


def test_init_without_a_data_set_writes_a_valid_example(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(["policy", "init", "--out", "new.yaml"], capsys)

    assert text.endswith("next: edit it, then millcert policy check new.yaml\n")
    assert load_policy(home / "new.yaml").policy.dataset.name == "my-dataset"


def test_init_judges_labels_of_texts_without_an_embedding_and_probabilities_beside_a_second_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = []
    for name, columns in (("texts", {}), ("probs", {"probs": pa.array([[0.5, 0.5]], pa.list_(pa.float32(), 2))})):
        (tmp_path / name).mkdir()
        table = pa.table({"label": ["a"], "text": ["so it goes"], **columns})
        pq.write_table(table, tmp_path / name / "x.parquet")
        out = tmp_path / f"{name}.yaml"

        text_of(["policy", "init", str(tmp_path / name), "--out", str(out)], capsys)

        rules = load_policy(out).policy.checks
        configs.append(next(dict(rule.config) for rule in rules if rule.check == "label_noise"))

    seeds = {config.pop("seed") for config in configs}
    assert configs == [{"view": "text"}, {"view": "pred_probs", "second_view": "text"}]
    assert len(seeds) == 2


def test_init_replaces_nothing_unless_forced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (home / "policy.yaml").read_bytes()

    assert main(["policy", "init"]) == 2
    assert "already there" in capsys.readouterr().err
    assert (home / "policy.yaml").read_bytes() == before

    assert main(["policy", "init", "--force"]) == 0
    assert (home / "policy.yaml").read_bytes() != before


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("theirs")

    with pytest.raises(UsageError, match="already there"):
        write_new(tmp_path / "p.yaml", "ours", replace=False)

    assert [path.name for path in tmp_path.iterdir()] == ["p.yaml"]
    assert (tmp_path / "p.yaml").read_text() == "theirs"


def test_init_into_a_folder_that_is_not_there_is_a_usage_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "init", "--out", str(home / "no" / "p.yaml")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_init_of_no_data_is_a_usage_error(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "empty").mkdir()

    assert main(["policy", "init", name, "--out", "new.yaml"]) == 2
    assert not (home / "new.yaml").exists()


@pytest.mark.parametrize(
    ("name", "content", "roles", "checks"),
    [
        ("notes.csv", "id,text\n1,a\n", {"text": "text"}, ["near_duplicates"]),
        ("blob.csv", "payload\nx\n", {}, ["near_duplicates"]),
        (
            "talk.jsonl",
            '{"messages": [{"role": "user", "content": "hi"}], "split": "train"}\n',
            {"split": "split", "text": "messages"},
            ["near_duplicates", "split_leakage"],
        ),
        ("fit.jsonl", '{"prompt": "a", "completion": "b"}\n', {"text": ["prompt", "completion"]}, ["near_duplicates"]),
        (
            "table.csv",
            "row_id,age,city,height,label\n1,30,x,1.5,0\n",
            {"label": "label", "features": ["age", "city", "height"]},
            ["label_noise", "trigger_mining", "near_duplicates"],
        ),
        (
            "images.jsonl",
            '{"pixels": [0, 1, 2, 3], "label": 1}\n',
            {"label": "label", "features": "pixels"},
            ["trigger_mining", "near_duplicates"],
        ),
    ],
)
def test_every_data_set_gets_a_policy_whose_checks_can_run(
    home: Path,
    name: str,
    content: str,
    roles: dict[str, object],
    checks: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (home / name).write_text(content)

    answer = answer_of(["policy", "init", name, "--out", "new.yaml"], capsys)

    assert answer["roles"] == roles
    assert [rule.check for rule in load_policy(home / "new.yaml").policy.checks] == checks


def test_folder_names_that_patterns_cannot_hold_are_matched_all_the_same(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a[1]", "a{2}", 'q"uote', "été", "A b", "A-b", "tab\t", "#x: y"]
    for name in names:
        (home / "data" / name).mkdir(parents=True)
        pq.write_table(TABLE, home / "data" / name / "x.parquet")
    pq.write_table(TABLE, home / "data" / "x.parquet")

    text_of(["policy", "init", "data", "--out", "new.yaml"], capsys)

    policy = load_policy(home / "new.yaml").policy
    assert len(policy.sources) == len(names) + 1
    assert all(policy.rules_matching(f"{name}/x.parquet") for name in names)
    assert policy.source_of("x.parquet").name == "data"


def test_very_many_folders_become_one_source(home: Path) -> None:
    for number in range(MAX_SOURCES + 1):
        (home / "data" / str(number)).mkdir(parents=True)
        (home / "data" / str(number) / "x.csv").write_text("label\na\n")

    assert main(["policy", "init", "data", "--out", "new.yaml"]) == 0
    assert "path: '**'" in (home / "new.yaml").read_text().replace('"', "'")


def test_columns_are_seen_in_every_format(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    feather.write_feather(TABLE, str(tmp_path / "a.feather"))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    record = {"label": "a", "embedding": [0.5, 1], "clip_embedding": [0.5], "n": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "a.csv").write_text("\ufefflabel,n\na,1\n")
    kinds = {"label": "text", "embedding": "vector", "clip_embedding": "vector", "n": "number"}

    for name in ("a.parquet", "a.feather", "a.arrow", "a.jsonl"):
        assert sketch_dataset(tmp_path / name).columns == kinds, name
    assert sketch_dataset(tmp_path / "a.csv").columns == {"label": "text", "n": "number"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 is not enough"),
        ("a.arrow", b"ARROW1"),
        ("a.jsonl", b"{" * 5000),
        ("a.jsonl", b"[1]"),
        ("a.jsonl", b"\xff"),
        ("a.csv", b""),
        ("a.csv.gz", b"\x1f\x8b"),
    ],
)
def test_a_file_that_tells_no_columns_stops_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    assert sketch_dataset(tmp_path / name).columns == {}


def test_a_hostile_column_name_cannot_write_policy() -> None:
    hostile = 'x\n"}\nverdict: {max_unknown_provenance_fraction: 1}\n#'

    assert guess_roles({"label": "other", "prob": "vector", hostile: "vector"}) == {"pred_probs": "prob"}


def test_a_column_name_with_line_breaks_stays_out_of_the_comment(home: Path) -> None:
    table = pa.table({"label": ["a"], "embedding": VECTORS, 'x\nverdict: {}\n"': [1], "a: b # c": [1]})
    pq.write_table(table, home / "x.parquet")

    assert main(["policy", "init", "x.parquet", "--out", "new.yaml"]) == 0

    load_policy(home / "new.yaml")


# check


def test_check_of_a_sound_policy_gives_its_digest(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(["policy", "check", "policy.yaml"], capsys)

    digest = load_policy(home / "policy.yaml").digest
    assert text.splitlines() == [
        "valid    policy.yaml: 3 sources, 1 check",
        f"digest   {digest}",
        "next: millcert policy explain policy.yaml",
    ]
    assert answer_of(["policy", "check", "policy.yaml"], capsys)["digest"] == digest


def test_check_lists_every_fault_with_its_place(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "policy.yaml").write_text((home / "policy.yaml").read_text().replace("0.05", "5").replace("digits", "D"))

    faults = answer_of(["policy", "check", "policy.yaml"], capsys, code=2)["error"]["details"]["faults"]

    assert [(fault["line"], fault["key"]) for fault in faults] == [
        (3, "dataset.name"),
        (34, "checks[0].max_flagged_fraction"),
    ]
    assert main(["policy", "check", "policy.yaml"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "error: policy.yaml is no valid policy, 2 faults:"
    assert err[1].startswith("  policy.yaml:3:9: dataset.name: ")


# explain


def test_explain_says_what_each_limit_does(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(["policy", "explain", "policy.yaml"], capsys)

    for sentence in (
        "label from column 'label', embedding_self from column 'embedding'",
        "If more than 1 % of the records are malformed, the data set is rejected.",
        "a manifest signed by a@example.org (vouched for by https://issuer.example) or an identity that",
        'an identity that matches all of "*@lab-a.example" (vouched for by https://issuer.example); another signer',
        '"scraped/**" is source scraped: nobody needs to vouch for it',
        "a failed critical expectation rejects the data set",
        "If more than 5 % of the samples are flagged, the data set is rejected (by the check's own severity).",
        "Every flagged sample is held back in quarantine",
        "There is no limit: however many of the samples are quarantined, that rejects nothing.",
        "If any sample is of unknown provenance, the data set is rejected.",
        "So one sample from scraped, csv is enough to reject",
        "backdoor_text: inserted words",
    ):
        assert sentence in text
    assert text.endswith("next: millcert policy explain policy.yaml DATASET shows which rule speaks for each file\n")


def test_explain_says_what_a_lenient_policy_does(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {key: value for key, value in POLICY.items() if key != "trust"}
    document["sources"] = [{"name": "all", "path": "**", "unsigned": "accept_as_unknown"}]
    rule = {"check": "label_noise", "max_flagged_fraction": 0, "over_limit": "warn", "on_flagged": "report"}
    document["checks"] = [rule | {"config": {"view": "embedding_self"}}]
    document["expectations"] = {"suite": "suite.json", "on_failure": "warn"}
    document["verdict"] = {"max_quarantined_fraction": 0, "max_unknown_provenance_fraction": 1}
    (home / "policy.yaml").write_text(yaml.safe_dump(document))

    text = text_of(["policy", "explain", "policy.yaml"], capsys)

    for sentence in (
        "If any sample is flagged, the verdict carries a warning.",
        "Flagged samples are listed in the findings and still admitted.",
        "Its configuration differs from the defaults in: view.",
        "failures are reported and never reject the data set",
        "There is no limit: however many of the samples are of unknown provenance, that rejects nothing.",
        "If any sample is quarantined, the data set is rejected.",
    ):
        assert sentence in text


def test_explain_names_the_rule_of_each_file_and_why(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["lab-a/x", "lab-a/millcert-manifest.json", "lab-a/b.json", "scraped/x", "scraped/x.csv", "other/x"]

    files = answer_of(["policy", "explain", "policy.yaml", *paths], capsys)["files"]

    assert [(found["path"], found["status"], found["rules"]) for found in files] == [
        ("lab-a/x", "signed", ["lab-a"]),
        ("lab-a/millcert-manifest.json", "provenance", ["lab-a"]),
        ("lab-a/b.json", "provenance", ["lab-a"]),
        ("scraped/x", "unknown", ["scraped"]),
        ("scraped/x.csv", "several_rules", ["scraped", "csv"]),
        ("other/x", "no_rule", []),
    ]
    assert '"other" is not "lab-a"' in files[-1]["why"]


@pytest.mark.parametrize(
    ("pattern", "path", "words"),
    [
        ("a/*.csv", "a/b/c.csv", '"b" is not "*.csv"'),
        ("a/b/c", "a/b", '"a/b/c" means something deeper'),
        ("a/*", "a/b/c", '"a/*" means nothing that deep'),
        ("a/**/x", "a/y", 'it does not end as "a/**/x" does'),
        ("a/**", "a", '"a/**" means what is below'),
    ],
)
def test_the_reason_names_where_pattern_and_path_part(pattern: str, path: str, words: str) -> None:
    from millcert.policy_explain import why_not

    assert words in why_not(pattern, path)


def test_explain_takes_a_folder_as_a_data_set(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        for folder in ("lab-a", "other"):
            (home / "data" / folder).mkdir(parents=True, exist_ok=True)
            (home / "data" / folder / f"{number}.csv").touch()

    text = text_of(["policy", "explain", "policy.yaml", "data"], capsys)

    assert "REFUSED  other/0.csv: no rule matches" in text
    assert "REFUSED  and 5 files more" in text
    assert "signed   25 files of lab-a, such as lab-a/0.csv" in text
    assert text.endswith("next: change sources[].path so that exactly one rule matches 25 refused files\n")


def test_explain_of_files_that_all_belong_somewhere_goes_on_to_vet(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_of(["policy", "explain", "policy.yaml", "lab-a/x"], capsys)

    assert 'signed   lab-a/x: lab-a matches by its path "lab-a/**"' in text
    assert text.endswith("next: millcert vet DATASET --policy policy.yaml\n")


def test_a_file_name_that_is_no_text_is_shown_by_its_bytes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "data" / "lab-a").mkdir(parents=True)
    (home / "data" / "lab-a" / os.fsdecode(b"\xff\x1b.csv")).touch()

    text = text_of(["policy", "explain", "policy.yaml", "data"], capsys)

    assert "lab-a/\\xff\\u001b.csv" in text


# schema


def test_the_schema_is_that_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    schema = answer_of(["policy", "schema"], capsys)

    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"version", "dataset", "sources", "verdict", "ledger"}
    assert schema["anyOf"] == [{"required": ["checks"]}, {"required": ["expectations"]}]
    sections = schema["$defs"]
    assert all(part["additionalProperties"] is False for name, part in sections.items() if name != "JsonValue")
    assert "schema" in sections["Dataset"]["properties"]
    assert sections["Dataset"]["properties"]["name"]["pattern"]
    assert sections["VerdictLimits"]["properties"]["max_quarantined_fraction"]["maximum"] == 1
    one, many, _ = sections["SourceRule"]["properties"]["signed_by"]["anyOf"]
    assert one["$ref"] == many["items"]["$ref"] == "#/$defs/Signer"
    assert json.loads(text_of(["policy", "schema"], capsys)) == schema
