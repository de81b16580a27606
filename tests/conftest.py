"""Fixtures that several test folders use."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    """Return tests/planted.py: tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("millcert_tests_planted", _HERE / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return ../shared/data; skips the test where it is not there."""
    folder = _HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not there")
    return folder
