"""`millcert schema`: what is proposed holds on the data it was made of, and a diff says what breaks."""

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.checks.expectations import evaluate_suite, load_suite, plan_suite
from millcert.checks.profile import ProfileSpec, add_batch, empty_profile
from millcert.checks.schema_changes import compare_schemas, is_widened
from millcert.checks.schema_proposal import Evidence, pattern_of, propose_suite
from millcert.cli.main import main
from millcert.errors import PolicyError
from millcert.pipelines.formats import schema_from_json


def table(rows: int = 600) -> pa.Table:
    random = np.random.default_rng(1)
    words = random.integers(0, 2**62, rows)
    return pa.table(
        {
            "id": np.arange(rows),
            "twice": np.arange(rows) % 300,
            "label": np.array(["cat", "dog"])[random.integers(0, 2, rows)],
            "stars": random.integers(1, 6, rows).astype(np.int8),
            "score": pa.array(random.normal(50, 9, rows), mask=random.random(rows) < 0.1),
            "ratio": random.random(rows).astype(np.float32),
            "wild": np.where(random.random(rows) < 0.5, np.inf, 1.0),
            "url": [f"https://h.example/{word % 977}" for word in words.tolist()],
            "sha": [f"{word:032x}" for word in words.tolist()],
            "text": ["free text " * (word % 7 + 1) for word in words.tolist()],
            "empty": pa.nulls(rows, pa.string()),
            "flag": random.random(rows) < 0.5,
            "at": pa.array(np.arange(rows), pa.timestamp("us")),
            "tags": [["a"]] * rows,
        }
    )


def run(*arguments: object, code: int = 0) -> None:
    assert main(["schema", *[str(argument) for argument in arguments]]) == code


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proposed")
    (folder / "data").mkdir()
    for part in range(3):
        pq.write_table(table().slice(part * 200, 200), folder / "data" / f"{part}.parquet")
    run("infer", folder / "data", "--out", folder / "schema.json", "--suite", folder / "suite.json", "--name", "mine")
    return folder


