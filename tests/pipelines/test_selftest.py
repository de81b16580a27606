"""The self-test: it plants in a copy, runs the user's checks, and says what it could not test."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from millcert.cli.main import main
from millcert.errors import IntegrityError, NotEnoughSamplesError, UsageError
from millcert.pipelines.driver import VetOptions, vet_dataset
from millcert.pipelines.selftest import SelftestOptions, run_selftest
from millcert.pipelines.selftest_file import bind_selftest, selftest_bytes
from millcert.pipelines.selftest_samples import read_subject
from millcert.policy import LoadedPolicy, load_policy

ROWS = 240


class Home:
    """A data set of two sources and a policy; columns: label, pixels, words, embedding."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.policy: dict[str, Any] = {
            "version": 1,
            "dataset": {
                "name": "small",
                "columns": {"label": "label", "embedding_external": "embedding"},
                "max_malformed_fraction": 0,
            },
            "sources": [
                {"name": name, "path": f"{name}/**", "unsigned": "accept_as_unknown"} for name in ("east", "west")
            ],
            "checks": [{"check": "label_noise", "max_flagged_fraction": 0.5}],
            "verdict": {"max_quarantined_fraction": 1, "max_unknown_provenance_fraction": 1},
            "ledger": {"origin": "test.example/ledger"},
        }
        for seed, source in enumerate(("east", "west")):
            folder = top / "data" / source
            folder.mkdir(parents=True)
            pq.write_table(table(seed), folder / "a.parquet")

    def load(self) -> LoadedPolicy:
        path = self.top / "policy.yaml"
        path.write_text(yaml.safe_dump(self.policy))
        return load_policy(path)

    def run(self, *attacks: str, **fields: Any) -> dict[str, Any]:
        options = SelftestOptions(attacks, **{"rate": 0.05, "repeats": 2, **fields})
        return run_selftest(self.load(), [str(self.top / "data")], options)


def table(seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, ROWS)
    embedding = (random.normal(size=(ROWS, 6)) + 8 * np.eye(6)[label]).astype(np.float32)
    pixels = random.uniform(0, 50, (ROWS, 36)) + 60 * np.eye(36)[label * 7]
    return pa.table(
        {
            "label": pa.array(label),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 36),
            "words": pa.array([f"text {value} of {row}" for row, value in enumerate(label)]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), 6),
        }
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_flips_are_found_on_embeddings_alone_and_the_controls_stand_beside(home: Home) -> None:
    result = home.run()

    flips = {one["attack"]: one for one in result["attacks"]}
    assert set(flips) == {"label_flips", "targeted_flips"}
    one = flips["label_flips"]
    assert one["planted"] == 24
    assert one["tpr"]["value"] > 0.9
    assert one["fpr"]["value"] < 0.02
    assert one["auroc"]["low"] > 0.9
    assert one["tpr"]["low"] <= one["tpr"]["value"] <= one["tpr"]["high"]
    assert one["checks"]["label_noise"]["tpr"] == one["tpr"]
    assert one["controls"]["perfect_filter"] == {
        "tpr": {"value": 1.0, "low": pytest.approx(0.926, abs=0.001), "high": 1.0},
        "fpr": {"value": 0.0, "low": 0.0, "high": pytest.approx(0.0042, abs=0.0001)},
        "auroc": {"value": 1.0, "low": 1.0, "high": 1.0},
    }
    assert one["controls"]["random_filter"]["tpr"]["value"] < 0.3
    assert one["clusters"] == {"label_noise": pytest.approx(6, abs=3)}
    assert one["rejected"] == 0
    assert {each["attack"] for each in result["not_planted"]} >= {"badnets_patch", "inserted_words", "value_pair"}


def test_the_same_seed_gives_the_same_bytes(home: Home) -> None:
    first = selftest_bytes(home.run("label_flips"))

    assert selftest_bytes(home.run("label_flips")) == first
    assert selftest_bytes(home.run("label_flips", seed=5)) != first


