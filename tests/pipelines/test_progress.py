"""How far a job is: records that workers append and the driver sums."""

from pathlib import Path

from millcert.pipelines.progress import Progress, ProgressReporter, read_progress

NONE = Progress(0, 0, {})


def test_what_workers_say_is_summed_from_where_the_reader_was(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.touch()
    one, other = ProgressReporter(str(path)), ProgressReporter(str(path))
    one.advance(1, rows=10)
    other.advance(1, rows=5, size_bytes=100)

    offset, first = read_progress(path, 0, NONE)
    one.advance(2, rows=1)
    _, second = read_progress(path, offset, first)

    assert first == Progress(15, 100, {1: 15})
    assert second == Progress(16, 100, {1: 15, 2: 1})
    one.close()
    other.close()


def test_half_a_record_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.touch()
    reporter = ProgressReporter(str(path))
    reporter.advance(1, rows=3)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:7])

    offset, sums = read_progress(path, 0, NONE)
    path.write_bytes(whole + whole)

    assert (offset, sums.rows) == (len(whole), 3)
    assert read_progress(path, offset, sums)[1].rows == 6
    reporter.close()


def test_progress_that_cannot_be_written_or_read_is_silent(tmp_path: Path) -> None:
    """Rule: progress never decides anything."""
    reporter = ProgressReporter(str(tmp_path / "absent" / "progress"))
    reporter.advance(1, rows=1)
    reporter.advance(1, rows=1)
    reporter.close()
    nowhere = ProgressReporter("")
    nowhere.advance(1, rows=1)
    nowhere.close()

    assert read_progress(tmp_path / "absent", 7, NONE) == (7, NONE)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_reporter_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.touch()
    reporter = ProgressReporter(str(path))
    reporter.close()
    reporter.advance(1, rows=1)

    assert path.read_bytes() == b""