def expectations(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    suite = json.loads((folder / "suite.json").read_text())
    return {
        (entry["kwargs"].get("column", ""), entry["type"].removeprefix("expect_column_")): entry["kwargs"]
        for entry in suite["expectations"]
    }


def test_the_proposed_schema_is_a_policy_s_schema_file(proposed: Path) -> None:
    assert schema_from_json((proposed / "schema.json").read_bytes()) == table().schema


def test_the_proposed_suite_holds_on_its_own_data(proposed: Path) -> None:
    """Great Expectations itself judges it, by the one read of the gate."""
    suite = load_suite((proposed / "suite.json").read_bytes())
    plan = plan_suite(suite, table().schema)
    batch = table().to_batches()[0]

    result = evaluate_suite(suite, plan, plan.add(plan.empty(), batch, "a", np.arange(len(batch))), table().schema)

    assert suite.name == "mine"
    assert [outcome for outcome in result.outcomes if not outcome.success] == []


def test_types_ranges_sets_patterns_lengths_nulls_and_uniqueness_are_proposed(proposed: Path) -> None:
    found = expectations(proposed)

    assert found["id", "values_to_be_of_type"]["type_"] == "int64"
    assert ("id", "values_to_be_between") not in found  # the next data go on where these end
    assert found["twice", "values_to_be_between"]["min_value"] == 0
    assert found["twice", "values_to_be_between"]["max_value"] == 299 + 30
    assert {column for column, kind in found if kind == "values_to_be_unique"} == {"id", "sha"}
    assert found["label", "values_to_be_in_set"]["value_set"] == ["cat", "dog"]
    assert found["stars", "values_to_be_in_set"]["value_set"] == [1, 2, 3, 4, 5]
    assert found["url", "values_to_match_regex"]["regex"] == "^https://h\\.example/[0-9]+$"
    assert found["sha", "values_to_match_regex"]["regex"] == "^[0-9a-f]{32}$"
    assert found["sha", "value_lengths_to_equal"]["value"] == 32
    assert ("text", "values_to_be_in_set") not in found  # few, but longer than what a profile keeps
    assert 0.8 < found["score", "proportion_of_non_null_values_to_be_between"]["min_value"] < 0.9
    assert found["empty", "proportion_of_non_null_values_to_be_between"]["min_value"] == 0
    assert ("flag", "values_to_not_be_null") in found
    assert ("wild", "values_to_be_between") not in found
    assert found["ratio", "values_to_be_between"]["min_value"] == 0
    assert found["url", "value_lengths_to_be_between"]["max_value"] > 21


def test_another_file_is_replaced_only_if_asked(proposed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (proposed / "other.json").write_text("{}")

    run("infer", proposed / "data", "--out", proposed / "other.json", code=2)
    run("infer", proposed / "data", "--out", proposed / "other.json", "--replace", "--json")

    answer = json.loads(capsys.readouterr().out)
    assert answer["columns"]["id"] == "int64"
    assert "suite" not in answer


def test_a_pattern_that_only_most_texts_match_is_not_proposed(tmp_path: Path) -> None:
    texts = [f"u-{number}" for number in range(3_000)] + ["someone else"]
    pq.write_table(pa.table({"user": [*texts, "u-7"], "none": pa.nulls(3_002)}), tmp_path / "a.parquet")

    run("infer", tmp_path / "a.parquet", "--out", tmp_path / "s.json", "--suite", tmp_path / "suite.json")

    found = expectations(tmp_path)
    assert ("user", "values_to_match_regex") not in found
    assert ("user", "values_to_be_unique") not in found
    assert ("user", "value_lengths_to_be_between") in found


def test_malformed_records_are_counted_and_no_rows_give_no_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": [1]}\nnot json\n')
    (tmp_path / "b.csv").write_text("a,b\n")

    run("infer", tmp_path / "a.jsonl", "--out", tmp_path / "a.json", "--suite", tmp_path / "as.json")
    run("infer", tmp_path / "b.csv", "--out", tmp_path / "b.json", "--suite", tmp_path / "bs.json", code=4)

    assert "1 malformed" in capsys.readouterr().out
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("texts", "pattern"),
    [
        (["a-1", "bc-22"], "^[a-z]+\\-[0-9]+$"),
        (["A1", "b2"], "^[0-9A-Za-z]{2}$"),
        (["x.y", "x.z"], "^x\\.[a-z]$"),
        (["0123456789abcdef", "fedcba9876543210"], "^[0-9a-f]{16}$"),
        (["a b", "a-b"], None),
        (["a", "a b"], None),
        (["ä", "b"], None),
        (["", "b"], None),
        (["b"], None),
        (["b" * 300, "c"], None),
        (["a b " * 12, "c d " * 12], None),
    ],
)
def test_a_pattern_is_the_common_form_of_all_texts(texts: list[str], pattern: str | None) -> None:
    assert pattern_of(texts) == pattern


def test_samples_do_not_depend_on_batches() -> None:
    texts = pa.array([f"t{number}" for number in range(900)])
    whole, parts = Evidence(), Evidence()

    whole.sample(pa.RecordBatch.from_arrays([texts], ["t"]), bytes(32))
    for start in (600, 0, 300):
        parts.sample(pa.RecordBatch.from_arrays([texts.slice(start, 300)], ["t"]), bytes(32))

    assert whole.samples == parts.samples
    assert len(whole.samples["t"]) == 200


def test_ranges_keep_their_sign_and_huge_ones_are_left_out() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"loss": [-5.0, -1.0], "both": [-1.0, 1.0], "huge": [-1.7e308, 1.7e308], "wide": [1.0, 1.7e308]}
    )
    profile = add_batch(empty_profile(ProfileSpec("00" * 32), batch.schema), batch)

    suite = propose_suite(profile.cells["", ""], batch.schema, Evidence(), name="s", margin=0.5)

    ranges = {
        entry["kwargs"]["column"]: (entry["kwargs"]["min_value"], entry["kwargs"]["max_value"])
        for entry in suite["expectations"]
        if entry["type"].endswith("values_to_be_between")
    }
    assert ranges == {"loss": (-7.0, 0), "both": (-2.0, 2.0)}
    with pytest.raises(PolicyError, match="margin"):
        propose_suite(profile.cells["", ""], batch.schema, Evidence(), name="s", margin=-1)