def test_the_data_are_only_read(home: Home) -> None:
    paths = sorted(path for path in home.top.rglob("*") if path.is_file())
    home.load()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    everything = set(home.top.rglob("*"))

    home.run()

    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths} == before
    assert set(home.top.rglob("*")) == everything | {home.top / "policy.yaml"}


def test_a_check_of_a_self_view_is_left_out_where_there_is_no_content_to_make_it_of(home: Home) -> None:
    home.policy["dataset"]["columns"] = {"label": "label", "embedding_self": "embedding"}
    home.policy["checks"] = [
        {"check": "robust_spectral", "max_flagged_fraction": 0.5},
        {"check": "label_noise", "max_flagged_fraction": 0.5, "config": {"view": "embedding_self"}},
    ]

    with pytest.raises(UsageError, match="None of the policy's checks"):
        home.run("label_flips")


def test_what_is_left_out_and_assumed_is_said(home: Home) -> None:
    home.policy["dataset"]["columns"]["embedding_self"] = "view:embedding_self"
    home.policy["checks"].append({"check": "robust_spectral", "max_flagged_fraction": 0.5})

    result = home.run("label_flips", repeats=1)

    assert result["left_out"] == [
        {"check": "robust_spectral", "reason": "embedding_self cannot be made again after planting"}
    ]
    assert result["checks"] == ["label_noise"]
    assert result["assumptions"] == ["the external view of a planted sample is that of the sample before planting"]


@pytest.mark.slow
def test_images_get_patches_and_a_self_view_of_their_own(home: Home) -> None:
    home.policy["dataset"] |= {
        "columns": {"label": "label", "features": "pixels", "embedding_self": "view:a", "embedding_external": "view:b"},
        "images": {"pixels": {"shape": [6, 6], "max_value": 255}},
    }
    home.policy["checks"] = [
        {"check": "robust_spectral", "max_flagged_fraction": 0.5},
        {"check": "trigger_mining", "max_flagged_fraction": 0.5},
        {"check": "label_noise", "max_flagged_fraction": 0.5},
    ]

    result = home.run("patch_in_one_source", "adaptive_blend", repeats=1)

    patch, adaptive = result["attacks"][0], result["attacks"][1]
    assert (patch["attack"], adaptive["attack"]) == ("patch_in_one_source", "adaptive_blend")
    assert patch["checks"]["trigger_mining"]["tpr"]["value"] == 1.0
    assert patch["rejected"] == 1
    assert "backdoor" in patch["clusters"]
    assert set(adaptive["checks"]) | set(adaptive["inconclusive"]) == {
        "robust_spectral",
        "trigger_mining",
        "label_noise",
    }
    assert len(result["assumptions"]) == 2


@pytest.mark.slow
def test_text_gets_words_and_hashed_views(home: Home) -> None:
    home.policy["dataset"]["columns"] = {"label": "label", "text": "words", "embedding_external": "view:grams"}

    result = home.run("inserted_words", repeats=1)

    assert result["attacks"][0]["checks"].keys() == {"label_noise"}
    assert result["assumptions"] == ["the external view is that of random patches or hashed words"]


def test_a_part_of_the_data_is_the_same_part_in_any_order(home: Home) -> None:
    loaded, data = home.load(), home.top / "data"

    part = read_subject(loaded, [str(data)], max_samples=100)
    whole = read_subject(loaded, [str(data)], max_samples=10_000)

    assert len(part.samples.label) == 100
    assert part.seen == whole.seen == 2 * ROWS
    chosen = sorted(map(bytes, whole.digests))[:100]
    assert sorted(map(bytes, part.digests)) == chosen


def test_an_attack_that_was_asked_for_and_cannot_be_planted_is_an_error(home: Home) -> None:
    with pytest.raises(NotEnoughSamplesError, match="badnets_patch needs image"):
        home.run("badnets_patch")


