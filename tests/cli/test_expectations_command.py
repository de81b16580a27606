"""`millcert expectations`: a suite without a gate, and a run's result through a Great Expectations project."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import great_expectations as gx  # noqa: TID253 - it makes the projects of these tests
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from millcert.checks.expectations import evaluate_suite, load_suite, plan_suite
from millcert.cli.main import root
from millcert.errors import IntegrityError, PolicyError, UsageError
from millcert.gx_project import build_data_docs, run_checkpoint

ROWS = 2_000


def invoke(*words: Any) -> Result:
    return CliRunner().invoke(root, ["expectations", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("expectations")
    (path / "data").mkdir()
    for name, start in (("a", 0), ("b", ROWS)):
        numbers = list(range(start, start + ROWS))
        table = pa.table({"id": numbers, "score": [number / ROWS for number in numbers], "word": ["x"] * ROWS})
        pq.write_table(table, path / "data" / f"{name}.parquet")
    (path / "data" / "c.jsonl").write_text('{"id": 1, "score": 0.5, "word": "y"}\nnot JSON\n{"id": 7, "word": null}\n')
    return path


def project_of(path: Path, *expectations: Any, name: str = "nightly") -> Path:
    """Make a project with a Checkpoint whose data are elsewhere: a folder that does not exist."""
    context = gx.get_context(mode="file", project_root_dir=str(path))
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
    source = context.data_sources.add_pandas("elsewhere")
    data = source.add_csv_asset("gone", filepath_or_buffer="/nowhere/gone.csv").add_batch_definition("all")
    validation = context.validation_definitions.add(gx.ValidationDefinition(name="one", data=data, suite=suite))
    context.checkpoints.add(
        gx.Checkpoint(
            name="gate",
            validation_definitions=[validation],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
        )
    )
    return path


def published(path: Path, suite_path: Path) -> Path:
    """Write what a run with this suite publishes of it, as far as `publish` reads it."""
    suite = load_suite(suite_path.read_bytes())
    table = pa.table({"id": pa.array([1, 2, None]), "score": [0.0, 0.5, 1.0]})
    plan = plan_suite(suite, table.schema)
    acc = plan.add(plan.empty(), table.to_batches()[0], "f", pa.array(range(3)).to_numpy())
    result = evaluate_suite(suite, plan, plan.merge([acc]), table.schema)
    path.mkdir()
    (path / "expectations.json").write_text(json.dumps(result.json))
    said = {"suite_digest": suite.digest, "success": result.success, "evaluated": len(result.outcomes)}
    (path / "verdict.json").write_text(json.dumps({"expectations": said}))
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = gx.expectations
    return project_of(
        tmp_path_factory.mktemp("project"),
        kinds.ExpectColumnValuesToNotBeNull(column="id", severity="warning"),
        kinds.ExpectColumnMeanToBeBetween(column="score", min_value=0, max_value=1),
    )


def suite_file(path: Path, *expectations: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"name": "mine", "expectations": list(expectations)}))
    return path


def test_a_suite_is_answered_over_all_files_with_places_that_count_malformed_records(folder: Path) -> None:
    suite = suite_file(
        folder / "fails.json",
        {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 2 * ROWS + 2}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "word"}},
        {"type": "expect_column_value_z_scores_to_be_less_than",
         "kwargs": {"column": "score", "threshold": 3, "double_sided": True}},
    )  # fmt: skip

    result = invoke("run", folder / "data", "--suite", suite, "--out", folder / "result.json")
    payload = json.loads(invoke("run", folder / "data", "--suite", suite, "--json").stdout)

    assert result.exit_code == 1, result.output
    assert "does not hold  3 expectations, 1 fail" in result.stdout
    assert "1 malformed records were left out" in result.stdout
    written = json.loads((folder / "result.json").read_text())
    assert written == payload["result"]
    failed = next(one for one in written["results"] if not one["success"])
    assert failed["result"]["partial_unexpected_index_list"] == [["c.jsonl", 2]]


def test_a_suite_that_holds_ends_with_zero(folder: Path) -> None:
    suite = suite_file(folder / "holds.json", {"type": "expect_column_to_exist", "kwargs": {"column": "id"}})

    result = invoke("run", folder / "data", "--suite", suite)

    assert result.exit_code == 0
    assert result.stdout.startswith("holds  1 expectations, 0 fail")


def test_a_result_that_is_there_is_not_overwritten(folder: Path) -> None:
    suite = suite_file(folder / "again.json", {"type": "expect_column_to_exist", "kwargs": {"column": "id"}})
    target = folder / "kept.json"
    target.write_text("mine")

    result = invoke("run", folder / "data", "--suite", suite, "--out", target)

    assert isinstance(result.exception, UsageError)
    assert target.read_text() == "mine"


def test_the_list_names_what_is_answered_and_why_the_rest_is_not() -> None:
    result = invoke("list")

    assert result.exit_code == 0
    assert "56 of 59 of GX are answered" in result.stdout
    assert "refused: Not for files: it is a SQL query." in result.stdout


def test_a_checkpoint_runs_on_a_result_and_its_stores_and_docs_keep_it(project: Path, tmp_path: Path) -> None:
    run = published(tmp_path / "run", project / "gx" / "expectations" / "nightly.json")

    result = invoke("publish", run, "--project", project, "--checkpoint", "gate", "--json")

    assert result.exit_code == 1, result.output
    payload = json.loads(result.stdout)
    digest = hashlib.sha256((run / "verdict.json").read_bytes()).hexdigest()
    assert payload["batch"] == f"millcert-{digest[:16]}"
    assert payload["actions"] == ["update_data_docs"]
    context = gx.get_context(mode="file", project_root_dir=str(project))
    keys = [key for key in context.validation_results_store.list_keys() if key.batch_identifier == payload["batch"]]
    assert len(keys) == 1
    stored = context.validation_results_store.get(keys[0])
    assert (stored.success, stored.statistics["successful_expectations"]) == (False, 1)
    assert {str(one.expectation_config.severity.value) for one in stored.results} == {"warning", "critical"}
    pages = list((project / "gx" / "uncommitted" / "data_docs").rglob(f"{payload['batch']}.html"))
    assert len(pages) == 1
    assert "values must never be null" in pages[0].read_text()


def test_a_checkpoint_runs_as_often_as_it_is_asked_to(project: Path, tmp_path: Path) -> None:
    run = published(tmp_path / "run", project / "gx" / "expectations" / "nightly.json")
    before = len(list((project / "gx" / "uncommitted" / "validations").rglob("*.json")))

    for _ in range(2):
        assert invoke("publish", run, "--project", project / "gx", "--checkpoint", "gate").exit_code == 1

    assert len(list((project / "gx" / "uncommitted" / "validations").rglob("*.json"))) == before + 2


def test_a_checkpoint_on_another_suite_is_refused(project: Path, tmp_path: Path) -> None:
    suite = suite_file(tmp_path / "other.json", {"type": "expect_column_to_exist", "kwargs": {"column": "id"}})
    run = published(tmp_path / "run", suite)

    result = invoke("publish", run, "--project", project, "--checkpoint", "gate")

    assert isinstance(result.exception, PolicyError)
    assert "are not those that were measured" in result.exception.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--project", "."), "together"),
        ((), "together"),
        (("--project", ".", "--checkpoint", "gate"), "no Great Expectations project"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = invoke("publish", tmp_path, *[str(tmp_path) if word == "." else word for word in words])

    assert isinstance(result.exception, UsageError)
    assert message in result.exception.message or "holds no expectations.json" in result.exception.message


def test_an_unknown_checkpoint_is_answered_with_those_there_are(project: Path) -> None:
    with pytest.raises(UsageError, match="'nightly-gate'") as caught:
        run_checkpoint(project, "nightly-gate", {"results": []}, batch="b")

    assert caught.value.hint == "Its Checkpoints are: gate."


def test_a_folder_without_a_project_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Great Expectations project"):
        run_checkpoint(tmp_path, "gate", {"results": []}, batch="b")

    assert list(tmp_path.iterdir()) == []


def test_a_broken_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gx").mkdir()
    (tmp_path / "gx" / "great_expectations.yml").write_text("stores: 7")

    with pytest.raises(UsageError, match="cannot be opened"):
        run_checkpoint(tmp_path, "gate", {"results": []}, batch="b")


def test_an_action_that_fails_is_named(tmp_path: Path) -> None:
    made = project_of(tmp_path / "p", gx.expectations.ExpectColumnToExist(column="id"))
    run = published(tmp_path / "run", made / "gx" / "expectations" / "nightly.json")
    shutil.rmtree(made / "gx" / "uncommitted" / "data_docs", ignore_errors=True)
    (made / "gx" / "uncommitted" / "data_docs").write_text("a file where the site would be")

    result = invoke("publish", run, "--project", made, "--checkpoint", "gate")

    assert isinstance(result.exception, UsageError)
    assert "did not run to its end" in result.exception.message


@pytest.mark.parametrize("part", ["success", "results", "meta"])
def test_a_result_that_the_verdict_does_not_tell_of_is_refused(project: Path, tmp_path: Path, part: str) -> None:
    run = published(tmp_path / "run", project / "gx" / "expectations" / "nightly.json")
    document = json.loads((run / "expectations.json").read_text())
    document[part] = {"success": True, "results": [], "meta": None}[part]
    (run / "expectations.json").write_text(json.dumps(document))

    result = invoke("publish", run, "--data-docs", tmp_path / "docs")

    assert isinstance(result.exception, IntegrityError)
    assert not (tmp_path / "docs").exists()


def test_data_docs_are_written_to_a_new_folder_alone(project: Path, tmp_path: Path) -> None:
    run = published(tmp_path / "run", project / "gx" / "expectations" / "nightly.json")

    first = invoke("publish", run, "--data-docs", tmp_path / "docs")
    second = invoke("publish", run, "--data-docs", tmp_path / "docs")

    assert first.exit_code == 1, first.output
    assert (tmp_path / "docs" / "index.html").is_file()
    assert any((tmp_path / "docs" / "validations").rglob("*.html"))
    assert isinstance(second.exception, UsageError)
    assert "not an empty folder" in second.exception.message


def test_a_result_that_gx_cannot_render_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot render"):
        build_data_docs(tmp_path / "docs", {"suite_name": "s", "results": [{"expectation_config": {}}]}, batch="b")
