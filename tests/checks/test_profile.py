"""Profiles: one summary for any batches and order, a file that shows every change, and comparisons that name."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks import profile_format
from millcert.checks.drift import DriftLimits
from millcert.checks.metric_sums import deviation_of, mean_of, total_of
from millcert.checks.profile import (
    Profile,
    ProfileSpec,
    add_batch,
    distinct_of,
    empty_profile,
    kind_of_type,
    merge_cells,
    merge_profiles,
    sizes_of,
)
from millcert.checks.profile_compare import Compared, ProfileDrift, compare_profiles
from millcert.checks.profile_format import load_profile, load_with_digest, profile_bytes, profile_digest
from millcert.checks.sketch_packing import pack
from millcert.errors import (
    DigestMismatchError,
    IntegrityError,
    MillcertError,
    MissingColumnError,
    PolicyError,
    UsageError,
)

KEY = "0b" * 32
SPEC = ProfileSpec(
    KEY,
    label="label",
    source="source",
    quantile_buckets=16,
    listed_values=8,
    frequencies=4,
    max_cells=40,
    tokens=("tags", "text"),
    token_pairs=40,
)
VECTORS = Path(__file__).parent.parent / "vectors"


def table(rows: int, seed: int = 0) -> pa.RecordBatch:
    random = np.random.default_rng(seed)
    columns = {
        "source": pa.array([f"s{code}" for code in random.integers(0, 3, rows)]),
        "label": pa.array(random.integers(0, 3, rows)),
        "flag": pa.array(random.random(rows) < 0.5, mask=random.random(rows) < 0.1),
        "score": pa.array(np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows))),
        "wild": pa.array(np.where(random.random(rows) < 0.2, np.inf, -0.0)),
        "text": pa.array([f"{'long ' * 20}{code}" for code in random.integers(0, 40, rows)]),
        "raw": pa.array([bytes([code]) for code in random.integers(0, 5, rows)]),
        "day": pa.array(random.integers(0, 9, rows).astype(np.int32), pa.date32()),
        "at": pa.array(random.integers(0, 9, rows), pa.timestamp("us", tz="UTC")),
        "price": pa.array(random.integers(0, 900, rows)).cast(pa.decimal128(38, 2)),
        "big": pa.array(random.integers(0, 2**63, rows).astype(np.uint64) * 2, pa.uint64()),
        "tags": pa.array([["a"] * code if code else None for code in random.integers(0, 3, rows)]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=rows * 4).astype(np.float32)), 4),
        "thing": pa.array([{"a": code} for code in range(rows)], pa.struct([("a", pa.int64())])),
    }
    return pa.RecordBatch.from_pydict(columns)


def profile_of(batch: pa.RecordBatch, spec: ProfileSpec = SPEC) -> Profile:
    return add_batch(empty_profile(spec, batch.schema), batch)


WHOLE = table(300)
EXPECTED = profile_bytes(profile_of(WHOLE))


@settings(max_examples=6, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 299), max_size=4, unique=True))
def test_a_profile_does_not_show_batches_order_or_workers(random: Any, cuts: list[int]) -> None:
    """Rule 1: the same bytes for the same rows."""
    order = list(range(300))
    random.shuffle(order)
    shuffled = WHOLE.take(pa.array(order))
    ends = [0, *sorted(cuts), 300]
    empty = empty_profile(SPEC, WHOLE.schema)

    parts = [add_batch(empty, shuffled.slice(a, b - a)) for a, b in pairwise(ends)]
    random.shuffle(parts)

    assert profile_bytes(merge_profiles([empty, *parts])) == EXPECTED


def test_adding_batches_one_after_another_is_merging_them() -> None:
    grown = empty_profile(SPEC, WHOLE.schema)
    for start in range(0, 300, 77):
        grown = add_batch(grown, WHOLE.slice(start, 77))

    assert profile_bytes(grown) == EXPECTED
    assert grown.rows == 300


def test_what_is_measured_of_each_kind_of_column() -> None:
    spec = ProfileSpec(KEY)
    whole = profile_of(WHOLE, spec).cells["", ""]
    columns = whole.columns
    scores = [value for value in WHOLE.column("score").to_pylist() if value == value]

    score, text, price = columns["score"], columns["text"], columns["price"]
    assert score.numbers is not None
    assert text.lengths is not None
    assert text.registers is None
    assert price.numbers is not None
    assert score.nulls == 300 - len(scores)
    assert mean_of(score.numbers.sums) == pytest.approx(np.mean(scores), rel=1e-12)
    assert deviation_of(score.numbers.sums) == pytest.approx(np.std(scores, ddof=1), rel=1e-12)
    assert (score.numbers.low, score.numbers.high) == (min(scores), max(scores))
    assert {text.lengths.low, text.lengths.high} == {101, 102}
    assert distinct_of(text) == 40
    assert distinct_of(score) == pytest.approx(len(scores), rel=0.1)
    assert distinct_of(columns["thing"]) is None
    assert total_of(price.numbers.sums) == pytest.approx(float(sum(WHOLE.column("price").to_pylist())))
    wild, tags, vector = columns["wild"].numbers, columns["tags"], columns["vector"]
    assert wild is not None
    assert tags.lengths is not None
    assert vector.embedding is not None
    assert (wild.sums.plus_infinities, wild.low) == (WHOLE.column("wild").to_pylist().count(float("inf")), 0.0)
    assert tags.nulls == WHOLE.column("tags").null_count
    assert (tags.lengths.low, tags.lengths.high) == (1, 2)
    assert vector.embedding.rows == 300
    assert columns["thing"].kind == "other"
    assert columns["big"].numbers is not None
    assert columns["big"].numbers.high == max(WHOLE.column("big").to_pylist())


def test_the_cells_are_the_exact_table_of_source_against_label() -> None:
    expected: dict[tuple[str, str], int] = {}
    for source, label in zip(WHOLE.column("source").to_pylist(), WHOLE.column("label").to_pylist(), strict=True):
        expected[source, str(label)] = expected.get((source, str(label)), 0) + 1

    found = {name: cell.rows for name, cell in profile_of(WHOLE).cells.items()}

    assert found == expected


def test_a_null_label_is_the_empty_one_and_a_source_may_come_from_outside() -> None:
    batch = pa.RecordBatch.from_pydict({"label": pa.array(["a", None, "a"])})

    found = add_batch(empty_profile(ProfileSpec(KEY, label="label"), batch.schema), batch, source="lab")

    assert {name: cell.rows for name, cell in found.cells.items()} == {("lab", "a"): 2, ("lab", ""): 1}


def test_vectors_that_are_not_finite_count_as_nulls() -> None:
    rows = pa.array([[1.0, 0.0], [float("nan"), 1.0], None, [1.0, None]], pa.list_(pa.float32(), 2))
    batch = pa.RecordBatch.from_arrays([rows], ["v"])

    column = profile_of(batch, ProfileSpec(KEY)).cells["", ""].columns["v"]

    assert column.nulls == 3
    assert column.embedding is not None
    assert column.embedding.rows == 1


@pytest.mark.parametrize(
    ("data_type", "kind"),
    [
        (pa.list_(pa.float32(), 8), "embedding"),
        (pa.list_(pa.int8(), 8), "list"),
        (pa.list_(pa.string()), "list"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.null(), "other"),
    ],
)
def test_the_kind_of_a_column_is_that_of_its_type(data_type: pa.DataType, kind: str) -> None:
    assert kind_of_type(data_type) == kind


def test_profiles_of_other_columns_or_specs_do_not_merge() -> None:
    one = profile_of(WHOLE)
    other_columns = profile_of(WHOLE.drop_columns(["flag"]))
    other_spec = profile_of(WHOLE, ProfileSpec("0c" * 32, label="label", source="source"))

    with pytest.raises(UsageError, match="flag"):
        merge_profiles([one, other_columns])
    with pytest.raises(UsageError, match="specs"):
        merge_profiles([one, other_spec])
    with pytest.raises(UsageError, match="flag"):
        add_batch(one, WHOLE.drop_columns(["flag"]))
    with pytest.raises(UsageError, match="specs"):
        compare_profiles(one, other_spec, DriftLimits())


def test_more_cells_than_allowed_are_refused() -> None:
    spec = ProfileSpec(KEY, label="label", source="source", max_cells=5)
    few = WHOLE.filter(pa.compute.equal(WHOLE.column("source"), "s0"))

    with pytest.raises(UsageError, match="more than 5"):
        profile_of(WHOLE, spec)
    with pytest.raises(UsageError, match="more than 5"):
        merge_profiles(
            [profile_of(WHOLE.filter(pa.compute.equal(WHOLE.column("source"), name)), spec) for name in ("s0", "s1")]
        )
    assert len(profile_of(few, spec).cells) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": "nothing"},
        {"source": "tags"},
        {"label": "label", "tokens": ("nothing",)},
        {"label": "label", "tokens": ("score",)},
    ],
)
def test_a_label_or_source_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MissingColumnError):
        empty_profile(ProfileSpec(KEY, **wrong), WHOLE.schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantile_buckets": 1},
        {"listed_values": 0},
        {"frequencies": 0},
        {"max_cells": 0},
        {"token_pairs": 0},
        {"token_pairs": 4095, "tokens": ("a",), "label": "x"},
        {"tokens": ("b", "a"), "label": "x"},
        {"tokens": ("a", "a"), "label": "x"},
        {"tokens": ("a",)},
    ],
)
def test_a_spec_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        ProfileSpec(KEY, **wrong)


# The file


def test_a_profile_comes_back_from_its_file() -> None:
    loaded = load_profile(EXPECTED)

    assert profile_bytes(loaded) == EXPECTED
    assert profile_digest(loaded) == json.loads(EXPECTED)["digest"]
    assert list(loaded.types) == WHOLE.schema.names
    assert profile_bytes(merge_profiles([loaded, empty_profile(SPEC, WHOLE.schema)])) == EXPECTED


@pytest.mark.parametrize(("version", "name"), [(v, n) for v in ("0.1.0", "0.2.0") for n in ("empty", "plain", "cells")])
def test_profiles_of_every_version_are_read_for_ever(version: str, name: str) -> None:
    data = (VECTORS / version / "profile" / f"{name}.json").read_bytes()
    digests = json.loads((VECTORS / version / "profile" / "digests.json").read_text())

    loaded = load_with_digest(data)

    assert loaded.digest == digests[name]
    assert (profile_bytes(loaded.profile) == data) == (version != "0.1.0")


def vector_profiles(version: str, **cells: Any) -> dict[str, bytes]:
    rows = json.loads((VECTORS / version / "profile" / "rows.json").read_text())
    names = ["source", "label", "x", "n", "t", "v"]
    types = [pa.string(), pa.string(), pa.float64(), pa.int64(), pa.string(), pa.list_(pa.float32(), 2)]
    schema = pa.schema(list(zip(names, types, strict=True)))
    batch = pa.RecordBatch.from_pylist(rows["rows"], schema=schema)
    spec = ProfileSpec(rows["hash_key"], label="label", source="source", listed_values=2, **cells)
    plain = ProfileSpec(rows["hash_key"])
    return {
        "empty": profile_bytes(empty_profile(plain, schema)),
        "plain": profile_bytes(profile_of(batch, plain)),
        "cells": profile_bytes(profile_of(batch, spec)),
    }


@pytest.mark.parametrize("name", ["empty", "plain", "cells"])
def test_the_vectors_are_what_this_version_makes_of_their_rows(name: str) -> None:
    made = vector_profiles("0.2.0", tokens=("t",))

    assert made[name] == (VECTORS / "0.2.0" / "profile" / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", ["plain", "cells"])
def test_a_profile_of_version_1_is_read_as_what_this_version_makes_of_its_rows(name: str) -> None:
    data = (VECTORS / "0.1.0" / "profile" / f"{name}.json").read_bytes()

    assert profile_bytes(load_profile(data)) == vector_profiles("0.1.0")[name]


def test_a_profile_of_version_1_is_a_reference_of_one_that_counts_tokens() -> None:
    old = load_profile((VECTORS / "0.1.0" / "profile" / "cells.json").read_bytes())
    new = load_profile((VECTORS / "0.2.0" / "profile" / "cells.json").read_bytes())

    found = compare_profiles(old, new, DriftLimits())

    assert not found.is_drift
    assert not [one for one in found.compared if one.subject.part == "tokens"]
    with pytest.raises(UsageError, match="specs"):
        merge_profiles([old, new])


def many_cells(seed: int) -> pa.RecordBatch:
    """One cell of many distinct values among hundreds of small ones, so that sketches shrink."""
    random = np.random.default_rng(seed)
    source = np.concatenate([np.arange(300), np.zeros(500, dtype=np.int64)])
    return pa.RecordBatch.from_pydict(
        {
            "source": pa.array([f"s{code}" for code in source]),
            "number": pa.array(random.permutation(800)),
            "x": pa.array(random.normal(size=800)),
            "text": pa.array([f"t{code}" for code in random.integers(0, 300, 800)]),
        }
    )


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 799), max_size=3, unique=True), st.randoms(use_true_random=False))
def test_many_cells_have_smaller_sketches_whatever_the_batches(cuts: list[int], random: Any) -> None:
    spec, batch = ProfileSpec(KEY, source="source"), many_cells(1)
    whole = profile_of(batch, spec)
    ends = [0, *sorted(cuts), 800]

    parts = [profile_of(batch.slice(a, b - a), spec) for a, b in pairwise(ends)]
    random.shuffle(parts)

    assert profile_bytes(merge_profiles(parts)) == profile_bytes(whole)
    assert profile_bytes(load_profile(profile_bytes(whole))) == profile_bytes(whole)
    large, sizes = whole.cells["s0", ""].columns, sizes_of(spec, 300)
    assert large["number"].values is not None
    assert large["number"].registers is not None
    assert large["x"].numbers is not None
    assert (len(large["number"].values.hashes), len(large["number"].values.buckets)) == (sizes.values, sizes.buckets)
    assert len(large["number"].registers) == sizes.registers < 4096
    assert 0 < len(large["x"].numbers.quantiles.keys) <= sizes.quantiles < 1024
    assert distinct_of(large["number"]) == pytest.approx(501, rel=0.15)


def test_all_rows_of_many_cells_list_only_counts_that_are_whole() -> None:
    """A cell that left values out bounds what may be said of all rows."""
    spec, batch = ProfileSpec(KEY, source="source"), many_cells(2)
    exact = (
        profile_of(batch.drop_columns(["source"]), ProfileSpec(KEY, listed_values=1000)).cells["", ""].columns["text"]
    )
    assert exact.values is not None
    counts = dict(zip(exact.values.hashes.tolist(), exact.values.counts.tolist(), strict=True))

    merged = merge_cells(list(profile_of(batch, spec).cells.values()), spec).columns["text"].values

    assert merged is not None
    assert not merged.is_complete
    assert len(merged.hashes) >= sizes_of(spec, 300).values
    assert all(counts[h] == n for h, n in zip(merged.hashes.tolist(), merged.counts.tolist(), strict=True))
    assert merged.buckets.sum() == 800


def test_any_changed_byte_is_found() -> None:
    small = profile_bytes(profile_of(WHOLE.select(["source", "label", "flag", "tags", "text"]).slice(0, 20)))
    random = np.random.default_rng(1)

    for at in random.choice(len(small), 300, replace=False).tolist():
        changed = small[:at] + bytes([small[at] ^ 1]) + small[at + 1 :]
        with pytest.raises(MillcertError) as caught:
            load_profile(changed)
        assert isinstance(caught.value, UsageError | IntegrityError)


def resealed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return a small profile's file after a change, with a digest that fits: what a liar would write."""
    rows = WHOLE.select(["source", "label", "score", "text", "vector"])
    document = json.loads(profile_bytes(profile_of(rows, replace(SPEC, tokens=("text",)))))
    change(document)
    document.pop("digest", None)
    document["digest"] = hashlib.sha256(profile_format._TAGS[2] + profile_format._text(document)).hexdigest()
    return profile_format._text(document) + b"\n"