@pytest.mark.parametrize(
    "fields",
    [
        {"attacks": ("nonsense",)},
        {"rate": 0.0},
        {"rate": 0.6},
        {"repeats": 0},
        {"max_samples": 1},
        {"min_tpr": 0.0},
        {"min_tpr": 1.5},
    ],
)
def test_options_out_of_their_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SelftestOptions(**fields)


def test_a_policy_without_labels_and_data_without_samples_are_refused(home: Home) -> None:
    loaded = home.load()
    (home.top / "empty" / "east").mkdir(parents=True)
    pq.write_table(table(0).slice(0, 0), home.top / "empty" / "east" / "a.parquet")

    with pytest.raises(NotEnoughSamplesError, match="no usable sample"):
        read_subject(loaded, [str(home.top / "empty")], max_samples=5)
    with pytest.raises(UsageError):
        read_subject(loaded, [str(home.top / "nowhere")], max_samples=5)


# the file and the command


def answer() -> dict[str, Any]:
    return {"format": "millcert.selftest/1", "policy_digest": "aa", "code_version": "v", "attacks": [{"tpr": 0.5}]}


def test_a_file_binds_by_its_digest_under_its_policy_and_code() -> None:
    data = selftest_bytes(answer())

    assert len(bind_selftest(data, policy_digest="aa", code_version="v")) == 64
    for other in ({"policy_digest": "bb", "code_version": "v"}, {"policy_digest": "aa", "code_version": "w"}):
        with pytest.raises(UsageError, match="this run's"):
            bind_selftest(data, **other)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"format":"other"}',
        json.dumps(answer()).encode(),
        b"[" * 99_999,
        selftest_bytes(answer()).replace(b"0.5", b"0.9"),
    ],
)
def test_a_file_that_is_not_ours_or_was_edited_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        bind_selftest(data, policy_digest="aa", code_version="v")


def arguments(home: Home, *more: str) -> list[str]:
    home.load()
    data, policy = str(home.top / "data"), str(home.top / "policy.yaml")
    return ["selftest", data, "--policy", policy, "--attack", "label_flips", "--repeats", "1", "--rate", "0.05", *more]


def test_the_command_says_what_was_found_and_fails_where_it_is_blind(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(home, "--min-tpr", "0.9")) == 0
    shown = capsys.readouterr()
    home.policy["checks"] = [{"check": "trigger_mining", "max_flagged_fraction": 0.5}]
    home.policy["dataset"]["columns"] = {"label": "label", "features": "pixels"}
    blind = main(arguments(home, "--min-tpr", "0.9", "--quiet"))

    assert "label_flips" in shown.out
    assert "by label_noise" in shown.out
    assert "selftest: label_flips" in shown.err
    assert shown.out.splitlines()[-1].startswith("  next: ")
    after = capsys.readouterr()
    assert blind == 1
    assert "BLIND to label_flips" in after.out
    assert not after.err


def test_the_command_writes_a_file_that_vet_binds(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    target = home.top / "selftest.json"

    assert main(arguments(home, "--quiet", "--json", "--out", str(target))) == 0

    payload = json.loads(capsys.readouterr().out)
    assert {k: v for k, v in json.loads(target.read_bytes()).items() if k != "sha256"} == payload
    digest = bind_selftest(target.read_bytes(), policy_digest=home.load().digest, code_version=payload["code_version"])
    assert len(digest) == 64


def test_a_verdict_holds_the_digest_of_the_self_test_that_it_was_given(home: Home, plain_engine: Any) -> None:
    data = selftest_bytes(home.run("label_flips", repeats=1))
    options = VetOptions(
        (str(home.top / "data"),), str(home.top / "out"), home.top / "state", selftest=data, replace=True
    )

    result = vet_dataset(home.load(), options, engine=plain_engine())

    assert result.verdict.selftest_sha256 == hashlib.sha256(data).hexdigest()
    certificate = json.loads((home.top / "out" / "certificate.json").read_bytes())
    assert certificate
    home.policy["verdict"]["max_quarantined_fraction"] = 0.9
    with pytest.raises(UsageError, match="policy_digest"):
        vet_dataset(home.load(), options, engine=plain_engine())
