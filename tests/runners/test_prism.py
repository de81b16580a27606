"""Prism, Beam's strict portable runner in Go: the same answer as in process. Skips where it is not installed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runners.conftest import Bench, Run
else:
    Bench = Run = Any

PRISM = Path(os.environ.get("MILLCERT_PRISM", Path(__file__).parents[2] / ".venvs/prism/prism"))


@pytest.fixture
def prism() -> tuple[str, ...]:
    """Return the options that choose the installed Prism."""
    if not PRISM.is_file():
        assert "MILLCERT_REQUIRE_PRISM" not in os.environ, f"{PRISM} is missing: run scripts/prism/install.sh"
        pytest.skip("Prism is not installed: run scripts/prism/install.sh")
    digest = hashlib.sha256(PRISM.read_bytes()).hexdigest()
    return "--runner=PrismRunner", f"--prism_location={PRISM}", f"--prism_sha256={digest}"


@pytest.mark.slow
def test_prism_gives_the_local_answer(runs: Bench, local: Run, prism: tuple[str, ...]) -> None:
    run = runs.vet("prism", *prism)

    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer


@pytest.mark.long
def test_a_driver_that_was_killed_is_resumed_on_prism(
    prism: tuple[str, ...], hold_resumed: Callable[..., None]
) -> None:
    hold_resumed("prism-resumed", *prism)


@pytest.mark.long
def test_prism_gives_the_local_answer_on_a_million_samples(
    million: Bench, same_as_local: Callable[[str, Run], None], prism: tuple[str, ...]
) -> None:
    """Rule: same input, same verdict digest, on any runner."""
    same_as_local("Prism", million.vet("prism", *prism, timeout=3000))