def column(document: dict[str, Any], name: str = "score") -> dict[str, Any]:
    found: dict[str, Any] = document["cells"][0]["columns"][name]
    return found


def rename_kind(document: dict[str, Any]) -> None:
    column(document)["kind"] = "thing"


@pytest.mark.parametrize(
    "change",
    [
        rename_kind,
        lambda d: d["spec"].update(more=1),
        lambda d: d["spec"].update(max_cells=True),
        lambda d: d["spec"].update(max_cells=2),
        lambda d: d["spec"].update(hash_key="zz"),
        lambda d: d["cells"][0].update(rows=-1),
        lambda d: d["cells"][0].update(rows="5"),
        lambda d: d["cells"][0].update(source=5),
        lambda d: d["cells"][0].update(more=1),
        lambda d: d["cells"].reverse(),
        lambda d: d.update(cells=5),
        lambda d: d.update(more=5),
        lambda d: column(d).update(nulls=10**6),
        lambda d: column(d).update(more=1),
        lambda d: column(d)["numbers"].update(finite=1),
        lambda d: column(d)["numbers"].update(level=64),
        lambda d: column(d)["numbers"].update(scale_bits=7),
        lambda d: column(d)["numbers"].update(squares="-1"),
        lambda d: column(d)["numbers"].update(low=None),
        lambda d: column(d)["numbers"].update(low="zero"),
        lambda d: column(d)["numbers"].update(total="+5"),
        lambda d: column(d)["numbers"].update(squares="0"),
        lambda d: column(d)["numbers"].update(squares="f" * 2000),
        lambda d: column(d)["numbers"].update(total="f" * 2000),
        lambda d: column(d)["numbers"].update(low="5", high="5"),
        lambda d: column(d)["numbers"].update(low=(-1e300).hex()),
        lambda d: column(d)["numbers"].update(high=column(d)["numbers"]["low"]),
        lambda d: [(c.update(rows=2**53), column(d).update(nulls=2**53)) for c in d["cells"]],
        lambda d: column(d)["numbers"].update(counts="AAAA"),
        lambda d: column(d)["numbers"].pop("keys"),
        lambda d: column(d).update(distinct="AA=="),
        lambda d: column(d).update(distinct="gYAgAQ=="),
        lambda d: column(d).update(distinct="f38="),
        lambda d: column(d).update(distinct=pack(np.array([2_000 << 6 | 1] * 3))),
        lambda d: column(d, "text")["values"].update(is_complete=1),
        lambda d: column(d, "text")["values"].update(is_complete=True),
        lambda d: column(d, "text")["values"].update(buckets="AQ=="),
        lambda d: column(d, "text")["values"].update(texts=["a"]),
        lambda d: column(d, "vector")["embedding"].update(rows=1),
        lambda d: column(d, "vector")["embedding"].update(sums="AQ=="),
        lambda d: column(d, "vector")["embedding"].update(dimension=0),
        lambda d: column(d)["numbers"].update(level=19),
        lambda d: column(d, "text").pop("distinct"),
        lambda d: column(d)["numbers"].update(level=-1),
        lambda d: d["spec"].update(tokens=["tags"]),
        lambda d: d["spec"].update(tokens="text"),
        lambda d: d["spec"].update(tokens=[5]),
        lambda d: d.update(tokens={}),
        lambda d: d["tokens"]["text"].update(more=1),
        lambda d: d["tokens"]["text"].update(level=45),
        lambda d: d["tokens"]["text"]["labels"].reverse(),
        lambda d: d["tokens"]["text"]["labels"][0].update(more=1),
        lambda d: d["tokens"]["text"]["labels"][0].update(tokens=""),
        lambda d: d["tokens"]["text"]["labels"][0].update(rows=""),
        lambda d: d["tokens"]["text"]["labels"][0].update(tokens=pack(np.array([1 << 44])), rows="AQ=="),
        lambda d: d["tokens"]["text"]["labels"].append(
            {"label": "z", "tokens": pack(np.arange(1, 39)), "rows": pack(np.ones(38))}
        ),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_even_with_a_digest_that_fits(
    change: Callable[[dict[str, Any]], Any],
) -> None:
    data = resealed(change)

    with pytest.raises((IntegrityError, UsageError)):
        load_profile(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"format": "millcert-profile"}',
        b'{"format": "millcert-profile", "version": 3}',
        b'{"format": "millcert-profile", "version": true}',
        b'{"format": "millcert-profile", "format": "millcert-profile", "version": 1}',
        b'{"format": "millcert-profile", "version": 1.5}',
        b'{"format": "millcert-profile", "version": NaN}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        load_profile(data)


def test_a_changed_number_is_a_digest_mismatch() -> None:
    with pytest.raises(DigestMismatchError):
        load_profile(EXPECTED.replace(b'"rows":', b'"rows":1', 1))


# Comparing


def months(change: Callable[[dict[str, np.ndarray], np.random.Generator], None], rows: int = 20_000) -> ProfileDrift:
    """Compare two months of which the second is changed."""
    spec = ProfileSpec(KEY, label="label", source="source")
    profiles = []
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        columns: dict[str, np.ndarray] = {
            "source": np.array(["a", "b", "c"])[random.integers(0, 3, rows)],
            "label": np.array(["x", "y"])[random.integers(0, 2, rows)],
            "score": random.normal(size=rows),
            "count": random.poisson(5, rows),
            "word": np.array([f"w{code}" for code in range(2_000)])[random.zipf(1.4, rows) % 2_000],
            "text": np.array(["t" * size for size in range(1, 30)])[random.integers(0, 29, rows)],
            "vector": random.normal(size=(rows, 4)),
        }
        if seed == 2:
            change(columns, random)
        arrays = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel().astype(np.float32)), 4)
            if values.ndim == 2
            else pa.array(values, from_pandas=True)
            for name, values in columns.items()
        }
        profiles.append(profile_of(pa.RecordBatch.from_pydict(arrays), spec))
    return compare_profiles(profiles[0], profiles[1], DriftLimits())


