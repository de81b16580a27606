"""One module meets Great Expectations, in versions that were tested, and its Checkpoint does as GX's own."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import great_expectations as gx  # noqa: TID253 - the oracle of these tests
import pyarrow as pa
import pytest
from great_expectations.checkpoint.actions import ActionContext, ValidationAction  # noqa: TID253

import millcert
from millcert.checks.gx_adapter import TOUCHPOINTS
from millcert.checks.gx_version import TESTED, require_tested, require_usable
from millcert.errors import PolicyError, UsageError
from millcert.gx_project import run_checkpoint
from tests.checks.test_expectations_identity import by_us

REPOSITORY = Path(millcert.__file__).parents[1]
ADAPTER, GATE = "checks/gx_adapter.py", "checks/gx_version.py"
#: Last names of touchpoints that other things have, too.
COMMON = {"id", "TABLE", "batch_manager", "to_json_dict", "data_source"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("checks", "pipelines", "provenance", "millcert"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            if not any(part.is_symlink() for part in file.parents if part != REPOSITORY):
                yield str(file.relative_to(REPOSITORY)), ast.parse(file.read_text())


def mentions(tree: ast.Module) -> Iterator[str]:
    """Yield each import of GX, each text that would import it, and each name of it that GX does not promise."""
    promised_nowhere = {touchpoint.rpartition(":")[2].rpartition(".")[2] for touchpoint in TOUCHPOINTS} - COMMON
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.startswith("great_expectations"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("great_expectations"):
            yield f"import from {node.module}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (f"text {text}" for text in re.findall(r"^great_expectations(?!\.yml)[.:\w]*$", node.value))
        elif isinstance(node, ast.Attribute) and node.attr in promised_nowhere:
            yield f"name {node.attr}"


def test_no_other_module_imports_great_expectations_or_names_what_it_does_not_promise() -> None:
    """Rule 1 of the adapter: all of it stands there; the gate before it names the package and no more."""
    found = {name: list(mentions(tree)) for name, tree in modules()}

    assert len(found) > 200
    assert len(found.pop(ADAPTER)) > 20
    assert set(found.pop(GATE)) == {"text great_expectations:"}
    assert {name: said for name, said in found.items() if said} == {}


def test_every_touchpoint_is_there_and_none_is_public_api() -> None:
    """Rule 3: the list is what has to be looked at when a new version comes."""
    require_usable(TOUCHPOINTS)

    for touchpoint in TOUCHPOINTS:
        module, _, path = touchpoint.partition(":")
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name, None)
        assert "--Public API--" not in (getattr(found, "__doc__", "") or ""), touchpoint


@pytest.mark.parametrize("name", ["great_expectations.core:NoSuch", "great_expectations.nowhere:X"])
def test_a_version_that_lacks_a_touchpoint_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"lacks what millcert needs of it: {name}")):
        require_usable([*TOUCHPOINTS, name])


@pytest.mark.parametrize("version", ["1.23.9", "1.25.0", "1.25.0rc1", "2.0", "0.18.1", "unknown", "1"])
def test_a_version_that_was_not_tested_is_refused_with_what_to_install(version: str) -> None:
    with pytest.raises(UsageError, match="was tested with") as caught:
        require_tested(version)

    assert caught.value.hint == f"pip install 'great-expectations{TESTED}'"
    assert caught.value.exit_code == 2


def test_the_tested_versions_are_those_that_packaging_pins() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = next(line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "great" in line)

    assert f"great-expectations{TESTED}" in project["dependencies"]
    assert require_tested(pinned.partition("==")[2].strip())
    assert require_tested() == gx.__version__


def test_the_command_line_ends_with_two_where_another_version_is_installed(tmp_path: Path) -> None:
    """A newer GX's metadata stand before the real ones; it is refused before it is imported."""
    facts = tmp_path / "great_expectations-1.99.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: great-expectations\nVersion: 1.99.0\n")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])

    ended = subprocess.run(
        [sys.executable, "-m", "millcert", "expectations", "list"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2, ended.stderr
    assert "Great Expectations 1.99.0 is installed" in ended.stderr
    assert "pip install 'great-expectations>=1.24,<1.25'" in ended.stderr


TABLE = pa.table(
    {
        "id": [1, 2, 2, 4, 5, 6],
        "word": ["a", "b", None, "xyz", "é", "a"],
        "score": [0.5, 1.5, -2.0, 8.0, 0.25, 1.0],
    }
)
SUITE: list[dict[str, Any]] = [
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "word"}, "severity": "warning"},
    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}, "severity": "critical", "notes": "mine"},
    {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "score", "min_value": 0, "max_value": 5, "mostly": 0.5},
        "severity": "info",
    },
    {"type": "expect_column_max_to_be_between", "kwargs": {"column": "score", "max_value": 5}, "severity": "info"},
    {
        "type": "expect_column_distinct_values_to_be_in_set",
        "kwargs": {"column": "word", "value_set": ["a", "b"]},
        "meta": {"owner": "me"},
    },
    {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 6}},
]


class Noting(ValidationAction):  # type: ignore[misc] # GX has no types here
    """An action that notes what it was told, under its name."""

    type: Literal["noting"] = "noting"
    told: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def run(self, checkpoint_result: Any, action_context: ActionContext | None = None) -> dict[str, str]:
        del action_context
        results = list(checkpoint_result.run_results.values())
        worst = [str(result.get_max_severity_failure()) for result in results]
        told = {"success": checkpoint_result.success, "worst": worst, "results": [plain(result) for result in results]}
        self.told.append((self.name, told))
        return {"noted": self.name}


