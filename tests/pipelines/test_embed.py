"""Views beside the data: the same bytes from the same seed, bound to the very files, and read by the gate."""

import hashlib
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.self_view import ProbeChoice
from millcert.cli.main import main
from millcert.errors import DigestMismatchError, IntegrityError, MillcertError, PolicyError, UsageError
from millcert.pipelines.driver import Engine, VetOptions, VetResult, vet_dataset
from millcert.pipelines.embed import EmbedOptions, embed_dataset
from millcert.pipelines.formats import Decoded
from millcert.pipelines.view_manifest import VIEWS_FILE, ViewSet, read_views, views_bytes
from millcert.pipelines.view_rows import ViewRows
from millcert.policy import LoadedPolicy, load_policy


class Home:
    """Two files of small images with labels and words, one of them JSONL, and a policy that reads views."""

    def __init__(self, top: Path, engine: Engine) -> None:
        self.top, self.engine = top, engine
        self.policy: dict[str, Any] = {
            "version": 1,
            "dataset": {
                "name": "small",
                "columns": {"label": "label", "features": "pixels", "embedding_external": "view:embedding_external"},
                "images": {"pixels": {"shape": [4, 4], "max_value": 16}},
                "max_malformed_fraction": 0.5,
            },
            "sources": [{"name": "lab", "path": "**", "unsigned": "accept_as_unknown"}],
            "checks": [{"check": "label_noise", "max_flagged_fraction": 0.5}],
            "verdict": {"max_quarantined_fraction": 1, "max_unknown_provenance_fraction": 1},
            "ledger": {"origin": "test.example/ledger"},
        }
        (top / "data" / "deep").mkdir(parents=True)
        pq.write_table(table(0, 90), top / "data" / "a.parquet")
        rows = table(1, 70).to_pylist()
        rows[5]["label"] = None
        (top / "data" / "deep" / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")

    def load(self) -> LoadedPolicy:
        path = self.top / "policy.yaml"
        path.write_text(yaml.safe_dump(self.policy))
        return load_policy(path)

    def embed(self, out: str = "views", **fields: Any) -> ViewSet:
        options = {"makes_self": False, "external": "patches", "probe": ProbeChoice("sklearn"), **fields}
        return embed_dataset(self.load(), EmbedOptions((str(self.top / "data"),), str(self.top / out), **options))

    def vet(self, views: str | None = "views") -> VetResult:
        folder = None if views is None else str(self.top / views)
        options = VetOptions((str(self.top / "data"),), str(self.top / "out"), self.top / "state", views=folder)
        return vet_dataset(self.load(), options, engine=self.engine)


def table(seed: int, rows: int) -> pa.Table:
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, rows)
    pixels = random.uniform(0, 8, (rows, 16)) + 8 * (label[:, None] == (np.arange(16) // 8)[None, :])
    return pa.table(
        {
            "label": pa.array(label),
            "pixels": pa.array([list(map(float, row)) for row in pixels], pa.list_(pa.float64())),
            "words": pa.array([f"{'good' if value else 'bad'} film {row}" for row, value in enumerate(label)]),
        }
    )


@pytest.fixture
def home(tmp_path: Path, plain_engine: Any) -> Home:
    return Home(tmp_path, plain_engine())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_views_stand_beside_each_file_and_are_bound_to_it(home: Home) -> None:
    views = home.embed()

    data = (home.top / "data" / "a.parquet").read_bytes()
    stored = pq.read_table(home.top / "views" / "a.parquet.views.parquet")
    assert stored.column_names == ["row", "view:embedding_external"]
    assert stored.num_rows == views.files["a.parquet"].rows == 90
    assert views.files["a.parquet"].of_sha256 == hashlib.sha256(data).hexdigest()
    assert set(bytes_of(home.top / "views")) == {
        VIEWS_FILE,
        "a.parquet.views.parquet",
        "deep/b.jsonl.views.parquet",
    }
    assert read_views(str(home.top / "views")) == replace(views, folder=str(home.top / "views"))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(home: Home) -> None:
    home.embed("one")
    home.embed("two")
    home.embed("three", seed=1)

    one, two, three = (bytes_of(home.top / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["a.parquet.views.parquet"] != three["a.parquet.views.parquet"]


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_and_a_self_view_knows_its_probe(home: Home) -> None:
    first = home.embed("one", makes_self=True)
    home.embed("two", makes_self=True, workers=2)

    assert bytes_of(home.top / "one") == bytes_of(home.top / "two")
    (own, other) = first.views
    assert (own.name, own.kind, own.width, len(own.model_sha256)) == ("embedding_self", "probe", 256, 64)
    assert (other.name, other.kind, other.width, other.model_sha256) == ("embedding_external", "patches", 256, "")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed (extra torch)")
def test_two_workers_write_the_same_bytes_with_a_network_too(home: Home) -> None:
    first = home.embed("one", makes_self=True, probe=ProbeChoice("torch", "penultimate"))
    home.embed("two", makes_self=True, probe=ProbeChoice("torch", "penultimate"), workers=2)

    assert bytes_of(home.top / "one") == bytes_of(home.top / "two")
    assert (first.views[0].kind, first.views[0].width) == ("torch_penultimate", 128)


def test_the_gate_reads_views_and_binds_their_manifest(home: Home) -> None:
    views = home.embed()

    result = home.vet()

    assert result.verdict.decision == "admitted"
    assert result.verdict.views_sha256 == views.sha256
    assert result.verdict.checks[0].scored == 90 + 69
    assert result.verdict.samples.malformed == 2
    assert pq.read_table(home.top / "out" / "admitted" / "a.parquet").column_names == ["label", "pixels", "words"]


def test_a_file_that_changed_after_its_views_were_made_is_refused(home: Home) -> None:
    home.embed()
    pq.write_table(table(7, 90), home.top / "data" / "a.parquet")

    with pytest.raises(DigestMismatchError, match=r"views of a\.parquet were made of"):
        home.vet()


def test_views_that_changed_are_refused(home: Home) -> None:
    home.embed()
    path = home.top / "views" / "a.parquet.views.parquet"
    path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(DigestMismatchError):
        home.vet()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5, "format": "other"},
        {"input_root": "00" * 32},
        {"views": [{"name": "embedding_self", "width": -1, "kind": "probe", "model_sha256": ""}]},
        {"views": [{"name": "label", "width": 4, "kind": "probe", "model_sha256": ""}]},
        {"files": [{"path": "../a", "of_sha256": "00" * 32, "rows": 1, "sha256": "00" * 32}]},
        {"files": [{"path": "a"}]},
        {"more": 1},
    ],
)
def test_a_manifest_that_was_edited_is_refused(home: Home, change: dict[str, Any]) -> None:
    home.embed()
    path = home.top / "views" / VIEWS_FILE
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | change, separators=(",", ":"), sort_keys=True).encode())

    with pytest.raises(IntegrityError, match="is not what"):
        read_views(str(home.top / "views"))