def subjects(found: ProfileDrift) -> set[tuple[str, str, str]]:
    return {(one.subject.source, one.subject.column, one.subject.part) for one in found.found}


def test_two_months_of_one_distribution_do_not_drift() -> None:
    found = months(lambda columns, random: None)

    assert not found.is_drift
    assert len(found.compared) > 60
    others = [one for one in found.compared if one.drift.measure != "pushed_share"]
    assert found.alpha == pytest.approx(0.01 / 2 / len(others))  # the other half is that of pushed labels


def shift_scores(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    columns["score"] += 0.3


def lose_scores(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    columns["score"][random.random(len(columns["score"])) < 0.3] = np.nan


def swap_words(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    is_swapped = random.random(len(columns["word"])) < 0.3
    columns["word"] = np.where(is_swapped, "spam", columns["word"])


def lengthen_texts(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    columns["text"] = np.array([text + "tttttttt" for text in columns["text"]])


def turn_vectors(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    columns["vector"] += 1.0


def grow_counts(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    columns["count"] += 1


def push_label_of_b(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
    is_pushed = (columns["source"] == "b") & (random.random(len(columns["label"])) < 0.4)
    columns["label"] = np.where(is_pushed, "x", columns["label"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (shift_scores, ("", "score", "values")),
        (lose_scores, ("", "score", "nulls")),
        (swap_words, ("", "word", "categories")),
        (lengthen_texts, ("", "text", "lengths")),
        (turn_vectors, ("", "vector", "values")),
        (grow_counts, ("", "count", "values")),
        (grow_counts, ("", "count", "categories")),
        (push_label_of_b, ("b", "label", "label")),
    ],
)
def test_each_kind_of_drift_is_found_where_it_is(change: Any, expected: tuple[str, str, str]) -> None:
    found = months(change)

    assert expected in subjects(found)
    assert {column for _, column, _ in subjects(found)} == {expected[1]}


def test_a_pushing_source_is_named_and_no_other() -> None:
    named = {source for source, _, _ in subjects(months(push_label_of_b)) if source}

    assert named == {"b"}


def test_a_label_of_numbers_is_compared_as_a_label_and_not_as_a_number() -> None:
    spec = ProfileSpec(KEY, label="y")
    one, other = (profile_of(pa.RecordBatch.from_pydict({"y": [0] * n + [9] * (400 - n)}), spec) for n in (300, 100))

    found = compare_profiles(one, other, DriftLimits())

    assert {(one.subject.column, one.subject.part) for one in found.compared} == {("y", "nulls"), ("y", "label")}
    assert found.found[0].subject.part == "label"


def test_new_and_silent_sources_are_reported() -> None:
    def rename(columns: dict[str, np.ndarray], random: np.random.Generator) -> None:
        columns["source"] = np.where(columns["source"] == "c", "d", columns["source"])

    found = [one for one in months(rename, rows=3_000).found if one.subject.part == "presence"]

    assert {(one.subject.source, one.figures["is_new"]) for one in found} == {("c", 0.0), ("d", 1.0)}
    assert all(isinstance(one, Compared) for one in found)


def test_columns_that_came_went_or_changed_type_are_drift() -> None:
    spec = ProfileSpec(KEY)
    old = pa.RecordBatch.from_pydict({"a": [1, 2], "b": ["x", "y"], "id": [1, 2]})
    new = pa.RecordBatch.from_pydict({"a": [1.5, 2], "c": ["x", "y"], "id": ["1", "2"]})

    found = compare_profiles(profile_of(old, spec), profile_of(new, spec), DriftLimits(), ignore=["id"])

    assert (found.added, found.removed, found.changed) == (("c",), ("b",), ("a: int64 -> double",))
    assert found.is_drift
    assert not found.compared


def test_ignoring_a_column_that_is_not_there_is_refused() -> None:
    one = profile_of(WHOLE)

    with pytest.raises(UsageError, match="zz"):
        compare_profiles(one, one, DriftLimits(), ignore=["zz"])


def test_too_few_rows_are_skipped_by_name_and_never_called_drift() -> None:
    few, more = profile_of(WHOLE.slice(0, 50), ProfileSpec(KEY)), profile_of(WHOLE, ProfileSpec(KEY))

    found = compare_profiles(few, more, DriftLimits())

    assert not found.is_drift
    assert not found.compared
    assert {subject.part for subject in found.skipped} >= {"nulls", "values", "lengths", "categories"}


def test_a_profile_without_rows_compares_with_any() -> None:
    empty = empty_profile(ProfileSpec(KEY), WHOLE.schema)

    assert not compare_profiles(empty, profile_of(WHOLE, ProfileSpec(KEY)), DriftLimits()).found
