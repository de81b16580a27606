"""Claim: `sample_digests` names at least 700,000 rows of 200 bytes in one CPU-second, and JSON canonicalisation cannot.

Runs ours, JCS (rfc8785) + SHA-256 and json.dumps(sort_keys) + SHA-256 on the same rows in one process, turn by turn,
and prints rows per CPU-second (min, median, max) and the ratio of the medians. The JSON rivals start from Python rows
in hand (their best case: `to_pylist` is not counted); ours starts from Arrow, which is what readers give.

A second table holds row digests and row trees together against the plain floor: the same hashes over rows that numpy
joins (text rows: header and text; embedding rows: one matrix), one digest, one leaf and one node a row, without checks
of types, nulls or UTF-8.

    python bench/sample_digest.py [rounds]
"""

import hashlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import rfc8785

from millcert.checks.sample_digest import sample_digests
from millcert.pipelines.read import leaf_hashes
from millcert.provenance.merkle import TreeBuilder

ROWS = 65_536
JSON_ROWS = 8_192
WORDS = ("mill", "certificate", "heat", "metal", "composition", "sample", "tested", "of", "the", "a")


def text_rows() -> pa.RecordBatch:
    """Rows of (int64, text of about 200 characters, int32, float64), seed 0."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(WORDS), (ROWS, 31))
    return pa.record_batch({
        "id": np.arange(ROWS),
        "text": [" ".join(WORDS[i] for i in row) for row in picks],
        "label": rng.integers(0, 10, ROWS).astype(np.int32),
        "score": rng.random(ROWS),
    })  # fmt: skip


def embedding_rows() -> pa.RecordBatch:
    """Rows of one 128-wide float32 embedding, seed 0."""
    values = np.random.default_rng(0).standard_normal(ROWS * 128).astype(np.float32)
    return pa.record_batch({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), 128)})


def chat_rows() -> pa.RecordBatch:
    """Rows of two messages, a list of structs."""
    messages = [{"role": "user", "content": "why " * 20}, {"role": "assistant", "content": "because " * 20}]
    return pa.record_batch({"messages": [messages] * ROWS})


def ours(batch: pa.RecordBatch) -> None:
    sample_digests(batch)


def jcs(rows: list[dict[str, object]]) -> None:
    for row in rows:
        hashlib.sha256(rfc8785.dumps(row)).digest()


def sorted_json(rows: list[dict[str, object]]) -> None:
    for row in rows:
        hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest()


def rate(work: Callable[[], object], rows: int) -> float:
    """Return rows per CPU-second of this process for one run of `work`."""
    start = time.process_time()
    work()
    return rows / (time.process_time() - start)


def digests_and_tree(batch: pa.RecordBatch) -> bytes:
    """What the first pass does to rows: digests, leaves, tree."""
    tree = TreeBuilder()
    tree.extend(leaf_hashes(sample_digests(batch)))
    return tree.root()


def plain_floor(batch: pa.RecordBatch) -> bytes:
    """The same number of hashes over the same number of bytes, from rows joined by numpy."""
    sha256, count = hashlib.sha256, batch.num_rows
    prefix = sha256(bytes(64))
    if "text" in batch.schema.names:
        text, fixed = batch.column("text"), [batch.column(name).to_numpy() for name in ("id", "label", "score")]
        ends = np.frombuffer(text.buffers()[1], np.int32, count + 1)
        header = np.concatenate(
            [values.view(np.uint8).reshape(count, -1) for values in (*fixed, np.diff(ends).astype(np.int64))], axis=1
        )
        data, bounds = text.buffers()[2].to_pybytes(), ends.tolist()
        heads = header.view(f"V{header.shape[1]}").reshape(count).tolist()
        rows = [head + data[start:end] for head, start, end in zip(heads, bounds, bounds[1:], strict=False)]
    else:
        values = batch.column("embedding").flatten().to_numpy().view(np.uint8).reshape(count, -1)
        rows = values.view(f"V{values.shape[1]}").reshape(count).tolist()
    digests = []
    for row in rows:
        hasher = prefix.copy()
        hasher.update(row)
        digests.append(hasher.digest())
    layer = [sha256(b"\x00" + digest).digest() for digest in digests]
    while len(layer) > 1:
        pairs = iter(layer)
        layer = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return layer[0]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"python {platform.python_version()}  pyarrow {pa.__version__}  numpy {np.__version__}  {platform.machine()}")
    for name, batch in (("text", text_rows()), ("embedding128", embedding_rows()), ("chat", chat_rows())):
        digest = hashlib.sha256(sample_digests(batch).tobytes()).hexdigest()
        rows = batch.slice(0, JSON_ROWS).to_pylist()
        work: dict[str, tuple[Callable[[], None], int]] = {
            "millcert": (lambda batch=batch: ours(batch), ROWS),  # type: ignore[misc]  # the loop's own batch
            "json.dumps + sha256": (lambda rows=rows: sorted_json(rows), len(rows)),  # type: ignore[misc]
            "JCS + sha256": (lambda rows=rows: jcs(rows), len(rows)),  # type: ignore[misc]
        }
        if name == "embedding128":
            del work["JCS + sha256"]  # minutes: pure Python for each of 128 floats
        found: dict[str, list[float]] = {key: [] for key in work}
        for _ in range(rounds):
            for key, (call, count) in work.items():
                found[key].append(rate(call, count))
        print(f"\n{name}: {ROWS:,} rows, digest of digests {digest[:16]}")
        best = statistics.median(found["millcert"])
        for key, rates in found.items():
            middle = statistics.median(rates)
            print(
                f"  {key:<20} {min(rates):>11,.0f} {middle:>11,.0f} {max(rates):>11,.0f} rows/CPU-s"
                f"   millcert is {best / middle:.1f}x"
            )
    print("\nrow digests and row tree, rows per CPU-second")
    for name, batch in (("text", text_rows()), ("embedding128", embedding_rows())):
        pairs = [
            (
                rate(lambda batch=batch: digests_and_tree(batch), ROWS),  # type: ignore[misc]  # the loop's own batch
                rate(lambda batch=batch: plain_floor(batch), ROWS),  # type: ignore[misc]
            )
            for _ in range(rounds)
        ]
        mine, floor = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"  {name:<20} millcert {mine:>11,.0f}   numpy and hashlib {floor:>11,.0f}   {mine / floor:.0%} of it")


if __name__ == "__main__":
    main()
