"""How record batches cross a stage."""

import apache_beam as beam
import numpy as np
import pyarrow as pa

from millcert.pipelines.coders import RecordBatchCoder, register


def test_a_batch_comes_back_as_it_went_with_its_metadata() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1, None], "b": ["x", "y"]}).replace_schema_metadata({b"k": b"v"})
    coder = RecordBatchCoder()

    back = coder.decode(coder.encode(batch))

    assert back.equals(batch, check_metadata=True)
    assert coder.encode(batch) == coder.encode(back)
    assert coder.is_deterministic()


def test_a_slice_ships_its_own_rows_and_not_its_parent() -> None:
    """Rule: a sliced batch must not ship its whole parent buffer."""
    part = pa.RecordBatch.from_arrays([pa.array(np.arange(100_000))], ["a"]).slice(10, 3)
    coder = RecordBatchCoder()

    assert len(coder.encode(part)) < 1000
    assert coder.estimate_size(part) == 24
    assert coder.decode(coder.encode(part)).column(0).to_pylist() == [10, 11, 12]


def test_the_coder_is_registered_and_registering_twice_is_harmless() -> None:
    register()

    assert isinstance(beam.coders.registry.get_coder(pa.RecordBatch), RecordBatchCoder)
    assert RecordBatchCoder().to_type_hint() is pa.RecordBatch
