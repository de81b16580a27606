"""`millcert source manifest --rows`: what an owner signs about rows is what the gate reads."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main
from millcert.provenance.manifest import Manifest, parse_manifest

TABLE = pa.table({"id": ["a", "b", "c"], "label": [1, 2, 3]})


def manifest_of(folder: Path, *options: str) -> Manifest:
    assert main(["source", "manifest", str(folder), "--name", "lab", "--rows", "--replace", *options]) == 0
    return parse_manifest((folder / "millcert-manifest.json").read_bytes())


def test_rows_and_row_trees_are_stated_and_do_not_depend_on_the_file_format(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TABLE.to_pylist()))
    (tmp_path / "README.md").write_text("about")

    entries = {entry.path: entry for entry in manifest_of(tmp_path).files}

    assert entries["a.parquet"].rows == entries["b.jsonl"].rows == 3
    assert entries["a.parquet"].row_tree_root == entries["b.jsonl"].row_tree_root
    assert entries["a.parquet"].schema_id == entries["b.jsonl"].schema_id
    assert entries["README.md"].rows is None


def test_a_schema_file_types_what_has_no_types(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "b.jsonl").write_text('{"label": 1}\n')
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"label": "int8"}))

    typed = manifest_of(data, "--schema", str(schema)).files[0]
    inferred = manifest_of(data).files[0]

    assert typed.rows == inferred.rows == 1
    assert typed.schema_id != inferred.schema_id


def test_a_folder_without_data_files_has_no_rows_to_state(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")

    assert manifest_of(tmp_path).files[0].rows is None


def test_a_schema_without_rows_and_a_missing_schema_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.jsonl").write_text('{"label": 1}\n')
    absent = str(tmp_path / "absent.json")

    assert main(["source", "manifest", str(tmp_path), "--name", "lab", "--schema", absent]) == 2
    assert "needs --rows" in capsys.readouterr().err
    assert main(["source", "manifest", str(tmp_path), "--name", "lab", "--rows", "--schema", absent]) == 2
    assert "no schema file" in capsys.readouterr().err