def plain(result: Any) -> dict[str, Any]:
    """Return a stored result without what tells one run, place and batch from another."""
    document: dict[str, Any] = json.loads(json.dumps(result.to_json_dict()))
    for entry in document["results"]:
        entry["expectation_config"]["kwargs"].pop("batch_id", None)
        entry["expectation_config"].pop("id")
    kept = {"validation_id", "checkpoint_id", "great_expectations_version"}
    document["meta"] = {key: bool(value) for key, value in document["meta"].items() if key in kept}
    return {key: value for key, value in document.items() if key not in ("id", "batch_id")}


def project_of(folder: Path, result_format: Any, suite: list[Any]) -> Any:
    """Make a project whose Checkpoint notes, builds Data Docs and notes; return that Checkpoint."""
    folder.mkdir()
    context: Any = gx.get_context(mode="file", project_root_dir=str(folder))
    context.variables.progress_bars = {"globally": False}
    made = context.suites.add(gx.ExpectationSuite(name="nightly", expectations=[dict(one) for one in suite]))
    data = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("all")
    validation = context.validation_definitions.add(gx.ValidationDefinition(name="one", data=data, suite=made))
    # GX's own renderer fails on results without figures.
    docs = [] if result_format == "BOOLEAN_ONLY" else [gx.checkpoint.UpdateDataDocsAction(name="docs")]
    actions = [Noting(name="first"), *docs, Noting(name="last")]
    return context.checkpoints.add(
        gx.Checkpoint(name="gate", validation_definitions=[validation], actions=actions, result_format=result_format)
    )


def stored(folder: Path) -> list[dict[str, Any]]:
    """Return the results that a project's validation results store keeps, by time."""
    context: Any = gx.get_context(mode="file", project_root_dir=str(folder))
    keys = sorted(context.validation_results_store.list_keys(), key=lambda key: key.run_id.run_time)
    return [plain(context.validation_results_store.get(key)) for key in keys]


def measured(suite_path: Path) -> Mapping[str, Any]:
    """Return GX's JSON of our result at SUMMARY, as a run publishes it; the table is one file."""
    asked = json.loads(suite_path.read_bytes())["expectations"]
    result, places = by_us(TABLE, asked, "SUMMARY", [TABLE.num_rows], 2)
    assert [row for _, row in places] == list(range(TABLE.num_rows))
    return result.json


def rows_only(value: Any) -> Any:
    """Return a document with places as GX on a plain frame has them: rows, without their file."""
    if isinstance(value, Mapping):
        return {
            key: [row for _, row in item] if key == "partial_unexpected_index_list" else rows_only(item)
            for key, item in value.items()
        }
    return [rows_only(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("suite", [SUITE, SUITE[-1:]], ids=["fails", "holds"])
@pytest.mark.parametrize("result_format", ["BOOLEAN_ONLY", "BASIC", "SUMMARY", {"result_format": "BASIC"}], ids=str)
def test_a_checkpoint_on_what_was_measured_does_as_great_expectations_own_on_a_frame(
    result_format: Any, suite: list[Any], tmp_path: Path
) -> None:
    """Successes, severities, descriptions, what the store keeps, the actions and what each is told: all the same."""
    own = project_of(tmp_path / "theirs", result_format, suite)
    project_of(tmp_path / "ours", result_format, suite)
    Noting.told.clear()

    theirs = own.run(batch_parameters={"dataframe": TABLE.to_pandas()})
    told_by_theirs = list(Noting.told)
    Noting.told.clear()
    result = measured(tmp_path / "ours" / "gx" / "expectations" / "nightly.json")
    ours = run_checkpoint(tmp_path / "ours", "gate", result, batch="b")

    assert ours.success is theirs.success
    assert rows_only(described(ours.document)) == described(theirs.describe_dict())
    assert rows_only(stored(tmp_path / "ours")) == stored(tmp_path / "theirs") != []
    assert [name for name, _ in told_by_theirs] == ["first", "last"]
    assert [(name, rows_only(told)) for name, told in Noting.told] == told_by_theirs
    pages = [len(list((tmp_path / name / "gx").rglob("validations/nightly/**/*.html"))) for name in ("theirs", "ours")]
    assert pages == ([0, 0] if result_format == "BOOLEAN_ONLY" else [1, 1])


def described(document: Any) -> Any:
    """Return the description of a Checkpoint's run without the names of its batches."""
    if isinstance(document, Mapping):
        return {key: described(item) for key, item in document.items() if key not in ("batch_id", "result_url", "id")}
    if isinstance(document, list | tuple):
        return [described(item) for item in document]
    return json.loads(json.dumps(document, default=str))


def test_a_checkpoint_on_another_severity_is_another_suite(tmp_path: Path) -> None:
    project_of(tmp_path / "p", "SUMMARY", SUITE)
    result = dict(measured(tmp_path / "p" / "gx" / "expectations" / "nightly.json"))
    result["results"][0]["expectation_config"]["severity"] = "info"

    with pytest.raises(PolicyError, match="are not those that were measured"):
        run_checkpoint(tmp_path / "p", "gate", result, batch="b")
