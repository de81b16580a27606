"""A run that dies between any two writes leaves no half `admitted/`, and the next run finishes what it had decided."""

import multiprocessing
import os
import runpy
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main
from millcert.provenance.ledger import LoggedEntry, open_ledger
from millcert.provenance.work_key import forget_work

#: Nothing was decided yet: the next run decides.
UNDECIDED = ["planned", "computed", "parts merged"]
#: The decision is in the ledger, or about to be: the next run finishes it.
DECIDED = [
    "decided",
    "run logged",
    "samples logged",
    "certified",
    "recorded",
    "documents written",
    "report written",
    "synced",
]
#: The output is there.
PUBLISHED = ["renamed", "published"]
#: Files that say the same whenever they are made.
ALIKE = ("findings.parquet", "malformed.parquet", "manifest.json", "verdict.json")
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
    (top / "data").mkdir()
    prepare_file(top / "data" / "a.parquet", seed=1)
    (top / "policy.yaml").write_text(POLICY)


def prepare_file(path: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, 90)
    embedding = (rng.normal(size=(90, 4)) + 6 * np.eye(4)[label]).astype(np.float32)
    label[:5] = (label[:5] + 1) % 3
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 4)
    pq.write_table(pa.table({"label": label, "embedding": vectors}), path)


def run_until(top: str, step: str, out: str, is_resumed: bool, hours: int) -> None:
    """Run the gate in this process and kill it, as the kernel would, right behind a step."""
    from millcert.pipelines.driver import VetOptions, vet_dataset
    from millcert.policy import load_policy

    engine = runpy.run_path(str(Path(__file__).parents[1] / "plain_engine.py"))["PlainEngine"]()

    def after(done: str) -> None:
        if done == step:
            os._exit(9)

    folder = Path(top)
    result = vet_dataset(
        load_policy(folder / "policy.yaml"),
        VetOptions(
            (f"{top}/data",),
            out=f"{top}/{out}",
            state=folder / f"state-{out}",
            resume=is_resumed,
            least_work_bytes=0,
            now=lambda: datetime(2026, 11, 23, 12, tzinfo=UTC) + timedelta(hours=hours),
        ),
        render_report=lambda about: f"<html>{about.result.verdict.digest if about.result.verdict else ''}</html>",
        after=after,
        engine=engine,
    )
    (folder / "decided").write_text(result.decided_at)
    os._exit(0)


def run_in_process(top: Path, step: str, *, out: str = "out", is_resumed: bool = False, hours: int = 0) -> int | None:
    # A server that has imported everything forks one child a run, in which nothing has happened yet.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["millcert.gate", "millcert.checks.detectors.label_noise"])
    process = context.Process(target=run_until, args=(str(top), step, out, is_resumed, hours))
    process.start()
    process.join(timeout=120)
    return process.exitcode


def logged(top: Path) -> list[LoggedEntry]:
    with open_ledger(top / "state-out" / "ledger.db", origin=ORIGIN) as ledger:
        return ledger.find(limit=1000)


def kinds(top: Path) -> Counter[str]:
    return Counter(one.entry.kind for one in logged(top))


def published(out: Path) -> Mapping[str, bytes]:
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name in ALIKE or "/" in name}


def is_admissible(top: Path) -> bool:
    arguments = ["admit", str(top / "out" / "admitted"), "--certificate", str(top / "out" / "certificate.json")]
    return main([*arguments, "--state", str(top / "state-out")]) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, bytes], Counter[str]]:
    """What a run that nobody disturbs publishes and logs."""
    top = tmp_path_factory.mktemp("whole")
    prepare(top)
    assert run_in_process(top, "none") == 0
    return published(top / "out"), kinds(top)


