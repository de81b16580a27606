"""What a run writes into the ledger."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from millcert.errors import InternalError, StoreError
from millcert.pipelines.recording import Recorder, run_entries
from millcert.pipelines.ruling import RunResult
from millcert.testing.private_postgres import PrivatePostgres

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

NOW = datetime(2026, 11, 23, tzinfo=UTC)
STAMP = "2026-11-23T00:00:00Z"


def test_leaves_are_sources_input_checks_and_last_the_verdict_and_name_no_sample(bench: Workbench) -> None:
    verdict = bench.vet().verdict

    entries = run_entries(verdict, STAMP)

    assert [entry.kind for entry in entries] == ["manifest", "manifest", "manifest", "check_summary", "verdict"]
    assert entries[-1].body["verdict_digest"] == verdict.digest
    assert entries[-1].body["samples"]["admitted"] == 360
    assert not any(word in repr(entries) for word in ("sample 7", "north/a.parquet"))
    assert run_entries(verdict, STAMP) == entries


def test_a_run_without_a_verdict_or_admitted_without_a_manifest_is_never_recorded(
    bench: Workbench, tmp_path: Path
) -> None:
    verdict = bench.vet().verdict
    recorder = Recorder.open(tmp_path / "fresh", "test.example/ledger")
    nothing = RunResult(None, (), None, None, None, (), ())
    anything: Any = None

    for result in (nothing, replace(nothing, verdict=verdict)):
        with pytest.raises(InternalError):
            recorder.record(anything, result, anything, NOW)


def test_a_state_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError):
        Recorder.open(tmp_path / "file" / "state", "test.example/ledger")


def test_a_run_records_into_the_database_that_the_url_names_and_keeps_its_keys_in_the_state_folder(
    tmp_path: Path, postgres: PrivatePostgres
) -> None:
    url = postgres.url_of(schema="recording")

    recorder = Recorder.open(tmp_path / "state", "example.com/l", url)
    again = Recorder.open(tmp_path / "state", "example.com/l", url)

    assert again.ledger_key.private_bytes_raw() == recorder.ledger_key.private_bytes_raw()
    assert {path.name for path in (tmp_path / "state").iterdir()} >= {"keys", "ledger.vkey"}
    assert not (tmp_path / "state" / "ledger.db").exists()
    assert str(postgres.folder) not in repr(recorder)
