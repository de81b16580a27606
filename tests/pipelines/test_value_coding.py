"""Values keep their meaning through bytes, and bytes that are no value are refused."""

from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.conformance import same_bits
from millcert.checks.conformance_data import planted_for
from millcert.checks.registry import get_check, list_checks
from millcert.pipelines.records import ShardFacts
from millcert.pipelines.value_coding import UncodableError, decode_value, digest_of, encode_value

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.text()), inner)
        | st.sets(st.text() | st.integers())
        | st.frozensets(st.binary())
    ),
    max_leaves=20,
)


#: Of checks that have no configuration by default.
REQUIRED: dict[str, dict[str, object]] = {"shortcut_mining": {"shape": (2, 6), "patch": 2, "least_side": 2}}


@given(PLAIN)
def test_what_is_decoded_is_what_was_encoded(value: Any) -> None:
    decoded = decode_value(encode_value(value))

    assert decoded == value
    assert type(decoded) is type(value)
    assert digest_of(decoded) == digest_of(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_equal_dicts_have_one_digest_in_whatever_order_they_were_filled(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


@given(PLAIN, st.data())
def test_bytes_that_were_cut_or_prolonged_are_refused(value: Any, data: st.DataObject) -> None:
    whole = encode_value(value)

    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    for wrong in (cut, whole + b"N"):
        with pytest.raises(UncodableError):
            decode_value(wrong)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_are_refused(data: bytes) -> None:
    with suppress(UncodableError):
        decode_value(data)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([1 << 80, -3], dtype=object),
        np.zeros(3, [("key", ">u8", (4,)), ("row", ">u8")]),
        np.float64(-0.0),
        np.zeros((0, 4)),
    ],
    ids=["array", "large numbers", "records", "scalar", "empty"],
)
def test_numpy_values_keep_type_shape_and_bits(value: Any) -> None:
    decoded = decode_value(encode_value(value))

    assert type(decoded) is type(value)
    assert decoded.dtype == value.dtype
    assert decoded.shape == value.shape
    assert decoded.tobytes() == value.tobytes() if not value.dtype.hasobject else decoded.tolist() == value.tolist()


@pytest.mark.parametrize(
    "value",
    [
        pa.array(["a", None]),
        pa.chunked_array([["a"], ["b"]]),
        pa.record_batch({"a": [1, 2]}),
        pa.record_batch({"a": pa.array([], pa.int8())}),
        pa.table({"a": [1.5]}),
        pa.schema([pa.field("a", pa.int64(), nullable=False)], {"k": "v"}),
        pa.list_(pa.float32(), 3),
        pa.scalar(3, pa.int16()),
        slice(1, None, 2),
        ShardFacts("a", 1, 2, "ab"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrow_values_slices_and_our_own_records_come_back_equal(value: Any) -> None:
    decoded = decode_value(encode_value(value))

    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("value", [object(), iter([1]), {"a": lambda: 1}, np.array([{}]).view(), st.DataObject])
def test_what_has_no_form_is_refused_and_not_guessed(value: Any) -> None:
    if isinstance(value, np.ndarray):
        value = value.astype([("a", object)])
    with pytest.raises(UncodableError):
        encode_value(value)


@pytest.mark.parametrize(
    "named",
    [
        b"os:system",
        b"subprocess:Popen",
        b"millcert.errors:UsageError",
        b"millcert.pipelines.value_coding:os",
        b"millcert.pipelines.records:np",
        b"millcert.no_such_module:X",
        b"millcertain:X",
    ],
)
def test_bytes_can_ask_for_no_class_but_records_of_the_packages_that_were_named(named: bytes) -> None:
    data = b"c" + len(named).to_bytes(8, "little") + named + bytes(8)

    with pytest.raises(UncodableError):
        decode_value(data)


def test_values_nested_too_deep_are_refused_both_ways() -> None:
    value: Any = None
    for _ in range(60):
        value = [value]

    with pytest.raises(UncodableError):
        encode_value(value)
    with pytest.raises(UncodableError):
        decode_value(b"l\x01\0\0\0\0\0\0\0" * 60 + b"N")


@pytest.mark.parametrize("name", [name for name in list_checks() if name != "spectral_signatures"])
def test_accumulators_of_every_check_keep_their_bits_and_models_have_a_digest(name: str) -> None:
    """What is kept gives the same model: the accumulators that come back are bit for bit those that were kept."""
    check = get_check(name, REQUIRED.get(name))
    batches = planted_for(check.covers).batches(160)
    model: Any = None

    for _ in range(check.passes):
        acc = check.empty()
        for batch in batches:
            acc = check.add(acc, batch, model)
        kept = decode_value(encode_value(dict(acc)))
        assert same_bits(kept, dict(acc))
        assert digest_of(model) == digest_of(decode_value(encode_value(model)))
        model = check.fit(kept, model)