def test_a_manifest_of_no_json_and_a_folder_without_one_are_refused(home: Home) -> None:
    (home.top / VIEWS_FILE).write_bytes(b"[" * 10_000)

    with pytest.raises(IntegrityError):
        read_views(str(home.top))
    with pytest.raises(UsageError, match="holds no"):
        read_views(str(home.top / "data"))


def test_views_of_other_files_are_refused_before_anything_is_read(home: Home) -> None:
    home.embed()
    (home.top / "data" / "c.jsonl").write_text('{"label": 1}\n')

    with pytest.raises(UsageError, match=r"differ in 1 files, first 'c\.jsonl'"):
        home.vet()


def test_a_policy_that_reads_a_view_needs_it_and_views_that_nobody_reads_are_refused(home: Home) -> None:
    with pytest.raises(UsageError, match="reads view:embedding_external; the views that were given are none"):
        home.vet(None)
    home.embed()
    home.policy["dataset"]["columns"] = {"label": "label", "features": "pixels"}
    home.policy["checks"] = [{"check": "trigger_mining", "max_flagged_fraction": 0.5}]

    with pytest.raises(UsageError, match="the policy reads none"):
        home.vet()


def test_words_are_hashed_where_the_policy_names_text(home: Home) -> None:
    home.policy["dataset"]["columns"] = {
        "label": "label", "text": "words", "embedding_external": "view:embedding_external",
    }  # fmt: skip
    home.policy["dataset"].pop("images")
    home.embed(external="grams")

    assert home.vet().verdict.decision == "admitted"


