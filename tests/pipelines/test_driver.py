"""The whole run, attacked and unlucky: files that change between reads, odd collections, stores that fail."""

import errno
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem

from millcert.checks.base import Accumulator, GroupEvidence, Scores
from millcert.errors import (
    DigestMismatchError,
    InternalError,
    InvalidSampleError,
    ManifestError,
    MillcertError,
    StoreError,
    UsageError,
)
from millcert.pipelines.driver import VetOptions, _NoWatcher, run_pipeline, runner_error, vet_dataset
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.planning import Workspace, plan_run
from millcert.pipelines.records import error_from
from millcert.pipelines.runner import pipeline_options
from millcert.pipelines.sample_leaves import new_secret
from millcert.policy import load_policy
from millcert.provenance.admission import admit_path
from millcert.provenance.certificate import verify_certificate
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.keys import load_key, load_public_key

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

#: The view of source_shift, spectral_signatures, and label_noise on data with a self view alone.
SELF_VIEW = ({"view": "embedding_self"}, {"epsilon": 0.05}, {"view": "embedding_self"})
EMBEDDING = pa.list_(pa.float32(), 6)


def accept_all_unsigned(bench: Workbench) -> None:
    """Take the signatures away: one rule for everything, accepted as unknown."""
    for path in bench.data.rglob("millcert-manifest.json*"):
        path.unlink()
    bench.policy.pop("trust", None)
    bench.policy["sources"] = [{"name": "all", "path": "**", "unsigned": "accept_as_unknown"}]
    bench.policy["verdict"]["max_unknown_provenance_fraction"] = 1.0


