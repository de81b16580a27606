"""A run that dies between any two writes leaves no readable `admitted/` without its certificate."""

import json
import multiprocessing
import os
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.provenance.ledger import open_ledger

STEPS = [
    "planned",
    "computed",
    "parts merged",
    "recorded",
    "documents written",
    "report written",
    "synced",
    "renamed",
]
ORIGIN = "test.example/ledger"
POLICY = f"""
version: 1
dataset: {{name: small, columns: {{label: label, embedding_external: embedding}}, max_malformed_fraction: 0}}
sources: [{{name: lab, path: "**", unsigned: accept_as_unknown}}]
checks: [{{check: label_noise, max_flagged_fraction: 0.5}}]
verdict: {{max_quarantined_fraction: 0.5, max_unknown_provenance_fraction: 1}}
ledger: {{origin: {ORIGIN}}}
"""


def prepare(top: Path) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 90)
    embedding = (rng.normal(size=(90, 4)) + 6 * np.eye(4)[label]).astype(np.float32)
    (top / "data").mkdir()
    pq.write_table(
        pa.table({"label": label, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 4)}),
        top / "data" / "a.parquet",
    )
    (top / "policy.yaml").write_text(POLICY)


def run_until(top: str, step: str) -> None:
    """Run the gate in this process and kill it, as the kernel would, right behind a step."""
    from millcert.pipelines.driver import VetOptions, vet_dataset
    from millcert.policy import load_policy

    engine = runpy.run_path(str(Path(__file__).parents[1] / "plain_engine.py"))["PlainEngine"]()

    def after(done: str) -> None:
        if done == step:
            os._exit(9)

    folder = Path(top)
    options = VetOptions((f"{top}/data",), out=f"{top}/out", state=folder / "state")
    vet_dataset(
        load_policy(folder / "policy.yaml"),
        options,
        render_report=lambda _: "<html></html>",
        after=after,
        engine=engine,
    )
    os._exit(0)


def run_in_process(top: Path, step: str) -> int | None:
    # A server that has imported everything forks one child a run, in which nothing has happened yet.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["millcert.gate", "millcert.checks.detectors.label_noise"])
    process = context.Process(target=run_until, args=(str(top), step))
    process.start()
    process.join(timeout=120)
    return process.exitcode


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_behind_any_step_publishes_all_or_nothing_and_the_next_run_succeeds(
    tmp_path: Path, step: str
) -> None:
    """Rule: kill between any two writes: no readable `admitted/` without a certificate."""
    prepare(tmp_path)

    assert run_in_process(tmp_path, step) == 9

    out = tmp_path / "out"
    if step == "renamed":
        assert (out / "certificate.json").exists()
        assert json.loads((out / "verdict.json").read_bytes())["decision"] == "admitted"
        with open_ledger(tmp_path / "state" / "ledger.db", origin=ORIGIN) as ledger:
            assert ledger.find(kind="certificate")
    else:
        assert not out.exists()
        assert run_in_process(tmp_path, "none") == 0
        assert (out / "admitted" / "a.parquet").exists()
        assert (out / "certificate.json").exists()
        assert {path.name for path in tmp_path.iterdir()} == {"data", "out", "policy.yaml", "state"}
