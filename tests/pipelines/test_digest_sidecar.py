"""Digests are computed once, and nobody takes a kept one that was not checked."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millcert.checks.sample_digest import sample_digests
from millcert.errors import DigestMismatchError, InternalError, MillcertError, StoreError
from millcert.pipelines.digest_sidecar import digest_source, kept_digests, recorded_digests
from millcert.pipelines.driver import Engine
from millcert.pipelines.formats import ReadLimits

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

LIMITS = ReadLimits(max_file_bytes=1)


def rows(count: int) -> pa.RecordBatch:
    ids, texts = pa.array(range(count), pa.int64()), pa.array([f"row {row}" for row in range(count)], pa.string())
    return pa.record_batch({"id": ids, "text": texts})


def record(staging: Path, *counts: int) -> str:
    with recorded_digests(str(staging), "a") as source:
        for count in counts:
            assert (source.of(rows(count)) == sample_digests(rows(count))).all()
        return source.end()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 30))
def test_what_is_kept_is_what_was_computed_however_it_is_asked_for(
    tmp_path: Path, counts: list[int], step: int
) -> None:
    whole = pa.Table.from_batches([rows(count) for count in counts], rows(0).schema).combine_chunks()
    sha256 = record(tmp_path, *counts)

    with kept_digests(str(tmp_path), "a", sha256, LIMITS) as source:
        for batch in whole.to_batches(max_chunksize=step):
            assert source.of(batch).tobytes() == sample_digests(batch).tobytes()
        assert source.end() == ""


@pytest.mark.parametrize(("asked", "word"), [(4, "more"), (2, "fewer")])
def test_a_sidecar_of_another_length_than_the_file_is_refused(tmp_path: Path, asked: int, word: str) -> None:
    sha256 = record(tmp_path, 3)

    with pytest.raises(InternalError, match=word), kept_digests(str(tmp_path), "a", sha256, LIMITS) as source:
        source.of(rows(asked))


def test_a_fault_of_the_reader_is_not_covered_by_one_of_the_sidecar(tmp_path: Path) -> None:
    sha256 = record(tmp_path, 3)

    with pytest.raises(KeyError), kept_digests(str(tmp_path), "a", sha256, LIMITS):
        raise KeyError("of the reader")


@pytest.mark.parametrize("sidecars", [None, {}, {"another": "00"}])
def test_without_a_sidecar_the_digests_are_computed(tmp_path: Path, sidecars: dict[str, str] | None) -> None:
    with digest_source(str(tmp_path), "a", sidecars, LIMITS) as source:
        assert (source.of(rows(5)) == sample_digests(rows(5))).all()
        assert source.end() == ""


@pytest.mark.parametrize("step", ["pass 2", "score"])
@pytest.mark.parametrize(("harm", "error"), [("flip", DigestMismatchError), ("remove", StoreError)])
def test_a_later_pass_refuses_digests_that_were_changed_or_are_gone(
    bench: Workbench,
    plain_engine: Callable[..., Engine],
    tmp_path: Path,
    step: str,
    harm: str,
    error: type[MillcertError],
) -> None:
    """Rule: a pass takes no byte that it did not check."""

    def harmful(name: str) -> None:
        if name == step:
            path = min(tmp_path.rglob("parts/digests/*"))
            data = bytearray(path.read_bytes())
            data[40] ^= 1
            path.unlink() if harm == "remove" else path.write_bytes(data)

    with pytest.raises(error):
        bench.vet(engine=plain_engine(harmful))

    assert not bench.out.exists()


def test_no_sidecar_is_written_where_no_check_asks_for_digests(
    bench: Workbench, plain_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    found: list[Path] = []
    bench.policy["checks"] = [{"check": "robust_spectral", "max_flagged_fraction": 0.1}]
    bench.policy["dataset"]["columns"] = {"label": "label", "embedding_self": "embedding"}

    bench.vet(engine=plain_engine(lambda _: found.extend(tmp_path.rglob("parts/digests/*"))))

    assert not found
