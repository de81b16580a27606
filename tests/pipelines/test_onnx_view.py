"""A user's ONNX model: its answer, and what is refused of a hostile one. The models are written byte by byte."""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from millcert.errors import DigestMismatchError, HostileDataError, InvalidSampleError, UsageError
from millcert.pipelines import onnx_view
from millcert.pipelines.driver import Engine, VetOptions, VetResult, vet_dataset
from millcert.pipelines.embed import EmbedOptions, embed_dataset
from millcert.pipelines.onnx_view import OnnxView
from millcert.policy import load_policy

pytest.importorskip("onnxruntime")


def varint(number: int) -> bytes:
    found = bytearray()
    while True:
        number, low = number >> 7, number & 127
        found.append(low | (128 if number else 0))
        if not number:
            return bytes(found)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def inside(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, weights: np.ndarray, *, more: bytes = b"") -> bytes:
    dims = b"".join(number(1, size) for size in weights.shape)
    body = dims + number(2, 1) + inside(8, name)
    return body + (more or inside(9, weights.astype("<f4").tobytes()))


def value(name: str, shape: Sequence[int | str], kind: int = 1) -> bytes:
    sides = b"".join(inside(1, number(1, side) if isinstance(side, int) else inside(2, side)) for side in shape)
    return inside(1, name) + inside(2, inside(1, number(1, kind) + inside(2, sides)))


def node(op: str, inputs: Iterable[str], output: str, domain: str = "") -> bytes:
    names = b"".join(inside(1, name) for name in inputs)
    return names + inside(2, output) + inside(4, op) + (inside(7, domain) if domain else b"")


def model(
    nodes: Sequence[bytes], weights: Sequence[bytes], shape: Sequence[int | str], *, kind: int = 1, domain: str = ""
) -> bytes:
    graph = (
        b"".join(inside(1, one) for one in nodes)
        + inside(2, "g")
        + b"".join(inside(5, one) for one in weights)
        + inside(11, value("x", shape, kind))
        + inside(12, value("y", ["n", "m"]))
    )
    opsets = inside(8, number(2, 13)) + (inside(8, inside(1, domain) + number(2, 1)) if domain else b"")
    return number(1, 8) + inside(7, graph) + opsets


WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2)
LINEAR = model([node("MatMul", ["x", "w"], "y")], [tensor("w", WEIGHTS)], ["n", 4])


def load(data: bytes, shape: Sequence[int] = (), layout: Any = "flat", scale: float = 1.0) -> OnnxView:
    return OnnxView(data, hashlib.sha256(data).hexdigest(), shape, layout, scale)


def test_a_model_gives_its_embedding_for_every_row_in_any_batch() -> None:
    rows = np.random.default_rng(0).normal(size=(75, 4))
    view = load(LINEAR, scale=2.0)

    found = view.embed(rows)

    assert found.dtype == np.float32
    assert np.allclose(found, rows / 2 @ WEIGHTS, atol=1e-5)
    assert np.array_equal(found, np.concatenate([view.embed(rows[start : start + 7]) for start in range(0, 75, 7)]))
    assert view.embed(rows[:0]).shape == (0, 2)


@pytest.mark.parametrize(("layout", "order"), [("nchw", (0, 3, 1, 2)), ("nhwc", (0, 1, 2, 3))])
def test_images_are_laid_out_as_the_model_wants_them(layout: str, order: tuple[int, ...]) -> None:
    data = model([node("Flatten", ["x"], "y")], [], ["n", "a", "b", "c"])
    images = np.arange(2 * 2 * 2 * 3, dtype=np.float64).reshape(2, 12)

    found = load(data, (2, 2, 3), layout).embed(images)

    assert np.array_equal(found, images.reshape(2, 2, 2, 3).transpose(order).reshape(2, -1))


def test_a_model_with_another_digest_is_not_loaded() -> None:
    with pytest.raises(DigestMismatchError, match="expected 00"):
        OnnxView(LINEAR, "00" * 32, (), "flat", 1.0)


def test_a_model_that_is_too_large_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_view, "MAX_MODEL_BYTES", 10)

    with pytest.raises(HostileDataError, match="at most 10"):
        load(LINEAR)


