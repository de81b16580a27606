"""Fixtures that several test folders use."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from millcert.errors import StoreError
from millcert.testing.private_postgres import PrivatePostgres, is_required

_HERE = Path(__file__).parent

# Tests never judge by time: a busy machine is no fault of the code. In CI the same examples are drawn in every run, so
# that a change is judged by what it changed; elsewhere new ones are looked for.
settings.register_profile(
    "house",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would what tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """Return a PostgreSQL server of this process's own; skips where there is none, unless there must be one."""
    try:
        server = PrivatePostgres.start()
    except StoreError as error:
        if is_required():
            raise
        pytest.skip(f"no PostgreSQL server: {error.message}")
    yield server
    server.remove()