def start_over(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    for path in sorted(bench.data.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def nothing_is_left(bench: Workbench) -> bool:
    return not bench.out.exists() and not [path for path in bench.top.iterdir() if path.name.startswith(".out")]


@pytest.mark.parametrize("step", ["describe", "pass 1", "pass 2", "score"])
def test_a_file_that_changes_before_any_read_is_refused(bench: Workbench, step: str) -> None:
    """Rule: bytes are hashed and decoded from the same buffer in every pass."""
    target = bench.data / "north" / "deep" / "b.jsonl"

    def change(now: str) -> None:
        if now == step:
            target.write_bytes(target.read_bytes().replace(b"sample 7 ", b"sample 8 "))

    with pytest.raises(DigestMismatchError, match=r"b\.jsonl"):
        bench.vet(engine=bench.plain(change))
    assert nothing_is_left(bench)


@pytest.mark.parametrize("step", ["pass 1", "pass 2", "pass 3"])
def test_files_that_all_change_before_a_pass_are_refused_by_every_check(bench: Workbench, step: str) -> None:
    """A later pass that brings nothing must not meet a check that relies on what an earlier one brought."""
    names = ("robust_spectral", "source_shift", "spectral_signatures", "label_noise")
    bench.policy["dataset"]["columns"] = {"label": "label", "embedding_self": "embedding"}
    bench.policy["checks"] = [{"check": name, "max_flagged_fraction": 1.0} for name in names]
    for rule, config in zip(bench.policy["checks"][1:], SELF_VIEW, strict=True):
        rule["config"] = config

    def change(now: str) -> None:
        for path in bench.data.rglob("?.*") if now == step else ():
            path.write_bytes(path.read_bytes() + b"\n")

    with pytest.raises(DigestMismatchError, match=r"a\.parquet"):
        bench.vet(engine=bench.plain(change))
    assert nothing_is_left(bench)


def test_a_file_that_changes_before_it_is_hashed_is_not_what_was_signed(bench: Workbench) -> None:
    target = bench.data / "south" / "c.arrow"

    def change(now: str) -> None:
        if now == "hash":
            target.write_bytes(target.read_bytes() + b"\x00")

    with pytest.raises(DigestMismatchError):
        bench.vet(engine=bench.plain(change))


def test_an_auxiliary_file_that_changes_behind_the_verdict_is_not_published(bench: Workbench) -> None:
    (bench.data / "north" / "README.md").write_text("what this is")
    bench.sign("north")

    def change(step: str) -> None:
        if step == "computed":
            (bench.data / "north" / "README.md").write_text("something else")

    with pytest.raises(DigestMismatchError):
        bench.vet(after=change)
    assert nothing_is_left(bench)


def test_a_file_turned_into_a_link_between_reads_is_judged_by_its_bytes(bench: Workbench) -> None:
    target = bench.data / "north" / "a.parquet"

    def change(now: str) -> None:
        if now == "pass 1":
            other = bench.top / "other.parquet"
            pq.write_table(pq.read_table(target).slice(1), other)
            target.unlink()
            target.symlink_to(other)

    with pytest.raises(DigestMismatchError):
        bench.vet(engine=bench.plain(change))


def test_a_link_among_the_data_is_refused(bench: Workbench) -> None:
    (bench.data / "north" / "x.parquet").symlink_to(bench.data / "north" / "a.parquet")

    with pytest.raises(UsageError, match="link"):
        bench.vet()


def test_a_source_of_which_only_the_manifest_is_left_is_missing_and_not_absent(bench: Workbench) -> None:
    (bench.data / "south" / "c.arrow").unlink()

    with pytest.raises(ManifestError, match="missing"):
        bench.vet()


def test_a_source_with_only_auxiliary_files_is_verified_and_copied(bench: Workbench) -> None:
    (bench.data / "south" / "c.arrow").unlink()
    (bench.data / "south" / "README.md").write_text("nothing yet")
    bench.sign("south")

    verdict = bench.vet().verdict

    assert verdict.decision == "admitted"
    assert [(source.name, source.samples, source.status) for source in verdict.sources] == [
        ("north", 240, "verified"),
        ("south", 0, "verified"),
    ]
    assert (bench.out / "admitted" / "south" / "README.md").exists()


@pytest.mark.parametrize(
    "name",
    ["north/A.parquet", "north/\u202eb.parquet", "north/two\nlines.parquet", "north/back\\slash.parquet"],
)
def test_names_that_no_manifest_may_hold_are_refused_before_anything_is_read(bench: Workbench, name: str) -> None:
    accept_all_unsigned(bench)
    source, _, base = name.partition("/")
    (bench.data / source / base).write_bytes((bench.data / "north" / "a.parquet").read_bytes())
    steps: list[str] = []

    with pytest.raises(ManifestError):
        bench.vet(engine=bench.plain(steps.append))
    assert steps == []


def test_a_folder_that_has_the_name_of_a_quarantine_file_is_refused(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    target = bench.data / "north" / "a.parquet.parquet" / "b.parquet"
    target.parent.mkdir()
    target.write_bytes((bench.data / "north" / "a.parquet").read_bytes())

    with pytest.raises(UsageError, match="Rename"):
        bench.vet()


def flip_labels(table: pa.Table, rows: list[int]) -> pa.Table:
    label = table.column("label").to_numpy().copy()
    label[rows] = (label[rows] + 1) % 3
    return table.set_column(1, "label", pa.array(label))


def test_files_whose_names_differ_by_a_suffix_keep_their_quarantines_apart(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    table = pq.read_table(bench.data / "north" / "a.parquet")
    bench.write("north", "a.parquet", flip_labels(table, [4]))
    bench.write("north", "a.parquet.parquet", flip_labels(table, [9]))
    bench.policy["checks"][0]["on_flagged"] = "quarantine"

    bench.vet()

    held = {
        name: pq.read_table(bench.out / "quarantine" / "north" / name).column("millcert_row").to_pylist()
        for name in ("a.parquet.parquet", "a.parquet.parquet.parquet")
    }
    assert held == {"a.parquet.parquet": [4], "a.parquet.parquet.parquet": [9]}


def test_doubted_labels_are_held_back_and_reject_nothing(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    table = pq.read_table(bench.data / "north" / "a.parquet")
    bench.write("north", "a.parquet", flip_labels(table, [4, 9]))
    bench.policy["checks"][0] |= {"on_flagged": "quarantine", "max_flagged_fraction": 0.0, "over_limit": "warn"}
    bench.policy["verdict"]["max_quarantined_fraction"] = 0.0

    verdict = bench.vet().verdict

    assert (verdict.decision, verdict.samples.quarantined) == ("admitted", 2)
    assert [(cluster.kind, cluster.action) for cluster in verdict.clusters] == [("label_noise", "warn")] * len(
        verdict.clusters
    )


def test_files_named_like_what_is_published_lie_under_admitted_only(bench: Workbench) -> None:
    bench.write("north", "verdict.json.jsonl", pq.read_table(bench.data / "north" / "a.parquet").slice(0, 5))
    bench.sign("north")

    assert bench.vet().verdict.decision == "admitted"
    assert (bench.out / "admitted" / "north" / "verdict.json.jsonl").exists()
    assert json.loads((bench.out / "verdict.json").read_text())["decision"] == "admitted"


def test_flags_that_are_only_reported_still_reject_above_the_limit(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    table = pq.read_table(bench.data / "north" / "a.parquet")
    bench.write("north", "a.parquet", flip_labels(table, [4, 9, 40]))
    bench.policy["checks"][0] |= {"max_flagged_fraction": 0.0, "over_limit": "reject", "on_flagged": "report"}

    result = bench.vet()

    assert result.verdict.decision == "rejected"
    assert result.verdict.samples.quarantined == 0
    assert result.findings == 3
    assert not (bench.out / "admitted").exists()


def test_files_without_rows_are_part_of_the_data_set(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    bench.write("north", "empty.parquet", pq.read_table(bench.data / "north" / "a.parquet").slice(0, 0))

    verdict = bench.vet().verdict

    assert (verdict.decision, verdict.files, verdict.samples.seen) == ("admitted", 4, 360)
    assert pq.read_table(bench.out / "admitted" / "north" / "empty.parquet").num_rows == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_no_sample_rejects_and_one_sample_is_too_few_to_judge(bench: Workbench, rows: int) -> None:
    table = pq.read_table(bench.data / "north" / "a.parquet").slice(0, rows)
    start_over(bench)
    bench.write("north", "a.parquet", table)

    verdict = bench.vet().verdict

    assert verdict.decision == ("inconclusive" if rows else "rejected")
    assert not (bench.out / "admitted").exists()


def test_one_class_is_too_few_for_label_noise(bench: Workbench) -> None:
    table = pq.read_table(bench.data / "north" / "a.parquet")
    start_over(bench)
    bench.write("north", "a.parquet", table.filter(pa.array(table.column("label").to_numpy() == 1)))

    assert bench.vet().verdict.decision == "inconclusive"


def test_data_of_which_every_row_is_malformed_is_rejected_whatever_the_policy_allows(bench: Workbench) -> None:
    start_over(bench)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.full(12, np.nan, np.float32)), 6)
    bench.write("north", "a.parquet", pa.table({"label": ["0", "1"], "embedding": embedding}))
    bench.policy["dataset"]["max_malformed_fraction"] = 1.0

    result = bench.vet()

    assert result.verdict.decision == "rejected"
    assert "samples.none_admitted" in {reason.code for reason in result.verdict.reasons}
    assert (result.malformed, result.verdict.samples.malformed) == (2, 2)


def test_many_small_files_with_names_in_all_scripts(bench: Workbench) -> None:
    rows = pq.read_table(bench.data / "north" / "a.parquet").to_pylist()
    start_over(bench)
    bench.data.mkdir(exist_ok=True)
    names = [
        f"{script}-{number}.jsonl" for number in range(25) for script in ("данные", "数据", "plain", "naïve", "日")
    ]
    for index, name in enumerate(names):
        (bench.data / name).write_text(json.dumps(rows[index % len(rows)]) + "\n")

    result = bench.vet()

    assert (result.verdict.decision, result.verdict.files) == ("admitted", 125)
    assert {path.name for path in (bench.out / "admitted").iterdir()} == set(names)


def save_to_disk(folder: Path, table: pa.Table) -> None:
    """Write a folder as `datasets.Dataset.save_to_disk` does, with two shards."""
    folder.mkdir(parents=True)
    shards = [f"data-{index:05d}-of-00002.arrow" for index in range(2)]
    for index, name in enumerate(shards):
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table.slice(index * 75, 75), max_chunksize=20)
    files = [{"filename": name} for name in shards]
    state = {"_data_files": files, "_fingerprint": "0f", "_format_type": None, "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def test_a_folder_of_hugging_face_comes_out_as_one_that_can_be_loaded(bench: Workbench) -> None:
    table = flip_labels(pq.read_table(bench.data / "north" / "a.parquet"), [4, 100])
    start_over(bench)
    save_to_disk(bench.data / "train", table)
    bench.policy["checks"][0]["on_flagged"] = "quarantine"

    result = bench.vet()

    admitted = bench.out / "admitted" / "train"
    assert result.verdict.samples.quarantined == 2
    assert (admitted / "state.json").read_bytes() == (bench.data / "train" / "state.json").read_bytes()
    assert (admitted / "dataset_info.json").exists()
    kept = [
        pa.ipc.open_stream(admitted / entry["filename"]).read_all()
        for entry in json.loads((admitted / "state.json").read_text())["_data_files"]
    ]
    expected = table.filter(pa.array(~np.isin(np.arange(150), [4, 100])))
    assert pa.concat_tables(kept).equals(expected)
    state = bench.top / "state"
    certificate = verify_certificate(
        (bench.out / "certificate.json").read_bytes(),
        gate_keys=[load_public_key(state / "keys" / "gate.pub")],
        ledger_vkeys=[vkey_of("test.example/ledger", load_key(state / "keys" / "ledger.key"))],
    )
    assert admit_path(bench.out / "admitted", certificate).files == 4


def test_compressed_text_is_read_and_written_back_compressed(bench: Workbench) -> None:
    table = pq.read_table(bench.data / "north" / "a.parquet")
    start_over(bench)
    lines = [json.dumps(row).encode() + b"\n" for row in flip_labels(table, [4]).to_pylist()]
    lines[7] = b"{broken\n"
    bench.data.mkdir(exist_ok=True)
    (bench.data / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    bench.policy["checks"][0]["on_flagged"] = "quarantine"
    bench.policy["dataset"]["max_malformed_fraction"] = 0.01

    result = bench.vet()

    assert (result.verdict.decision, result.verdict.samples.quarantined, result.malformed) == ("admitted", 1, 1)
    kept = gzip.decompress((bench.out / "admitted" / "a.jsonl.gz").read_bytes())
    assert kept == b"".join(line for number, line in enumerate(lines) if number not in {4, 7})


def test_a_table_of_text_is_judged_by_the_checks_that_it_can_feed(bench: Workbench) -> None:
    start_over(bench)
    bench.data.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    names = ["cat", "dog", "emu"]
    rows = [f'{index},{names[label]},"a, ""quoted"" text"' for index, label in enumerate(rng.integers(0, 3, 60))]
    rows[5] = "5,cat"
    (bench.data / "a.csv").write_text("id,label,text\n" + "\n".join(rows) + "\n")
    bench.policy["dataset"] = {"name": "csv", "columns": {"label": "label"}, "max_malformed_fraction": 0.1}
    (bench.top / "suite.json").write_text(
        json.dumps(
            {
                "name": "s",
                "expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}],
                "meta": {"great_expectations_version": "1.24.1"},
            }
        )
    )
    bench.policy["expectations"] = {"suite": "suite.json"}
    plan = replace(planned(bench, without_checks=True), staging=str(bench.top / "staging"))

    result = bench.plain()(plan, None, _NoWatcher())

    assert result.faults == ()
    assert result.verdict is not None
    assert result.verdict.samples.malformed == 1
    assert result.verdict.expectations is not None
    assert result.verdict.expectations.success
    kept = (bench.top / "staging" / "publish" / "admitted" / "a.csv").read_text()
    assert kept == "id,label,text\n" + "\n".join(row for row in rows if row != "5,cat") + "\n"


def planned(bench: Workbench, *, without_checks: bool = False, datasets: tuple[str, ...] = ()) -> VetPlan:
    """Return the plan of the bench's run; tests put their own check into it."""
    if without_checks:
        bench.policy["checks"] = [{"check": "label_noise", "max_flagged_fraction": 0.0}]
        bench.policy["dataset"]["columns"].setdefault("embedding_external", "embedding")
    loaded = load_policy(bench.save_policy())
    plan = plan_run(loaded, datasets or (str(bench.data),), Workspace(str(bench.top / "staging")))
    new_secret(plan.staging)
    if without_checks:
        plan = replace(plan, checks=(), roles={"label": plan.roles["label"]})
    return plan


@dataclass(frozen=True)
class Odd:
    """A check that does what tests tell it to."""

    name: ClassVar[str] = "odd"
    version: ClassVar[str] = "1"
    columns: ClassVar[frozenset[Any]] = frozenset({"label"})
    severity: ClassVar[Any] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset()
    where: str = ""
    kind: str = "ours"

    @property
    def passes(self) -> int:
        return 1

    def _may_fail(self, where: str) -> None:
        if where == self.where:
            raise InvalidSampleError("odd: not in the domain") if self.kind == "ours" else ValueError("odd: no idea")

    def empty(self) -> Accumulator:
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        self._may_fail("add")
        return {"all": acc.get("all", 0) + batch.num_rows}

    def merge(self, accs: Any) -> Accumulator:
        return {"all": sum(acc.get("all", 0) for acc in accs)}

    def fit(self, acc: Accumulator, model: Any) -> Any:
        self._may_fail("fit")
        return acc.get("all", 0)

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        self._may_fail("score")
        count = batch.num_rows - (self.where == "short")
        none = np.zeros(count, dtype=bool)
        score = np.full(count, np.nan if self.where == "nan" else 0.5)
        return Scores(score, np.ones(count), none, pa.array(["g"] * count), "odd.reason")

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        return ()


def with_check(bench: Workbench, check: Odd) -> VetPlan:
    plan = planned(bench)
    return replace(plan, checks=(PlannedCheck(check, "0" * 64, 1.0, "warn", "report"),))


@pytest.mark.parametrize("where", ["add", "score"])
def test_a_check_that_refuses_a_batch_keeps_its_error_class_on_beam(bench: Workbench, where: str) -> None:
    """Rule: workers never raise for bad user data across a Beam border: they emit a record."""
    plan = with_check(bench, Odd(where))

    result = run_pipeline(plan, pipeline_options([]), _NoWatcher())

    assert result.verdict is None
    with pytest.raises(InvalidSampleError, match="odd: not in the domain"):
        raise error_from(list(result.faults))


@pytest.mark.parametrize("where", ["add", "fit", "score"])
def test_any_other_exception_in_a_worker_is_a_bug_with_a_readable_message(bench: Workbench, where: str) -> None:
    plan = with_check(bench, Odd(where, "theirs"))

    with pytest.raises(InternalError, match=r"ValueError: odd: no idea"):
        run_pipeline(plan, pipeline_options([]), _NoWatcher())


@pytest.mark.parametrize("where", ["short", "nan"])
def test_scores_of_the_wrong_shape_are_a_bug_of_the_check(bench: Workbench, where: str) -> None:
    result = bench.plain()(with_check(bench, Odd(where)), None, _NoWatcher())

    assert {fault.code for fault in result.faults} == {InternalError.code}
    assert "odd" in result.faults[0].message


def test_a_check_that_meets_a_refused_data_set_is_not_asked_to_fit(bench: Workbench) -> None:
    plan = with_check(bench, Odd("fit", "theirs"))
    (bench.data / "north" / "a.parquet").write_bytes(b"PAR1 not any more")

    result = run_pipeline(plan, pipeline_options([]), _NoWatcher())

    assert {fault.code for fault in result.faults} == {DigestMismatchError.code}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "bad sector"), StoreError),
        (MemoryError(), StoreError),
        (RuntimeError("Channel closed prematurely."), StoreError),
        (RuntimeError("Traceback ...\nMemoryError [while running 'Vet/Pass1']"), StoreError),
        (RuntimeError("Traceback ...\nOSError: [Errno 28] No space left on device [while running 'x']"), StoreError),
        (RuntimeError("Traceback ...\nKeyError: 'x' [while running 'Vet/Rule']\n\n"), InternalError),
        (RuntimeError(), InternalError),
    ],
)
def test_a_runner_that_fails_is_the_machines_fault_or_ours(error: Exception, kind: type[MillcertError]) -> None:
    found = runner_error(error)

    assert type(found) is kind
    assert "\n" not in found.message


def test_a_state_folder_or_an_output_that_cannot_be_written_is_known_before_the_data_is_read(bench: Workbench) -> None:
    (bench.top / "file").write_text("in the way")
    steps: list[str] = []
    loaded = load_policy(bench.save_policy())
    good = VetOptions((str(bench.data),), out=str(bench.out), state=bench.top / "state")

    for options in (
        replace(good, state=bench.top / "file" / "state"),
        replace(good, out=str(bench.top / "file" / "out")),
    ):
        with pytest.raises(StoreError):
            vet_dataset(loaded, options, engine=bench.plain(steps.append))
    assert steps == []


def test_keys_that_others_can_read_are_refused(bench: Workbench) -> None:
    bench.vet()
    (bench.top / "state" / "keys" / "gate.key").chmod(0o644)

    with pytest.raises(UsageError, match="others"):
        bench.vet(replace=True)


def test_an_interrupted_run_leaves_nothing_behind(bench: Workbench) -> None:
    def interrupt(now: str) -> None:
        if now == "score":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.vet(engine=bench.plain(interrupt))
    assert nothing_is_left(bench)


def test_paths_may_be_written_as_file_uris(bench: Workbench) -> None:
    loaded = load_policy(bench.save_policy())
    options = VetOptions((f"file://{bench.data}",), out=f"file://{bench.out}", state=bench.top / "state")

    result = vet_dataset(loaded, options, engine=bench.plain())

    assert result.out == str(bench.out)
    assert (bench.out / "admitted" / "north" / "a.parquet").exists()


class _Upload(BytesIO):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def write(self, data: Any) -> int:
        MemoryFileSystem.room -= len(data)
        if MemoryFileSystem.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            MemoryFileSystem.files[self._path] = self.getvalue()
        super().close()


class MemoryFileSystem(FileSystem):  # type: ignore[misc]  # apache_beam carries no types
    """A store without folders, renames or local paths, as object stores are. room: bytes that it still takes."""

    files: ClassVar[dict[str, bytes]] = {}
    room: ClassVar[int] = 1 << 30

    @classmethod
    def scheme(cls) -> str:
        return "mem"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        raise AssertionError("an object store has no folders")

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, data in sorted(self.files.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def create(self, path: str, mime_type: str = "", compression_type: str = "auto") -> Any:
        return _Upload(path)

    def open(self, path: str, mime_type: str = "", compression_type: str = "auto") -> Any:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        return BytesIO(self.files[path])

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.files[target] = self.files[source]

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise AssertionError("an object store has no rename")

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self.files[path])

    def last_updated(self, path: str) -> float:
        return 0.0

    def checksum(self, path: str) -> str:
        return ""

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(self.files[path]))

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.files[path]


@pytest.fixture
def store(bench: Workbench) -> Iterator[dict[str, bytes]]:
    """The bench's data at mem://lake/data."""
    files = MemoryFileSystem.files
    files.clear()
    for path in sorted(bench.data.rglob("*")):
        if path.is_file():
            files[f"mem://lake/data/{path.relative_to(bench.data).as_posix()}"] = path.read_bytes()
    MemoryFileSystem.room = 1 << 30
    yield files
    files.clear()


def published_names(store: dict[str, bytes]) -> set[str]:
    return {path.removeprefix("mem://lake/out/") for path in store if not path.startswith("mem://lake/data/")}


ADMITTED = {"admitted/north/a.parquet", "admitted/north/deep/b.jsonl", "admitted/south/c.arrow"}
DOCUMENTS = {"certificate.json", "findings.parquet", "malformed.parquet", "manifest.json", "rates.json", "verdict.json"}


def vet_remote(bench: Workbench, *, replace_old: bool = False, on_beam: bool = False, **more: Any) -> Any:
    options = VetOptions(("mem://lake/data",), out="mem://lake/out", state=bench.top / "state", replace=replace_old)
    engine = None if on_beam else bench.plain()
    return vet_dataset(load_policy(bench.save_policy()), options, engine=engine, **more)


def test_the_whole_job_runs_on_a_file_system_that_is_not_local(bench: Workbench, store: dict[str, bytes]) -> None:
    local = bench.vet()
    (bench.top / "state").rename(bench.top / "state-local")  # a verdict tells what changed since the last one in it
    steps: list[str] = []

    result = vet_remote(bench, on_beam=True, after=steps.append)

    assert result.verdict.digest == local.verdict.digest
    assert published_names(store) == ADMITTED | DOCUMENTS
    assert store["mem://lake/out/admitted/south/c.arrow"] == store["mem://lake/data/south/c.arrow"]
    assert steps.index("certificate.json") < steps.index("admitted/north/a.parquet") < steps.index("verdict.json")


def test_a_remote_output_is_replaced_only_on_demand_and_leaves_nothing_of_the_old(
    bench: Workbench, store: dict[str, bytes]
) -> None:
    vet_remote(bench)
    with pytest.raises(UsageError, match="exists already"):
        vet_remote(bench)
    bench.policy["checks"][0] |= {"max_flagged_fraction": 0.0, "over_limit": "reject"}
    bench.policy["dataset"]["max_malformed_fraction"] = 0.0
    bench.policy["verdict"]["max_unknown_provenance_fraction"] = 0.0
    bench.policy["sources"][0] = {"name": "north", "path": "north/**", "unsigned": "accept_as_unknown"}
    for name in ("millcert-manifest.json", "millcert-manifest.json.sigstore.json"):
        del store[f"mem://lake/data/north/{name}"]

    result = vet_remote(bench, replace_old=True)

    assert result.verdict.decision == "rejected"
    assert published_names(store) == DOCUMENTS - {"certificate.json"}


@pytest.mark.parametrize("room", [0, 3_000, 20_000])
def test_a_store_that_is_full_ends_the_run_with_nothing_published(
    bench: Workbench, store: dict[str, bytes], room: int
) -> None:
    MemoryFileSystem.room = room

    with pytest.raises(StoreError, match="No space"):
        vet_remote(bench)
    assert not [name for name in published_names(store) if name in DOCUMENTS | ADMITTED]


def test_an_integrity_failure_stays_one_where_the_staging_folder_cannot_be_removed(
    bench: Workbench, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store["mem://lake/data/south/c.arrow"] += b"\x00"

    def refuse(self: MemoryFileSystem, paths: list[str]) -> None:
        raise OSError(errno.EACCES, "not allowed")

    monkeypatch.setattr(MemoryFileSystem, "delete", refuse)

    with pytest.raises(DigestMismatchError):
        vet_remote(bench)


def test_an_output_on_a_file_system_that_beam_lacks_is_a_usage_error(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="no file system"):
        vet_dataset(
            load_policy(bench.save_policy()),
            VetOptions((str(bench.data),), out="nowhere://bucket/out", state=bench.top / "state"),
            engine=bench.plain(),
        )


def test_an_admitted_folder_that_cannot_be_taken_away_is_no_quiet_success(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    bench.policy["verdict"]["max_unknown_provenance_fraction"] = 0.0
    for name in ("millcert-manifest.json", "millcert-manifest.json.sigstore.json"):
        (bench.data / "south" / name).unlink()
    bench.policy["sources"][1] = {"name": "south", "path": "south/**", "unsigned": "accept_as_unknown"}
    remove = shutil.rmtree

    def refuse(path: Any, **options: Any) -> None:
        if os.fspath(path).endswith("/publish/admitted"):
            raise OSError(errno.EBUSY, "busy")
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)

    with pytest.raises(StoreError, match="busy"):
        bench.vet()
    assert nothing_is_left(bench)


def test_the_bounds_of_the_policy_hold_where_kept_samples_are_written(bench: Workbench) -> None:
    accept_all_unsigned(bench)
    table = pq.read_table(bench.data / "north" / "a.parquet")
    bench.write("north", "a.parquet", flip_labels(table, [4]))
    bench.policy["checks"][0]["on_flagged"] = "quarantine"
    bench.policy["limits"] = {"max_batch_bytes": 700}

    assert bench.vet().verdict.samples.quarantined == 1
    kept = pq.read_table(bench.out / "admitted" / "north" / "a.parquet")
    assert kept.column("id").to_pylist() == [f"1-{row}" for row in range(150) if row != 4]


def test_a_watcher_is_told_of_the_start_and_of_every_end(bench: Workbench) -> None:
    told: list[str] = []

    class Watcher:
        def start(self, plan: VetPlan) -> None:
            told.append("start")

        def stop(self) -> None:
            told.append("stop")

    plan = replace(planned(bench), staging=str(bench.top / "file" / "staging"))
    (bench.top / "file").write_text("in the way")

    with pytest.raises(MillcertError):
        raise error_from(list(run_pipeline(plan, pipeline_options([]), Watcher()).faults))
    assert told == ["start", "stop"]
