"""Outputs appear all at once or not at all, whatever happens between two writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from millcert.errors import StoreError, UsageError
from millcert.pipelines.publish import (
    promote,
    promote_in_order,
    refuse_existing,
    refuse_overlap,
    staging_for,
    write_file,
)


class Crash(BaseException):
    """What a test raises where a process could die."""


def crash_at(step: str) -> object:
    def after(done: str) -> None:
        if done == step:
            raise Crash(step)

    return after


def fill(folder: str, text: str) -> str:
    published = f"{folder}/publish"
    for name in ("admitted/a.txt", "certificate.json", "verdict.json"):
        write_file(f"{published}/{name}", text.encode())
    return published


def contents(out: Path) -> dict[str, str]:
    return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}


def test_a_new_output_appears_whole_and_staging_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staging_for(str(out), replace=False) as staging:
        published = fill(staging, "new")
        assert not out.exists()
        promote(published, str(out))

    assert set(contents(out)) == {"admitted/a.txt", "certificate.json", "verdict.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", ["synced", "old set aside", "renamed"])
def test_a_crash_while_replacing_leaves_the_old_or_the_new_output_whole(tmp_path: Path, step: str) -> None:
    """Rule: after a crash at any line the old output is there untouched, or the new one is there whole."""
    out = tmp_path / "out"
    with staging_for(str(out), replace=False) as staging:
        promote(fill(staging, "old"), str(out))

    with pytest.raises(Crash), staging_for(str(out), replace=True) as staging:
        promote(fill(staging, "new"), str(out), after=crash_at(step))  # type: ignore[arg-type]

    # The next run restores first, through the same code.
    with staging_for(str(out), replace=True):
        assert set(contents(out).values()) in ({"old"}, {"new"})
        assert len(contents(out)) == 3
    assert len([path for path in tmp_path.iterdir() if path.name != "out"]) == 0


def test_left_over_staging_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    stale = tmp_path / ".out.staging-dead"
    stale.mkdir()
    (stale / "half").write_text("half")

    with staging_for(str(tmp_path / "out"), replace=False):
        assert not stale.exists()


def test_two_runs_into_one_output_at_a_time_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with (
        staging_for(out, replace=False),
        pytest.raises(UsageError, match="Another run"),
        staging_for(out, replace=False),
    ):
        pass


def test_an_existing_output_is_refused_unless_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refuse_existing(str(tmp_path / "out"), replace=False)  # an empty folder is nobody's output
    (tmp_path / "out" / "verdict.json").write_text("{}")

    with pytest.raises(UsageError, match="exists already"):
        refuse_existing(str(tmp_path / "out"), replace=False)
    refuse_existing(str(tmp_path / "out"), replace=True)


def make_file(top: Path) -> None:
    (top / "out").write_text("a file of the user")


def make_foreign_folder(top: Path) -> None:
    write_file(str(top / "out" / "verdict.json"), b"{}")
    write_file(str(top / "out" / "thesis.tex"), b"no copy")


def make_folder_without_verdict(top: Path) -> None:
    write_file(str(top / "out" / "admitted" / "a.parquet"), b"data")


@pytest.mark.parametrize("make", [make_file, make_foreign_folder, make_folder_without_verdict])
def test_only_what_a_run_published_is_ever_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Rule: --replace moves the old folder away and deletes it, so it must be an output and nothing else."""
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(UsageError, match="not the output"), staging_for(str(tmp_path / "out"), replace=True):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("out", "dataset", "state"),
    [
        ("data", "data", "state"),
        ("data/out", "data", "state"),
        ("top", "top/data", "state"),
        ("top", "data", "top/.millcert"),
    ],
)
def test_an_output_that_holds_the_data_or_the_keys_or_lies_in_the_data_is_refused(
    tmp_path: Path, out: str, dataset: str, state: str
) -> None:
    (tmp_path / dataset).mkdir(parents=True)

    with pytest.raises(UsageError, match="inside"):
        refuse_overlap(str(tmp_path / out), [str(tmp_path / dataset)], tmp_path / state)
    refuse_overlap(str(tmp_path / "elsewhere"), [str(tmp_path / dataset)], tmp_path / state)
    refuse_overlap("mem://anywhere", [str(tmp_path / dataset)], tmp_path / state)


def test_staging_of_other_outputs_is_left_alone_whatever_the_output_is_called(tmp_path: Path) -> None:
    other = tmp_path / ".other.staging-running"
    other.mkdir()

    with staging_for(str(tmp_path / "*"), replace=False):
        assert other.exists()


def test_an_output_that_is_a_link_publishes_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    for text in ("old", "new"):
        with staging_for(str(tmp_path / "out"), replace=True) as staging:
            promote(fill(staging, text), str(tmp_path / "out"))

    assert (tmp_path / "out").is_symlink()
    assert set(contents(tmp_path / "disk" / "out").values()) == {"new"}
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]


def test_an_empty_folder_is_replaced_by_the_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with staging_for(str(out), replace=False) as staging:
        promote(fill(staging, "new"), str(out))

    assert len(contents(out)) == 3


def test_without_an_atomic_rename_the_certificate_comes_first_and_the_verdict_last(tmp_path: Path) -> None:
    done: list[str] = []
    published = fill(str(tmp_path / "staging"), "new")

    promote_in_order(published, str(tmp_path / "out"), after=done.append)

    assert done == ["certificate.json", "admitted/a.txt", "verdict.json"]
    assert contents(tmp_path / "out") == contents(Path(published))


def test_a_file_system_that_refuses_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(StoreError, match="Cannot write"):
        write_file(str(tmp_path / "file" / "x"), b"x")
    with pytest.raises(StoreError, match="Cannot"), staging_for(str(tmp_path / "file" / "out"), replace=False):
        pass
    with pytest.raises(StoreError, match="Nothing was half-written"):
        promote(str(tmp_path / "absent"), str(tmp_path / "out"))
