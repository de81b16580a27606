"""Later passes decode the columns that play a role, and no other; of a file with malformed records, all."""

import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import HostileDataError
from millcert.pipelines import fields
from millcert.pipelines.formats import ReadLimits, decode, read_schema
from millcert.pipelines.formats.parquet import plan_steps

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """(file, columns, steps) of each decoding of samples."""
    seen: list[tuple[str, Any, Any]] = []

    def spy(kind: str, file: Any, schema: pa.Schema, limits: Any, **more: Any) -> Any:
        seen.append((more["name"], more["columns"], more["steps"]))
        return decode(kind, file, schema, limits, **more)

    monkeypatch.setattr(fields, "decode", spy)
    return seen


def parquet_only(bench: Workbench) -> None:
    (bench.data / "north" / "deep" / "b.jsonl").unlink()
    (bench.data / "south" / "c.arrow").unlink()
    for source in ("north", "south"):
        (bench.data / source / "millcert-manifest.json.sigstore.json").unlink()
        (bench.data / source / "millcert-manifest.json").unlink()
    bench.policy["sources"] = [{"name": "all", "path": "**", "unsigned": "accept_as_unknown"}]
    bench.policy["verdict"]["max_unknown_provenance_fraction"] = 1.0
    bench.policy["dataset"]["max_malformed_fraction"] = 1.0
    del bench.policy["trust"]


def test_a_pass_decodes_what_its_checks_need(bench: Workbench, calls: list[tuple[str, Any, Any]]) -> None:
    """Rule: the digests of rows need all columns in the first pass only."""
    parquet_only(bench)

    bench.vet()

    reads = json.loads((bench.out / "verdict.json").read_text())["reads"]
    columns = [names for _, names, _ in calls]
    assert columns == [None, *[frozenset({"label", "embedding"})] * (reads - 4), None]


def test_a_file_with_malformed_records_is_decoded_whole_in_each_pass(
    bench: Workbench, calls: list[tuple[str, Any, Any]]
) -> None:
    """Rule: which records are malformed is seen in all columns; every pass must see the same rows."""
    parquet_only(bench)
    path = bench.data / "north" / "a.parquet"
    table = pq.read_table(path)
    raw = pa.array([b"\xff" if row == 7 else b"fine" for row in range(table.num_rows)])
    broken = pa.Array.from_buffers(pa.string(), table.num_rows, raw.buffers())
    pq.write_table(table.set_column(2, "text", broken), path, row_group_size=64)

    bench.vet()

    assert {names for _, names, _ in calls} == {None}
    assert json.loads((bench.out / "verdict.json").read_text())["samples"]["malformed"] == 1


def test_pages_of_a_small_file_are_looked_through_once(bench: Workbench, calls: list[tuple[str, Any, Any]]) -> None:
    """Rule: what may be decoded at once is found from the bytes before the passes, and goes with the file to each."""
    parquet_only(bench)

    bench.vet()

    assert {steps for _, _, steps in calls} == {(64 * 256,) * 3}


def test_a_small_bomb_decodes_no_more_at_once_where_its_steps_were_found_before() -> None:
    """Rule: no step decodes more than the limits allow, also where a reader was told how much it may decode."""
    sink, limits = io.BytesIO(), ReadLimits()
    text = pa.array(["x" * (8 << 20)]).dictionary_encode()
    pq.write_table(pa.table({"text": text.take(pa.array([0] * 100))}), sink, compression="zstd")
    schema = read_schema("parquet", sink, limits).schema

    steps = plan_steps(sink, limits, name="bomb")

    assert len(sink.getvalue()) < 100_000
    assert steps == (1,)
    for told in (steps, ()):
        batches = decode("parquet", sink, schema, limits, steps=told)
        assert next(batches).batch.num_rows == 1
        with pytest.raises(HostileDataError, match="decodes to more"):
            list(batches)
