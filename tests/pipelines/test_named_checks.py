"""One check several times in a policy, each by a name of its own, from the policy to verdict, findings and ledger."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import PolicyError
from millcert.pipelines.rating import load_rates
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.keys import load_key
from millcert.provenance.ledger import open_ledger
from millcert.report.build import build_report
from millcert.verdict import verdict_from_mapping

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def table(rows: int, seed: int) -> pa.Table:
    """Return 3 classes in two views; a third of class 0 is labelled 1 in the first view's eyes only."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, rows)
    wrong = (label == 1) & (rng.random(rows) < 0.15)
    views = {
        "embedding": rng.normal(size=(rows, 6)) + 6 * np.eye(6)[np.where(wrong, 0, label)],
        "own": rng.normal(size=(rows, 4)) + 6 * np.eye(4)[label],
    }
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(rows_.astype(np.float32).reshape(-1)), rows_.shape[1])
        for name, rows_ in views.items()
    }
    return pa.table({"label": pa.array(label, pa.int64()), **arrays})


def rule(name: str = "", view: str = "embedding_external", **fields: Any) -> dict[str, Any]:
    called = {"as": name} if name else {}
    config = {"view": view, "refine": 0}
    return {"check": "label_noise", **called, "max_flagged_fraction": 0.5, "config": config, **fields}


@pytest.fixture
def two_views(bench: Workbench) -> Workbench:
    for source in ("north", "south"):
        for path in [*(bench.data / source).glob("*.*"), *(bench.data / source / "deep").glob("*")]:
            path.unlink()
    for source, seed in (("north", 1), ("south", 2)):
        bench.write(source, "a.parquet", table(700, seed))
        bench.sign(source)
    bench.policy["dataset"]["columns"] = {
        "label": "label",
        "embedding_external": "embedding",
        "embedding_self": "own",
    }
    bench.policy["checks"] = [rule(), rule("own_view", "embedding_self")]
    return bench


def test_each_instance_has_its_own_place_in_verdict_findings_rates_ledger_and_report(two_views: Workbench) -> None:
    result = two_views.vet()

    outside, own = result.verdict.checks
    assert [(one.name, one.check) for one in (outside, own)] == [("label_noise", ""), ("own_view", "label_noise")]
    assert outside.config_digest != own.config_digest
    assert outside.flagged > 20
    assert own.flagged < 5
    assert ["check" in item for item in two_views.verdict()["checks"]] == [False, True]
    assert verdict_from_mapping(two_views.verdict()).digest == result.verdict.digest
    findings = pq.read_table(two_views.out / "findings.parquet")
    counted = {item["values"]: item["counts"] for item in findings["check"].value_counts().to_pylist()}
    assert counted == {name: n for name, n in (("label_noise", outside.flagged), ("own_view", own.flagged)) if n}
    assert {vote for votes in findings["votes"].to_pylist() for vote in votes} == set(counted)
    assert set(load_rates((two_views.out / "rates.json").read_bytes())) == {"label_noise", "own_view"}
    state, origin = two_views.top / "state", "test.example/ledger"
    vkey = vkey_of(origin, load_key(state / "keys/ledger.key"))
    with open_ledger(state / "ledger.db", origin=origin, vkeys=[vkey]) as ledger:
        bodies = [entry.entry.body for entry in ledger.find(kind="check_summary")]
    assert [(body["name"], body.get("check")) for body in bodies] == [
        ("label_noise", None),
        ("own_view", "label_noise"),
    ]


def test_a_name_alone_changes_no_score(two_views: Workbench) -> None:
    two_views.policy["checks"] = [rule()]
    plain = two_views.vet().verdict.checks[0]

    two_views.policy["checks"] = [rule("first"), rule("second")]
    named = two_views.vet(replace=True).verdict.checks

    assert [one.name for one in named] == ["first", "second"]
    for one in named:
        assert (one.config_digest, one.flagged, one.evidence) == (plain.config_digest, plain.flagged, plain.evidence)


@pytest.mark.slow
def test_the_digest_is_the_same_on_beam(two_views: Workbench) -> None:
    plain = two_views.vet().verdict

    on_beam = two_views.vet(replace=True, on_beam=True).verdict

    assert on_beam.digest == plain.digest


def test_the_report_says_which_check_a_name_stands_for(two_views: Workbench) -> None:
    two_views.vet(render_report=lambda published: build_report(published, {}))

    assert "own_view (label_noise)" in (two_views.out / "report.html").read_text()


@pytest.mark.parametrize(
    ("checks", "told"),
    [
        ([rule(), rule()], r"checks\[1\].check.*label_noise is checks\[0\] already; .*`as: NAME`"),
        ([rule("twice"), rule("twice")], r"checks\[1\].as.*twice is checks\[0\] already; .*`as: NAME`"),
        ([rule("trigger_mining")], r"checks\[0\].as.*trigger_mining is the name of a check itself"),
        ([rule("expectations")], r"checks\[0\].as.*expectations is the name"),
        ([rule("Two Words")], r"checks\[0\].as"),
    ],
)
def test_names_that_would_be_confused_are_refused(two_views: Workbench, checks: list[Any], told: str) -> None:
    two_views.policy["checks"] = checks

    with pytest.raises(PolicyError, match=told) as refused:
        two_views.vet()

    assert refused.value.exit_code == 2


def test_the_policy_s_digest_holds_a_name_and_is_what_it_was_without_one(two_views: Workbench) -> None:
    from millcert.policy import load_policy

    two_views.policy["checks"] = [rule()]
    unnamed = load_policy(two_views.save_policy())
    assert b'"as"' not in json.dumps(unnamed.policy.to_document()).encode()
    two_views.policy["checks"] = [rule("mine")]

    named = load_policy(two_views.save_policy())

    assert named.policy.to_document()["checks"][0]["as"] == "mine"
    assert named.digest != unnamed.digest