def test_times_begin_within_a_margin_and_do_not_end_and_decimals_keep_their_range() -> None:
    day = date(2026, 1, 11)
    batch = pa.RecordBatch.from_pydict(
        {
            "day": pa.array([day - timedelta(days=10), day]),
            "at": pa.array([10_000_000_000, 20_000_000_001], pa.timestamp("ns", "Europe/Berlin")),
            "naive": pa.array([0, 10], pa.timestamp("s")),
            "far": pa.array([-(2**60), 2**60], pa.timestamp("s")),
            "none": pa.nulls(2, pa.date32()),
            "price": pa.array([Decimal("0.10"), Decimal("0.30")]),
        }
    )
    profile = add_batch(empty_profile(ProfileSpec("00" * 32), batch.schema), batch)

    suite = propose_suite(profile.cells["", ""], batch.schema, Evidence(), name="s", margin=0.5)
    found = {
        entry["kwargs"].pop("column"): (entry["kwargs"], entry.get("meta"))
        for entry in suite["expectations"]
        if entry["type"] == "expect_column_values_to_be_between"
    }

    assert found["day"][0] == {"min_value": "2025-12-27"}
    assert found["day"][1]["millcert"]["seen"] == {"low": "2026-01-01", "high": "2026-01-11"}
    assert found["at"][0] == {"min_value": "1970-01-01T00:00:04.999999+00:00"}
    assert found["at"][1]["millcert"]["seen"]["high"] == "1970-01-01T00:00:20.000001+00:00"
    assert found["naive"][0] == {"min_value": "1969-12-31T23:59:55"}
    assert 0 <= found["price"][0]["min_value"] < 1e-9
    assert found["price"][0]["max_value"] == pytest.approx(0.4)
    assert {"far", "none"}.isdisjoint(found)


# diff


def schema_file(folder: Path, name: str, **columns: str) -> Path:
    path = folder / name
    path.write_text(json.dumps(columns))
    return path


def test_a_column_that_is_gone_breaks_and_a_new_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = schema_file(tmp_path, "old.json", a="int32", b="string")
    new = schema_file(tmp_path, "new.json", a="int64", c="string")

    run("diff", old, new, code=1)
    text = capsys.readouterr().out
    run("diff", old, schema_file(tmp_path, "more.json", **{"a": "int32", "b": "string", "c\n": "string"}))
    more = capsys.readouterr().out
    run("diff", old, old, "--json")

    assert text.splitlines()[0] == "breaking  3 changes"
    assert "widened  a  int32 -> int64" in text
    assert "removed  b  string" in text
    assert "added    'c\\n'  string" in more
    assert json.loads(capsys.readouterr().out) == {"version": 1, "is_breaking": False, "changes": []}


def test_two_data_sets_are_compared_by_their_schemas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version, columns in (("v1", {"a": [1]}), ("v2", {"a": [1], "b": ["x"]})):
        (tmp_path / version).mkdir()
        pq.write_table(pa.table(columns), tmp_path / version / "part.parquet")

    run("diff", tmp_path / "v1", tmp_path / "v2")
    run("diff", tmp_path / "v2" / "part.parquet", schema_file(tmp_path, "old.json", a="int64"), code=1)

    assert "added    b  string" in (shown := capsys.readouterr().out)
    assert "removed  b  string" in shown


