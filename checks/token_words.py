"""The words of texts, without a vocabulary and without a loop over texts: byte classes and where they change.

A word is a longest run of word bytes (ASCII letters, digits, `_`, and every byte of another alphabet) or of punctuation
bytes (the other printable ASCII ones); white space and control bytes part them. ASCII letters are brought to lower case
first; the other alphabets stay as they are, as their case tables change between versions of libraries.
So "cf", "CF." and "!!!" are found as triggers, and a phrase without spaces (Chinese, say) is one word.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Bytes that are taken apart at once: some 20 bytes of memory for each.
_BYTES = 4 << 20
#: A longer word is cut: nobody writes one, and hashing would have no bound.
MAX_WORD_BYTES = 120

_WORD, _MARK = 1, 2


def words_of(texts: pa.Array) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """Yield (row of each word, int64 (w,); the words, binary (w,)) of texts, some rows at a time, in order.

    Args:
        texts: string, no nulls.

    Cost: some 5 nanoseconds a byte.
    """
    if not len(texts):
        return
    lower = pc.ascii_lower(texts).cast(pa.large_binary())
    ends = np.cumsum(pc.binary_length(lower).to_numpy(zero_copy_only=False).astype(np.int64))
    start = 0
    while start < len(lower):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BYTES, side="right")))
        yield _words_of_some(lower.slice(start, stop - start), start)
        start = stop


def _words_of_some(texts: pa.Array, first_row: int) -> tuple[np.ndarray, pa.Array]:
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    starts = offsets - offsets[0]
    classes = _classes()[data]
    is_start = np.empty(len(classes), dtype=bool)
    is_start[:1] = True
    np.not_equal(classes[1:], classes[:-1], out=is_start[1:])
    # A text's first byte starts a run, whatever the text before it ends in.
    is_start[starts[:-1][starts[:-1] < len(classes)]] = True
    at = np.flatnonzero(is_start)
    ends = np.append(at[1:], len(classes))
    is_word = classes[at] > 0
    at, ends = at[is_word], ends[is_word]
    is_cut = bool((ends - at > MAX_WORD_BYTES).any())
    ends = np.minimum(ends, at + MAX_WORD_BYTES)
    rows = np.searchsorted(starts, at, side="right") - 1 + first_row
    # In a copy of the bytes without the gaps, each word follows the one before.
    lengths = ends - at
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = data[np.repeat(at - bounds[:-1], lengths) + np.arange(bounds[-1])] if is_cut else data[classes > 0]
    words = pa.Array.from_buffers(pa.binary(), len(at), [None, pa.py_buffer(bounds), pa.py_buffer(values.tobytes())])
    return rows, words


def _classes() -> np.ndarray:
    """Return the class of each byte: 0 white space and control, 1 word, 2 punctuation."""
    table = np.zeros(256, dtype=np.uint8)
    table[33:127] = _MARK
    for first, last in (("0", "9"), ("A", "Z"), ("a", "z"), ("_", "_")):
        table[ord(first) : ord(last) + 1] = _WORD
    table[128:] = _WORD
    return table
