"""A user's ONNX model as an external view, through onnxruntime, with the care that a file from elsewhere needs.

Steps:
  1. The model is one file of bounded size, read once; its SHA-256 must be the one that the user gave.
  2. onnxruntime loads those bytes: no path, so no external tensor file; no custom operator library is ever registered.
  3. One input and one output of floats, (n, d) after flattening, finite and bounded.
  4. One thread, and always the same batch shape, so the bits of a sample's view do not depend on who stood beside it.
The caller owes: memory and time limits of the process, for a model can ask for as much as it likes.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from millcert.errors import DigestMismatchError, HostileDataError, InvalidSampleError, UsageError

Layout: TypeAlias = Literal["nchw", "nhwc", "flat"]

MAX_MODEL_BYTES = 512 << 20
MAX_WIDTH = 16_384
#: Rows of every call; the last call of a batch is filled up with zeros.
BATCH = 32


class OnnxView:
    """A loaded model: `embed(rows)` gives float32 (n, width)."""

    def __init__(self, model: bytes, expected_sha256: str, shape: Sequence[int], layout: Layout, scale: float) -> None:
        """Load a model.

        Args:
            model: the file's bytes.
            expected_sha256: hex.
            shape: of an image, height, width and channels; () for rows as they are.
            layout: how the model wants images.
            scale: what pixels are divided by.

        Raises:
            DigestMismatchError: the model is another.
            HostileDataError: it is too large, no model, or not of one input and one output.
            UsageError: onnxruntime is not installed.
        """
        # 1. The very bytes.
        actual = hashlib.sha256(model).hexdigest()
        if actual != expected_sha256.lower():
            raise DigestMismatchError(
                f"The model has SHA-256 {actual}, expected {expected_sha256}.",
                hint="Fetch the model again, or give the digest of the one that you mean.",
                expected=expected_sha256,
                actual=actual,
            )
        if len(model) > MAX_MODEL_BYTES:
            raise HostileDataError(f"The model has {len(model):,} bytes; at most {MAX_MODEL_BYTES:,} are read.")
        self._session = _session(model)
        # 3. One input, one output.
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs or inputs[0].type != "tensor(float)":
            raise HostileDataError(
                f"The model takes {[one.type for one in inputs]}; expected one tensor(float).",
                hint="Export the model with one float input and its embedding as the first output.",
            )
        self._input, self._output = inputs[0].name, outputs[0].name
        self._shape, self._layout, self._scale = tuple(shape), layout, scale

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """Return the model's first output for rows, float32 (n, width).

        Raises:
            InvalidSampleError: the model refuses the rows' shape, or answers what is no embedding.
        """
        parts = []
        for start in range(0, max(1, len(rows)), BATCH):
            part = rows[start : start + BATCH]
            # 4. One shape.
            padded = np.zeros((BATCH, rows.shape[1]), dtype=np.float32)
            padded[: len(part)] = part / self._scale
            parts.append(self._run(padded)[: len(part)])
        return np.concatenate(parts)

    def _run(self, rows: np.ndarray) -> np.ndarray:
        try:
            (found,) = self._session.run([self._output], {self._input: self._laid_out(rows)})
        except Exception as error:  # the library raises classes of its own, one a failure
            raise InvalidSampleError(
                f"The ONNX model failed on {len(rows)} samples: {str(error)[:300]}",
                hint="Check --onnx-layout and the images' shape in the policy.",
            ) from error
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape[:1] != (BATCH,):
            raise InvalidSampleError("The ONNX model's first output is no array of floats with a row a sample.")
        flat = found.reshape(BATCH, -1).astype(np.float32)
        if not 0 < flat.shape[1] <= MAX_WIDTH or not np.isfinite(flat).all():
            raise InvalidSampleError(f"The ONNX model answered {flat.shape[1]} numbers a sample, or some not finite.")
        return flat

    def _laid_out(self, rows: np.ndarray) -> np.ndarray:
        if not self._shape or self._layout == "flat":
            return rows
        height, width, channels = (*self._shape, 1)[:3]
        images = rows.reshape(-1, height, width, channels)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if self._layout == "nchw" else images


def _session(model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("An ONNX view needs onnxruntime.", hint='Install it: pip install "millcert[onnx]".') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    try:
        # 2. From memory: a path inside the model leads nowhere.
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises classes of its own, one a failure
        raise HostileDataError(
            f"onnxruntime refuses the model: {str(error)[:300]}",
            hint="Give one ONNX file without external data and without custom operators.",
        ) from error
