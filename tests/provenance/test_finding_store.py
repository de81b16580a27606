"""A run's findings in files: the same bytes whether they fitted in memory or not."""

from pathlib import Path

import pytest

from millcert.provenance import finding_store
from millcert.provenance.finding_store import RECORDS_FILE, write_findings
from millcert.provenance.merkle import leaf_hash


def written(folder: Path) -> tuple[tuple[int, bytes], dict[str, bytes]]:
    folder.mkdir()
    records = [(leaf_hash(number.to_bytes(2, "big")), b"x" * (number % 7)) for number in range(700)]
    found = write_findings(folder, records)
    return found, {path.name: path.read_bytes() for path in folder.iterdir()}


def test_findings_that_went_to_files_are_sorted_as_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule: memory does not grow with what is flagged, and the result does not depend on it."""
    whole, files = written(tmp_path / "memory")
    monkeypatch.setattr(finding_store, "SORTED_BYTES", 76 * 100)

    spilled, same = written(tmp_path / "files")

    entries = [files[RECORDS_FILE][at : at + 76] for at in range(0, len(files[RECORDS_FILE]), 76)]
    assert whole[0] == 700
    assert entries == sorted(entries)
    assert (spilled, same) == (whole, files)