OUTSIDE = number(14, 1) + inside(13, inside(1, "location") + inside(2, "/etc/passwd"))
HOSTILE = {
    "no model": b"nonsense",
    "empty": b"",
    "cut off": LINEAR[:-20],
    "custom operator": model([node("Evil", ["x"], "y", "evil.example")], [], ["n", 4], domain="evil.example"),
    "tensor in another file": model([node("MatMul", ["x", "w"], "y")], [tensor("w", WEIGHTS, more=OUTSIDE)], ["n", 4]),
    "integers": model([node("Identity", ["x"], "y")], [], ["n", 4], kind=7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused(name: str) -> None:
    with pytest.raises(HostileDataError):
        load(HOSTILE[name])


def test_a_model_that_answers_no_numbers_is_refused() -> None:
    endless = model([node("Log", ["x"], "y")], [], ["n", 4])
    one_row = model([node("ReduceMean", ["x"], "y")], [], ["n", 4])

    with pytest.raises(InvalidSampleError, match="not finite"):
        load(endless).embed(np.full((2, 4), -1.0))
    with pytest.raises(InvalidSampleError, match="a row a sample"):
        load(one_row).embed(np.ones((2, 4)))


def test_rows_that_the_model_cannot_take_are_refused() -> None:
    with pytest.raises(InvalidSampleError, match="failed on"):
        load(LINEAR).embed(np.ones((2, 5)))


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(UsageError, match="needs onnxruntime"):
        load(LINEAR)


def test_the_bytes_of_a_model_are_what_protobuf_says() -> None:
    assert struct.unpack("<8f", WEIGHTS.tobytes()) == tuple(float(one) for one in range(8))
    assert varint(300) == b"\xac\x02"


def judged_by(folder: Path, network: bytes, engine: Engine) -> VetResult:
    """Return the verdict on 240 rows, 10 of them flipped, by a model's answers as probabilities beside the table."""
    random = np.random.default_rng(3)
    true = random.integers(0, 2, 240)
    given = np.where(np.arange(240) < 10, 1 - true, true)
    rows = random.normal(size=(240, 4)) + 4 * np.eye(4)[true * 2]
    (folder / "data").mkdir(parents=True)
    cells = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 4)
    pq.write_table(pa.table({"label": given, "cells": cells}), folder / "data" / "a.parquet")
    policy = {
        "version": 1,
        "dataset": {
            "name": "small",
            "columns": {"label": "label", "features": "cells", "pred_probs": "view:embedding_external"},
            "classes": ["0", "1"],
            "max_malformed_fraction": 0,
        },
        "sources": [{"name": "lab", "path": "**", "unsigned": "accept_as_unknown"}],
        "checks": [
            {
                "check": "label_noise",
                "max_flagged_fraction": 0.5,
                "config": {"view": "pred_probs", "second_view": "features"},
            }
        ],
        "verdict": {"max_quarantined_fraction": 1, "max_unknown_provenance_fraction": 1},
        "ledger": {"origin": "test.example/ledger"},
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    loaded, data, views = load_policy(folder / "policy.yaml"), (str(folder / "data"),), str(folder / "views")
    digest = hashlib.sha256(network).hexdigest()
    making = EmbedOptions(
        data, views, makes_self=False, external="onnx", model=network, model_sha256=digest, layout="flat"
    )
    embed_dataset(loaded, making)
    return vet_dataset(loaded, VetOptions(data, str(folder / "out"), folder / "state", views=views), engine=engine)


AXES = np.array([[2, 0], [0, 0], [0, 2], [0, 0]], dtype=np.float32)


def test_class_probabilities_of_a_users_model_are_judged_as_pred_probs(tmp_path: Path, plain_engine: Any) -> None:
    """One that was trained elsewhere: `millcert embed --external onnx`, and the role pred_probs reads the view."""
    steps = [node("MatMul", ["x", "w"], "z"), node("Softmax", ["z"], "y")]

    verdict = judged_by(tmp_path, model(steps, [tensor("w", AXES)], ["n", 4]), plain_engine()).verdict

    found = pq.read_table(tmp_path / "out" / "findings.parquet").to_pylist()
    assert 8 <= verdict.checks[0].flagged <= 12
    assert sum(item["row"] < 10 for item in found) >= 8


def test_scores_of_a_users_model_that_are_no_probabilities_are_refused(tmp_path: Path, plain_engine: Any) -> None:
    network = model([node("MatMul", ["x", "w"], "y")], [tensor("w", AXES)], ["n", 4])

    verdict = judged_by(tmp_path, network, plain_engine()).verdict

    assert verdict.decision == "rejected"
    assert verdict.samples.malformed == 240
