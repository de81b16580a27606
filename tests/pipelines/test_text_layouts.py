"""Texts by any of Arrow's layouts are the same samples: nothing that a run says of them depends on it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

LAYOUTS = {
    "large": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
    "dictionary_of_large": pa.dictionary(pa.int32(), pa.large_string()),
}
#: What binds the verdict to the files' bytes, which differ by layout.
OF_BYTES = ("input_root", "output_root", "size_bytes", "sources", "policy_digest")


def table(layout: pa.DataType, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 300)
    embedding = (rng.normal(size=(300, 4)) + 6 * np.eye(4)[label]).astype(np.float32)
    texts = {
        "label": [("cat", "dog")[each] for each in label],
        "source": [("north", "south", "west")[each] for each in rng.integers(0, 3, 300)],
        "text": [f"w{each} of {each % 7}" for each in rng.integers(0, 90, 300)],
        "note": [None if each % 9 == 0 else f"n{each}" for each in rng.integers(0, 90, 300)],
    }
    plain = pa.table(
        {
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 4),
            "score": rng.normal(size=300),
        }
    )
    for name, values in texts.items():
        column = pa.array(values, pa.string())
        plain = plain.append_column(
            name, column.dictionary_encode().cast(layout) if is_coded(layout) else column.cast(layout)
        )
    return plain


def is_coded(layout: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(layout))


def said(bench: Workbench, layout: pa.DataType, name: str) -> list[dict[str, Any]]:
    """Vet two versions; return what their verdicts say, but for the bytes of the files."""
    verdicts = []
    for version in range(2):
        bench.write("north", name, table(layout, 40 + version))
        bench.sign("north")
        verdict = bench.vet(replace=True).verdict.to_mapping()
        verdicts.append({key: value for key, value in verdict.items() if key not in OF_BYTES})
    return verdicts


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("large", "a.parquet"),
        ("view", "a.arrow"),
        ("dictionary", "a.parquet"),
        ("dictionary", "a.arrow"),
        ("dictionary_of_large", "a.arrow"),
    ],
)
def test_label_source_and_text_by_any_layout_give_the_same_verdict(bench: Workbench, layout: str, name: str) -> None:
    for path in bench.data.rglob("*"):
        if path.is_file():
            path.unlink()
    (bench.top / "profile.key").write_text("5a" * 32)
    bench.policy["dataset"]["columns"] = {"label": "label", "source": "source", "embedding_external": "embedding"}
    bench.policy["dataset"]["columns"] |= {"features": ["score"], "text": "text"}
    bench.policy["checks"] = [
        {"check": check, "max_flagged_fraction": 1, "on_flagged": "report"}
        for check in ("source_shift", "trigger_mining", "near_duplicates")
    ]
    bench.policy |= {"profile": {"hash_key": "profile.key", "tokens": ["text"]}}
    bench.policy |= {"drift": {"reference": "last_admitted", "on_no_reference": "report", "on_drift": "warn"}}
    plain = said(bench, pa.string(), name)
    (bench.top / "state").rename(bench.top / "state-before")

    found = said(bench, LAYOUTS[layout], name)

    assert [(verdict["decision"], verdict["reasons"]) for verdict in plain] == [("admitted", [])] * 2
    assert plain[1]["drift"]["compared"] > 20
    assert found == plain
