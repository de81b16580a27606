"""Prism, Beam's strict portable runner in Go: the same answer as in process. Skips where it is not installed."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runners.conftest import Bench, Run
else:
    Bench = Run = Any

PRISM = Path(os.environ.get("MILLCERT_PRISM", Path(__file__).parents[2] / ".venvs/prism/prism"))


@pytest.mark.slow
def test_prism_gives_the_local_answer(runs: Bench, local: Run) -> None:
    if not PRISM.is_file():
        assert "MILLCERT_REQUIRE_PRISM" not in os.environ, f"{PRISM} is missing: run scripts/prism/install.sh"
        pytest.skip("Prism is not installed: run scripts/prism/install.sh")
    digest = hashlib.sha256(PRISM.read_bytes()).hexdigest()

    run = runs.vet("prism", "--runner=PrismRunner", f"--prism_location={PRISM}", f"--prism_sha256={digest}")

    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer
