"""`millcert label diff`: the answer, the exit code, and what it refuses."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main
from millcert.errors import UsageError
from millcert.pipelines.formats.label_events import read_label_events


def write(folder: Path, name: str, labels: list[str], *, keys: list[str] | None = None, who: str = "x") -> Path:
    rows = len(labels)
    table = pa.table(
        {
            "id": keys or [f"r{at}" for at in range(rows)],
            "text": [f"text {at}" for at in range(rows)],
            "label": labels,
            "who": [who] * rows,
        }
    )
    path = folder / name
    pq.write_table(table, path)
    return path


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


class Run:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, command: str = "diff") -> Result:
        code = main(["label", command, *map(str, arguments)])
        return Result(code, *self._capsys.readouterr())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write(tmp_path, "old.parquet", ["cat", "dog", "cow", "dog"]),
        write(tmp_path, "new.parquet", ["cat", "cat", "cow", "cow"], who="y"),
    )


def test_unexplained_flips_are_listed_exactly_and_end_in_exit_1(
    run: Run, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    events = tmp_path / "events.csv"
    events.write_text("key,label,old_label,who,when\nr1,cat,dog,ann,2026-01-01\n", encoding="utf-8")
    out = tmp_path / "changes.csv"

    result = run(*versions, "--label", "label", "--key", "id", "--events", events, "--out", out, "--json")

    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [(item["key"], item["row"], item["old"], item["new"], item["reason"]) for item in answer["unexplained"]] == [
        ("r3", 3, "dog", "cow", "no_event")
    ]
    assert answer["by_who"] == {"ann": 1}
    assert (answer["same"], answer["changed"], answer["added"], answer["removed"]) == (2, 2, 0, 0)
    with out.open(encoding="utf-8") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["", "no_event"]


def test_all_changes_explained_is_exit_0(run: Run, versions: tuple[Path, Path], tmp_path: Path) -> None:
    events = tmp_path / "export.json"
    tasks: list[dict[str, Any]] = [
        {"id": 1, "data": {"row": "r1"}, "annotations": [annotation("cat")]},
        {"id": 2, "data": {"row": "r3"}, "annotations": [annotation("dog", cancelled=True), annotation("cow")]},
    ]
    events.write_text(json.dumps(tasks), encoding="utf-8")

    result = run(*versions, "--label", "label", "--key", "id", "--events", events, "--event-key", "row")

    assert result.exit_code == 0, result.stderr
    assert "2 changed, 0 not explained" in result.stdout
    assert result.stdout.splitlines()[-1] == "next: nothing is left to explain"


def test_rows_are_matched_by_content_where_no_key_is_named(run: Run, versions: tuple[Path, Path]) -> None:
    strict = run(*versions, "--label", "label", "--json")
    loose = run(*versions, "--label", "label", "--ignore", "who", "--json")

    assert json.loads(strict.stdout)["changed"] == 0  # who differs in every row, so none is the same row
    assert json.loads(loose.stdout)["changed"] == 2
    assert loose.exit_code == 1
    assert "not explained" in run(*versions, "--label", "label", "--ignore", "who").stdout


def test_many_unexplained_flips_are_counted_beyond_those_shown(run: Run, tmp_path: Path) -> None:
    old = write(tmp_path, "old.parquet", ["a"] * 30)
    new = write(tmp_path, "new.parquet", ["b"] * 29 + ["a"])

    result = run(old, new, "--label", "label", "--key", "id")

    assert "and 9 more" in result.stdout
    assert "'a' -> 'b'  29 rows, 29 not explained" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "nothing"], "no column 'nothing'"),
        (["--label", "label", "--key", "who"], "more than one row"),
        (["--label", "label", "--key", "label"], "as the label and as the key"),
    ],
)
def test_columns_that_cannot_serve_are_refused(
    run: Run, versions: tuple[Path, Path], arguments: list[str], message: str
) -> None:
    result = run(*versions, *arguments)

    assert result.exit_code == 2
    assert message in result.stderr


def test_a_null_label_is_refused(run: Run, tmp_path: Path, versions: tuple[Path, Path]) -> None:
    path = tmp_path / "null.parquet"
    pq.write_table(pa.table({"id": ["r0"], "text": ["t"], "label": pa.array([None], pa.string()), "who": ["x"]}), path)

    result = run(versions[0], path, "--label", "label", "--key", "id")

    assert result.exit_code == 2
    assert "nulls" in result.stderr


def annotation(label: str, *, cancelled: bool = False) -> dict[str, Any]:
    return {
        "result": [{"value": {"choices": [label]}}],
        "was_cancelled": cancelled,
        "completed_by": {"email": "ann@corp.example"},
        "updated_at": "2026-01-02T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"key,who\nr1,ann\n", "must have key and label"),
        (b"key,label,mood\nr1,cat,bad\n", "must have key and label"),
        (b"key,label\nr1\n", "1 fields, expected 2"),
        (b"key,label\n,cat\n", "an event without a key"),
        (b"key,label\nr1,\n", "an event without a label"),
        (b'key,label\n"r1,cat\n', "line"),
        (b"key,label\n\xff,cat\n", "not valid UTF-8"),
        (b"", "must have key and label"),
        (b'{"id": 1}', "expected the list of tasks"),
        (b'[{"id": 1, "id": 2}]', "twice"),
        (b"[1]", "no 'id'"),
        (b'[{"id": 1}]', "no 'annotations'"),
        (b'[{"id": true, "data": {}, "annotations": []}]', "no 'id'"),
        (b'[{"id": 1, "data": {}, "annotations": [{"result": [{"value": {"choices": []}}]}]}]', "0 choices"),
        (b'[{"id": 1, "data": {}, "annotations": [{"result": [{"value": {"rating": true}}]}]}]', "neither text nor"),
        (
            b'[{"id": 1, "data": {}, "annotations": [{"result": [{"value": {"labels": ["a"]}}]}]}]',
            "no result is a label",
        ),
        (
            b'[{"id":1,"data":{},"annotations":[{"result":[{"value":{"choices":["a"]},"from_name":"x"},'  # noqa: ISC004
            b'{"value":{"rating":3},"from_name":"y"}]}]}]',
            "2 controls give labels: x, y",
        ),
        (
            b'[{"id":1,"data":{},"annotations":[{"result":[{"value":{"choices":["a"]}},{"value":{"choices":["b"]}}]}]}]',
            "2 results of one control",
        ),
        (b'[{"id": 1, "annotation_id": 4, "mood": "good"}]', "one annotation a row"),
        (b"annotation_id,id,mood\n4,1,good\n", "one annotation a row"),
        (b"key,label,key\nr1,cat,r1\n", "twice in the header"),
        (b"key;label\nr1;cat\n", "must have key and label"),
        (b'[{"id": 1, "data": {}, "annotations": [{"result": [{"value": {"choices": ["a", "b"]}}]}]}]', "2 choices"),
        (
            b'[{"id": 1, "data": {}, "annotations": [{"result": [{"value": {"choices": ["a"]}}], "updated_at": 3}]}]',
            "a time is no text",
        ),
    ],
)
def test_events_that_are_none_are_refused_with_their_place(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_label_events(data, name="events")


def result(kind: str, value: Any, *, control: str = "mood") -> dict[str, Any]:
    return {"value": {kind: value}, "from_name": control, "to_name": "text", "type": kind, "origin": "manual"}


def exported(*annotations: dict[str, Any], **more: Any) -> bytes:
    """Return an export of Label Studio 1.20 with one task, as far as it matters."""
    task = {
        "id": 7,
        "data": {"row": "r1", "text": "a text"},
        "drafts": [],
        "meta": {},
        "annotations": list(annotations),
    }
    return json.dumps(
        [task | {"predictions": [{"result": [result("choices", ["dog"])], "score": 0.9}]} | more]
    ).encode()


def given(*results: dict[str, Any], when: str = "2026-01-02T00:00:00.250000Z", **more: Any) -> dict[str, Any]:
    return {"result": list(results), "completed_by": 3, "created_at": when, "updated_at": when} | more


@pytest.mark.parametrize(
    ("results", "label"),
    [
        ([result("choices", ["cat"])], "cat"),
        ([result("taxonomy", [["animal", "cat"]])], "animal/cat"),
        ([result("rating", 4)], "4"),
        ([result("number", 0.5)], "0.5"),
        ([result("textarea", ["is it?"], control="note"), result("choices", ["cat"])], "cat"),
        ([result("labels", ["PER"], control="spans"), result("choices", ["cat"])], "cat"),
    ],
)
def test_a_control_of_label_studio_that_labels_the_whole_row_is_an_event(
    results: list[dict[str, Any]], label: str
) -> None:
    found = read_label_events(b"\xef\xbb\xbf" + exported(given(*results)), name="export", key="row")

    assert [(item.key, item.new, item.who, item.when) for item in found] == [
        ("r1", label, "3", "2026-01-02T00:00:00.250000Z")
    ]


def test_of_several_controls_the_named_one_counts_and_what_labels_nothing_is_no_event() -> None:
    data = exported(
        given(result("choices", ["cat"]), result("choices", ["sure"], control="doubt")),
        given(result("choices", ["unsure"], control="doubt")),
        given(),
    )

    assert [item.new for item in read_label_events(data, name="export", control="mood")] == ["cat"]
    assert [item.new for item in read_label_events(data, name="export", control="doubt")] == ["sure", "unsure"]
    with pytest.raises(UsageError, match="the results of 'note' are no choices"):
        read_label_events(exported(given(result("textarea", ["x"], control="note"))), name="export", control="note")


def test_the_annotation_that_is_ground_truth_is_the_last_word(run: Run, versions: tuple[Path, Path]) -> None:
    events = versions[0].with_name("export.json")
    truth = given(result("choices", ["cat"]), when="2026-01-01T00:00:00Z", ground_truth=True)
    events.write_bytes(exported(given(result("choices", ["dog"]), when="2026-02-01T00:00:00Z"), truth))

    answer = run(*versions, "--label", "label", "--key", "id", "--events", events, "--event-key", "row", "--json")

    assert [item["key"] for item in json.loads(answer.stdout)["unexplained"]] == ["r3"]


def test_exports_of_one_annotation_a_row_are_read_by_the_named_column() -> None:
    flat = {
        "id": 7,
        "row": "r1",
        "mood": "cat",
        "annotator": 3,
        "annotation_id": 1,
        "updated_at": "2026-01-02T00:00:00Z",
    }
    several = flat | {"mood": {"choices": ["cat"]}}
    table = "annotation_id\tannotator\trow\tmood\tupdated_at\n1\t3\tr1\tcat\t2026-01-02T00:00:00Z\n"

    for data in (json.dumps([flat]), json.dumps([several]), table, table.replace("\t", ",")):
        found = read_label_events(data.encode(), name="export", key="row", control="mood")
        assert [tuple(item) for item in found] == [("r1", "cat", None, "3", "2026-01-02T00:00:00Z", False)]


def test_tables_may_have_empty_lines_and_a_byte_order_mark() -> None:
    found = read_label_events(b"\xef\xbb\xbfkey,label\r\nr1,cat\r\n\r\n", name="events")

    assert [(item.key, item.new) for item in found] == [("r1", "cat")]
    with pytest.raises(UsageError, match="--event-key and --event-label are for"):
        read_label_events(b"key,label\nr1,cat\n", name="events", key="id")


def test_events_that_name_no_row_are_told(run: Run, versions: tuple[Path, Path], tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text("key,label\nelsewhere,cat\n", encoding="utf-8")

    result = run(*versions, "--label", "label", "--key", "id", "--events", events)

    assert "1 of 1 events name no row" in result.stdout
    assert result.stdout.splitlines()[-1] == "next: check --key and --event-key: no event names a row"


def test_labels_may_be_lists_and_what_is_no_text_is_refused(run: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    pq.write_table(pa.table({"id": [1, 2], "tags": [["a"], ["a", "b"]], "raw": [b"x", b"\xff"]}), old)
    pq.write_table(pa.table({"id": [1, 2], "tags": [["a"], ["b"]], "raw": [b"x", b"\xff"]}), new)

    lists = run(old, new, "--label", "tags", "--key", "id", "--json")
    refused = run(old, new, "--label", "raw", "--key", "id")

    [flip] = json.loads(lists.stdout)["unexplained"]
    assert (flip["old"], flip["new"]) == ('["a", "b"]', '["b"]')
    assert (refused.exit_code, "cannot be written as text" in refused.stderr) == (2, True), refused.stderr


def test_a_folder_that_is_not_there_is_named(run: Run, versions: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(*versions, "--label", "label", "--key", "id", "--out", tmp_path / "gone" / "changes.csv")

    assert result.exit_code == 2
    assert "There is no folder" in result.stderr
    assert "gone" in result.stderr


def test_rows_that_match_nothing_are_not_called_explained(run: Run, tmp_path: Path) -> None:
    old = write(tmp_path, "old.parquet", ["a", "b"], who="x")
    new = write(tmp_path, "new.parquet", ["b", "a"], who="y")

    result = run(old, new, "--label", "label")

    assert "2 rows are new, 2 are gone" in result.stdout
    assert "look at the new rows" in result.stdout.splitlines()[-1]


def test_who_may_be_a_number_or_nobody() -> None:
    task = {
        "id": 4,
        "data": {},
        "annotations": [annotation("a") | {"completed_by": 7}, annotation("b") | {"completed_by": None}],
    }

    found = read_label_events(json.dumps([task]).encode(), name="events")

    assert [(item.key, item.who) for item in found] == [("4", "7"), ("4", "")]


def test_sets_of_labels_tokens_and_numbers_are_scored_into_a_file(run: Run, tmp_path: Path) -> None:
    rows = 60
    good = [[0.9, 0.1] if at % 2 else [0.1, 0.9] for at in range(rows)]
    table = pa.table(
        {
            "sets": [[0] if at % 2 else [1] for at in range(rows - 6)] + [[1] if at % 2 else [0] for at in range(6)],
            "chances": good,
            "tokens": [[0, 1]] * (rows - 1) + [[]],
            "token_chances": [[[0.9, 0.1], [0.2, 0.8]]] * (rows - 1) + [[]],
            "number": [float(at) for at in range(rows)],
            "guess": [float(at) for at in range(rows - 1)] + [900.0],
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    answers = {}
    for task, label, guess in (
        ("multilabel", "sets", "chances"),
        ("token", "tokens", "token_chances"),
        ("regression", "number", "guess"),
    ):
        arguments = ("--task", task, "--label", label, "--predicted", guess, "--out", tmp_path / f"{task}.parquet")
        result = run(tmp_path / "data.parquet", *arguments, "--json", command="issues")
        assert result.exit_code == 0, result.stderr
        assert "next:" in run(tmp_path / "data.parquet", *arguments, command="issues").stdout  # the same file again
        answers[task] = json.loads(result.stdout)
        assert pq.read_table(tmp_path / f"{task}.parquet").num_rows == rows

    assert answers["multilabel"]["flagged"] >= 5
    assert answers["token"]["flagged"] == 0
    assert answers["regression"]["worst"][0]["row"] == rows - 1
    assert answers["regression"]["worst"][0]["suggested"] == 900.0
    assert answers["token"]["worst"][0] | {"quality": 0} == {
        "row": 0, "quality": 0, "token": 1, "given": 1, "suggested": 0
    }  # fmt: skip
    doubted = answers["multilabel"]["worst"][0]
    assert doubted["suggested"] == [1 - doubted["given"][0]]
    sets = pq.read_table(tmp_path / "multilabel.parquet").to_pylist()
    assert sets[doubted["row"]]["given_probability"] == [0.1]
    assert sets[doubted["row"]]["suggested_probability"] == [0.9]
    tokens = pq.read_table(tmp_path / "token.parquet").to_pylist()
    assert (tokens[0]["suggested"], tokens[-1]["suggested"]) == ([1, 0], [])


def test_what_is_wrong_with_a_task_is_said_with_its_row(run: Run, tmp_path: Path) -> None:
    good = [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]
    columns = {
        "sets": [[0], [1], [0]],
        "ann": [0.0, 1.0, float("nan")],  # as tables with gaps hold whole numbers
        "bob": [0, 1, 0],
        "half": [0.0, 0.5, 1.0],
        "good": good,
        "wide": [*good[:2], [0.2, 0.2, 0.6]],
        "words": [["cat"], ["dog"], ["cat"]],
        "over": [good[0], [1.5, -0.5], good[2]],
        "short": [good[0], good[1], [0.1, 0.2]],
        "tokens": [[0], [1], [1]],
        "token_chances": [[[0.9, 0.1]], [[0.9, 0.2]], [[0.5, 0.5]]],
        "jagged": [[[0.9, 0.1]], [[0.9, 0.1], [1.0]], [[0.5, 0.5]]],
        "number": [1.0, 2.0, float("inf")],
        "guess": [1.0, 2.0, 3.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    people = ("--annotator", "ann", "--annotator")
    cases: list[tuple[str, tuple[str, ...], str]] = [
        ("issues", ("--task", "multilabel", "--label", "words", "--predicted", "good"), "row 0 is ['cat']"),
        ("issues", ("--task", "multilabel", "--label", "sets", "--predicted", "wide"), "row 2: expected 2 numbers"),
        ("issues", ("--task", "multilabel", "--label", "sets", "--predicted", "over"), "is row 1: 1.5, -0.5"),
        ("issues", ("--task", "multilabel", "--label", "guess", "--predicted", "good"), "row 0 is 1.0"),
        ("issues", ("--task", "token", "--label", "tokens", "--predicted", "jagged"), "row 1, list 1: expected 2"),
        ("issues", ("--task", "token", "--label", "tokens", "--predicted", "token_chances"), "is token 1: 0.9, 0.2"),
        ("issues", ("--task", "regression", "--label", "number", "--predicted", "guess"), "Row 2 has the label inf"),
        ("consensus", (*people, "half", "--pred-probs", "good"), "row 1 is 0.5"),
        ("consensus", (*people, "bob", "--pred-probs", "short"), "is row 2: 0.1, 0.2"),
    ]

    for command, arguments, message in cases:
        result = run(tmp_path / "data.parquet", *arguments, "--out", tmp_path / "out.parquet", command=command)

        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
        assert "hint:" in result.stderr


def test_a_consensus_names_the_worst_annotator(run: Run, tmp_path: Path) -> None:
    rows = 80
    truth = [at % 2 for at in range(rows)]
    table = pa.table(
        {
            "ann": truth,
            "bob": truth,
            "eve": [float("nan") if at % 5 == 0 else 1 - value if at % 3 else value for at, value in enumerate(truth)],
            "probs": [[0.9, 0.1] if value == 0 else [0.1, 0.9] for value in truth],
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    people = ("--annotator", "ann", "--annotator", "bob", "--annotator", "eve")

    result = run(
        tmp_path / "data.parquet",
        *people,
        "--pred-probs",
        "probs",
        "--out",
        tmp_path / "c.parquet",
        command="consensus",
    )

    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1].startswith("  eve: quality 0.")
    assert pq.read_table(tmp_path / "c.parquet")["label"].to_pylist() == truth


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("issues", ["--task", "regression", "--label", "text", "--predicted", "id"], "holds no numbers"),
        (
            "issues",
            ["--task", "multilabel", "--label", "text", "--predicted", "id"],
            "no lists of whole numbers: row 0",
        ),
        ("issues", ["--task", "multilabel", "--label", "nothing", "--predicted", "id"], "no column"),
        ("consensus", ["--annotator", "id", "--annotator", "who", "--pred-probs", "label"], "no whole numbers"),
        ("consensus", ["--annotator", "id", "--annotator", "who", "--pred-probs", "id"], "named twice"),
    ],
)
def test_columns_of_another_kind_are_refused(
    run: Run, versions: tuple[Path, Path], tmp_path: Path, command: str, arguments: list[str], message: str
) -> None:
    result = run(versions[0], *arguments, "--out", tmp_path / "out.parquet", command=command)

    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out.parquet").exists()
