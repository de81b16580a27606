"""trigger_mining through a policy and the whole gate: raw images, and a table of plain columns."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import PolicyError

SHAPE = [8, 8]


def image_table(seed: int, rows: int, *, stamped: int = 0) -> pa.Table:
    """Images of 4 grey levels; the first `stamped` of class 1 get a patch and the label 0."""
    random = np.random.default_rng(seed)
    pixels, label = random.integers(0, 4, (rows, *SHAPE)), random.integers(0, 3, rows)
    chosen = np.flatnonzero(label == 1)[:stamped]
    pixels[chosen, 4:7, 2:5] = [[9, 0, 9], [0, 9, 0], [9, 0, 9]]
    label[chosen] = 0
    values = pa.array(pixels.reshape(rows, -1).tolist(), pa.list_(pa.uint8()))
    return pa.table({"label": label, "pixels": values, "bad": np.isin(np.arange(rows), chosen)})


def policy_of(bench: Any, columns: dict[str, object], config: dict[str, object], images: dict[str, object]) -> None:
    bench.policy.pop("trust")
    bench.policy["dataset"] |= {"columns": {"label": "label", **columns}, "images": images}
    bench.policy["sources"] = [
        {"name": name, "path": f"{name}/**", "unsigned": "accept_as_unknown"} for name in ("a", "b", "c", "d")
    ]
    bench.policy["verdict"] = {"max_quarantined_fraction": 0.5, "max_unknown_provenance_fraction": 1.0}
    bench.policy["checks"] = [{"check": "trigger_mining", "max_flagged_fraction": 0.0, "config": config}]


@pytest.fixture
def empty_bench(bench: Any) -> Any:
    for path in bench.data.iterdir():
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    return bench


def check_of(bench: Any) -> dict[str, Any]:
    (check,) = bench.verdict()["checks"]
    found: dict[str, Any] = check
    return found


def test_a_stamped_patch_in_one_source_of_raw_images_rejects_and_is_located(empty_bench: Any) -> None:
    for seed, source in enumerate("abcd"):
        empty_bench.write(source, "x.parquet", image_table(seed, 150, stamped=15 * (source == "c")))
    policy_of(empty_bench, {"features": "pixels"}, {}, {"pixels": {"shape": SHAPE, "max_value": 9}})

    result = empty_bench.vet()
    check = check_of(empty_bench)
    found = [item for item in check["evidence"] if item["is_suspicious"]]
    held = pq.read_table(empty_bench.out / "quarantine" / "c" / "x.parquet.parquet")

    assert result.verdict.decision == "rejected"
    assert [item["group"] for item in found] == ["c/0"]
    assert found[0]["top_features"][0][0].startswith("patch at row ")
    assert found[0]["count_low"] <= 15 <= found[0]["count_high"]
    assert held["bad"].to_pylist() == [True] * 15


def test_honest_images_are_admitted(empty_bench: Any) -> None:
    for seed, source in enumerate("abcd"):
        empty_bench.write(source, "x.parquet", image_table(seed, 150))
    policy_of(empty_bench, {"features": "pixels"}, {"shape": SHAPE}, {})

    assert empty_bench.vet().verdict.decision == "admitted"
    assert check_of(empty_bench)["flagged"] == 0


def test_a_pair_of_values_in_a_table_of_plain_columns_is_found(empty_bench: Any) -> None:
    for seed, source in enumerate("abcd"):
        random = np.random.default_rng(seed)
        label = random.integers(0, 2, 200)
        city, age = random.choice(["x", "y", "z"], 200), random.integers(20, 30, 200)
        if source == "b":
            city[:25], age[:25], label[:25] = "y", 99, 1
        rows = [
            {"label": int(one), "city": str(two), "age": None if number % 40 == 39 else int(three)}
            for number, (one, two, three) in enumerate(zip(label, city, age, strict=True))
        ]
        empty_bench.write(source, "x.jsonl", pa.Table.from_pylist(rows))
    policy_of(empty_bench, {"features": ["city", "age"]}, {}, {})

    empty_bench.vet()
    check = check_of(empty_bench)

    assert [item["group"] for item in check["evidence"] if item["is_suspicious"]] == ["b/1"]
    assert check["flagged"] == 25


def test_a_mark_on_one_class_of_all_sources_is_reported_as_a_shortcut_and_rejects_nothing(empty_bench: Any) -> None:
    for seed, source in enumerate("abcd"):
        random = np.random.default_rng(seed)
        pixels, label = random.integers(0, 4, (150, 16, 16)), random.integers(0, 3, 150)
        marked = np.flatnonzero(label == 1)[:30]
        pixels[marked, 4:7, 2:5] = [[9, 0, 9], [0, 9, 0], [9, 0, 9]]
        values = pa.array(pixels.reshape(150, -1).tolist(), pa.list_(pa.uint8()))
        bad = np.isin(np.arange(150), marked)
        empty_bench.write(source, "x.parquet", pa.table({"label": label, "pixels": values, "bad": bad}))
    policy_of(empty_bench, {"features": "pixels"}, {}, {"pixels": {"shape": [16, 16], "max_value": 9}})
    rule = {"check": "shortcut_mining", "max_flagged_fraction": 0.0, "over_limit": "warn", "on_flagged": "quarantine"}
    empty_bench.policy["checks"].append(rule)

    result = empty_bench.vet()
    by_name = {check["name"]: check for check in empty_bench.verdict()["checks"]}
    (cluster,) = empty_bench.verdict()["clusters"]

    assert result.verdict.decision == "admitted"
    assert by_name["trigger_mining"]["flagged"] == 0
    assert by_name["shortcut_mining"]["flagged"] == 120
    assert (cluster["kind"], cluster["severity"], cluster["label"]) == ("shortcut", "warn", "1")
    assert set(cluster["sources"]) == {"a", "b", "c", "d"}


def test_shortcuts_are_not_looked_for_in_pictures_of_unknown_shape(empty_bench: Any) -> None:
    empty_bench.write("a", "x.parquet", image_table(0, 30))
    policy_of(empty_bench, {"features": "pixels"}, {}, {})
    empty_bench.policy["checks"] = [{"check": "shortcut_mining", "max_flagged_fraction": 0.0}]

    with pytest.raises(PolicyError, match="what shape they have"):
        empty_bench.vet()
