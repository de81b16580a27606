"""The page of threats names tests that exist."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "threats.md").read_text()


def test_every_row_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(test_\w+))?`", PAGE)
    assert len(named) > 30
    for file, function in named:
        path = TOP / file
        assert path.is_file(), file
        tree = ast.parse(path.read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in defined, f"{file}::{function}"


def test_every_row_has_a_control_and_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attack")]
    assert all(len(row.strip("|").split(" | ")) == 3 and "`tests/" in row for row in rows)