@pytest.mark.parametrize("is_resumed", [False, True], ids=["again", "resumed"])
@pytest.mark.parametrize("step", [*UNDECIDED, *DECIDED, *PUBLISHED])
def test_a_run_killed_behind_any_step_and_run_again_is_one_decision_and_one_output(
    tmp_path: Path, whole: tuple[Mapping[str, bytes], Counter[str]], step: str, is_resumed: bool
) -> None:
    """Rule: kill between any two writes: no readable `admitted/` without a certificate, nothing is decided twice."""
    prepare(tmp_path)
    out = tmp_path / "out"

    assert run_in_process(tmp_path, step) == 9
    before = logged(tmp_path)
    assert out.exists() == (step in PUBLISHED)
    if step in PUBLISHED:
        assert published(out) == whole[0]
        assert is_admissible(tmp_path)

    assert run_in_process(tmp_path, "none", is_resumed=is_resumed, hours=5) == 0

    assert published(out) == whole[0]
    assert is_admissible(tmp_path)
    assert kinds(tmp_path) == whole[1]
    assert logged(tmp_path)[: len(before)] == before
    is_earlier = step not in UNDECIDED
    assert (tmp_path / "decided").read_text() == ("2026-11-23T12:00:00Z" if is_earlier else "")
    assert {one.entry.recorded_at for one in logged(tmp_path)} == {f"2026-11-23T{12 if is_earlier else 17}:00:00Z"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "decided", "out", "policy.yaml", "state-out"}
    assert not list((tmp_path / "state-out" / "unpublished").iterdir())
    assert len(list((tmp_path / "state-out" / "provenance").iterdir())) == 1 + (
        step == "parts merged" and not is_resumed
    )


def test_a_run_killed_again_behind_every_step_is_still_one_decision(
    tmp_path: Path, whole: tuple[Mapping[str, bytes], Counter[str]]
) -> None:
    prepare(tmp_path)
    for hours, step in enumerate([*DECIDED, *PUBLISHED, "recorded"]):
        assert run_in_process(tmp_path, step, is_resumed=bool(hours % 2), hours=hours) == 9

    assert run_in_process(tmp_path, "none", hours=99) == 0

    assert published(tmp_path / "out") == whole[0]
    assert kinds(tmp_path) == whole[1]
    assert is_admissible(tmp_path)


@pytest.mark.parametrize("change", ["data", "policy"])
def test_what_changed_since_the_kill_is_decided_anew_with_other_salts(tmp_path: Path, change: str) -> None:
    """The decision that was logged stays in the ledger; it says nothing of the other data, and shares no leaf."""
    prepare(tmp_path)
    assert run_in_process(tmp_path, "recorded") == 9
    if change == "data":
        prepare_file(tmp_path / "data" / "b.parquet", seed=2)
    else:
        (tmp_path / "policy.yaml").write_text(POLICY.replace("max_flagged_fraction: 0.5", "max_flagged_fraction: 0.4"))

    assert run_in_process(tmp_path, "none", hours=5) == 0

    assert kinds(tmp_path)["verdict"] == 2
    assert (tmp_path / "decided").read_text() == ""
    assert is_admissible(tmp_path)
    one, other = [leaves(folder) for folder in sorted((tmp_path / "state-out" / "provenance").iterdir())]
    assert not one & other
    assert not list(tmp_path.glob(".out*"))


def test_a_run_whose_evidence_was_erased_is_not_finished(tmp_path: Path) -> None:
    """What the killed run left cannot be opened any more, so its salts are used by nobody."""
    prepare(tmp_path)
    assert run_in_process(tmp_path, "recorded") == 9
    forget_work(tmp_path / "state-out")

    assert run_in_process(tmp_path, "none", hours=5) == 0

    assert kinds(tmp_path)["verdict"] == 2
    one, other = [leaves(folder) for folder in sorted((tmp_path / "state-out" / "provenance").iterdir())]
    assert not one & other


def leaves(folder: Path) -> set[bytes]:
    data = (folder / "rows.0").read_bytes()
    return {data[at : at + 32] for at in range(0, len(data), 32)}