def test_two_suites_are_compared_by_what_they_promise(
    proposed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = json.loads((proposed / "suite.json").read_text())
    for entry in suite["expectations"]:
        if entry["type"].endswith("values_to_be_between") and entry["kwargs"]["column"] == "twice":
            entry["kwargs"]["max_value"] += 1
    (tmp_path / "later.json").write_text(json.dumps(suite))

    run("diff", proposed / "suite.json", proposed / "suite.json")
    run("diff", proposed / "suite.json", tmp_path / "later.json", code=1)
    shown = capsys.readouterr().out
    run("diff", tmp_path / "later.json", proposed / "suite.json", "--json")
    run("diff", proposed / "suite.json", proposed / "schema.json", code=2)

    assert shown.startswith("equal")
    assert "breaking  1 changes\n  loosened  twice: expect_column_values_to_be_between" in shown
    (change,) = json.loads(capsys.readouterr().out)["changes"]
    assert (change["change"], change["is_breaking"], change["new"]["max_value"]) == ("tightened", False, 329)


def test_what_is_no_json_is_no_suite_and_no_schema(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")

    run("diff", tmp_path / "a.json", tmp_path / "a.json", code=2)


def test_columns_in_another_order_are_moved_and_break_nothing() -> None:
    old = pa.schema([("a", pa.int8()), ("b", pa.int8())])
    new = pa.schema([("b", pa.int8()), ("a", pa.int8())])

    changes = compare_schemas(old, new)

    assert [(change.column, change.change, change.is_breaking) for change in changes] == [
        ("a", "moved", False),
        ("b", "moved", False),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (pa.null(), pa.string(), True),
        (pa.int8(), pa.int16(), True),
        (pa.int16(), pa.int8(), False),
        (pa.uint8(), pa.int16(), True),
        (pa.uint8(), pa.int8(), False),
        (pa.int8(), pa.uint64(), False),
        (pa.int32(), pa.float64(), True),
        (pa.int64(), pa.float64(), False),
        (pa.int16(), pa.float32(), True),
        (pa.float32(), pa.float64(), True),
        (pa.float64(), pa.float32(), False),
        (pa.decimal128(10, 2), pa.decimal128(12, 3), True),
        (pa.decimal128(10, 2), pa.decimal128(10, 3), False),
        (pa.binary(4), pa.binary(), True),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float64()), True),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float32(), 8), False),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float64(), 4), True),
        (pa.list_(pa.string()), pa.list_(pa.int8()), False),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8()), ("a", pa.int16())]), True),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())]), False),
        (pa.string(), pa.int8(), False),
    ],
)
def test_a_type_is_widened_if_it_holds_every_old_value(old: pa.DataType, new: pa.DataType, expected: bool) -> None:
    assert is_widened(old, new) is expected


def test_functional_dependencies_that_hold_are_named_for_the_reviewer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = range(800)
    pq.write_table(
        pa.table({"zip": [f"{n % 20:05}" for n in numbers], "city": [f"c{n % 20 // 4}" for n in numbers]}),
        tmp_path / "a.parquet",
    )

    run("infer", tmp_path / "a.parquet", "--out", tmp_path / "s.json", "--suite", tmp_path / "suite.json")

    assert "zip determines city" in capsys.readouterr().out
    suite = json.loads((tmp_path / "suite.json").read_text())
    assert suite["meta"]["millcert"]["functional_dependencies"] == [
        {"determinant": "zip", "dependent": "city", "rows": 800, "values": 20}
    ]


def test_numbers_that_name_rows_have_no_range_as_they_go_on() -> None:
    batch = pa.record_batch({"id": pa.array(range(100, 300)), "age": pa.array([20 + row % 60 for row in range(200)])})
    profile = add_batch(empty_profile(ProfileSpec("5a" * 32), batch.schema), batch)

    suite = propose_suite(profile.cells["", ""], batch.schema, Evidence(unique={"id"}), name="s", margin=0.1)

    about = [(each["type"], each["kwargs"].get("column")) for each in suite["expectations"]]
    assert ("expect_column_values_to_be_unique", "id") in about
    assert ("expect_column_values_to_be_between", "id") not in about
    assert ("expect_column_values_to_be_between", "age") in about