@pytest.mark.parametrize("fields", [{"external": "none"}, {"external": "onnx"}, {"external": "grams"}])
def test_a_view_that_cannot_be_made_is_refused(home: Home, fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        home.embed(**fields)


def test_without_content_there_is_nothing_to_make_a_view_of(home: Home) -> None:
    home.policy["dataset"]["columns"] = {"label": "label", "embedding_external": "view:embedding_external"}

    with pytest.raises(UsageError, match="no content"):
        home.embed(external="patches")


def test_earlier_views_are_replaced_only_when_asked_and_nothing_else_ever(home: Home) -> None:
    home.embed()
    with pytest.raises(UsageError, match="exists already"):
        home.embed()
    home.embed(replace=True, seed=3)
    (home.top / "other").mkdir()
    (home.top / "other" / "thesis.txt").write_text("mine")

    with pytest.raises(UsageError):
        home.embed("other", replace=True)
    with pytest.raises(UsageError, match="inside the data"):
        home.embed("data/views")
    assert read_views(str(home.top / "views")).seed == 3
    assert (home.top / "other" / "thesis.txt").read_text() == "mine"


# rows


def rows_of(numbers: list[int]) -> list[pa.RecordBatch]:
    schema = pa.schema([pa.field("row", pa.int64()), pa.field("view:x", pa.list_(pa.float32(), 2))])
    flat = pa.array([float(number) for number in numbers for _ in range(2)], pa.float32())
    batch = pa.RecordBatch.from_arrays(
        [pa.array(numbers, pa.int64()), pa.FixedSizeListArray.from_arrays(flat, 2)], schema=schema
    )
    return [batch.slice(start, 3) for start in range(0, len(numbers), 3)]


def decoded(numbers: list[int]) -> Decoded:
    rows = np.array(numbers, np.int64)
    return Decoded(rows, pa.RecordBatch.from_arrays([pa.array(rows)], ["own"]))


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9), st.data())
def test_each_row_gets_its_own_view_in_any_batches(present: list[bool], size: int, data: st.DataObject) -> None:
    stored = [row for row, is_there in enumerate(present) if is_there]
    asked = [row for row in stored if data.draw(st.booleans())]
    views = ViewRows(iter(rows_of(stored)), {"view:x": 2}, "f")

    for start in range(0, max(1, len(asked)), size):
        part = asked[start : start + size]
        joined = views.joined(decoded(part))
        assert joined.schema.names == ["own", "view:x"]
        assert joined.column(1).to_pylist() == [[float(row)] * 2 for row in part]


@pytest.mark.parametrize("asked", [[0, 1, 7], [4], [9, 10]])
def test_a_row_without_a_view_is_refused(asked: list[int]) -> None:
    views = ViewRows(iter(rows_of([0, 1, 2, 3, 9])), {"view:x": 2}, "f")

    with pytest.raises(IntegrityError, match="lacks rows"):
        views.joined(decoded(asked))


def test_views_of_another_width_than_their_manifest_says_are_refused() -> None:
    with pytest.raises(IntegrityError, match="other columns"):
        ViewRows(iter(rows_of([0, 1])), {"view:x": 3}, "f").joined(decoded([0]))


# the command


def test_the_command_makes_views_and_says_what_to_do_next(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.load()
    out = home.top / "views"
    arguments = ["embed", str(home.top / "data"), "--policy", str(home.top / "policy.yaml"), "--out", str(out)]

    assert main([*arguments, "--no-self", "--external", "patches"]) == 0
    shown = capsys.readouterr()
    assert main([*arguments, "--no-self", "--external", "patches", "--replace", "--json", "--quiet"]) == 0
    payload = json.loads(capsys.readouterr().out)

    assert shown.out.splitlines()[-1].endswith(f"--views {out}")
    assert shown.err.splitlines() == ["embed: reading", "embed: scoring"]
    assert payload["manifest_sha256"] == hashlib.sha256((out / VIEWS_FILE).read_bytes()).hexdigest()
    assert (payload["files"], payload["rows"]) == (2, 160)
    assert main([*arguments, "--nonsense"]) == 2
    assert isinstance(PolicyError("x"), MillcertError)
    assert views_bytes(read_views(str(out))) == (out / VIEWS_FILE).read_bytes()
