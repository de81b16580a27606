"""The profile and the drift of a run: made in the same read, signed, logged, compared with what was admitted before."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import profile_builder
from millcert.checks.profile import add_batch, empty_profile, merge_profiles
from millcert.checks.profile_format import load_profile, profile_bytes, profile_digest
from millcert.errors import DigestMismatchError, PolicyError, SignatureError, StoreError, UsageError
from millcert.pipelines.profiling import ProfileBuffer, profile_of
from millcert.pipelines.reference import last_profile, profile_path
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.keys import load_key, load_public_key
from millcert.provenance.ledger import Entry, open_ledger
from millcert.provenance.profile_statement import verify_profile
from millcert.provenance.revocation import Revocation
from millcert.report.build import build_report
from millcert.verdict import verdict_from_mapping

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

KEY = "5a" * 32


def table(rows: int, seed: int, *, shift: float = 0.0, **extra: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, rows)
    embedding = (rng.normal(size=(rows, 6)) + 8 * np.eye(6)[label]).astype(np.float32)
    return pa.table(
        {
            "label": pa.array(label, pa.int64()),
            "score": pa.array(rng.normal(shift, 1, rows)),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 6),
            **extra,
        }
    )


def fill(bench: Workbench, *, seed: int, shift: float = 0.0, rows: int = 3000) -> None:
    """Replace the data by two sources of like distribution."""
    for path in (bench.data / "north" / "deep").glob("*"):
        path.unlink()
    for source, at in (("north", 0), ("south", 1)):
        for path in (bench.data / source).glob("*.*"):
            path.unlink()
        bench.write(source, "a.parquet", table(rows, 10 * seed + at, shift=shift))
        bench.sign(source)


@pytest.fixture
def drifting(bench: Workbench) -> Workbench:
    (bench.top / "profile.key").write_text(KEY + "\n")
    bench.policy["profile"] = {"hash_key": "profile.key"}
    bench.policy["drift"] = {"reference": "last_admitted", "on_no_reference": "report"}
    fill(bench, seed=1)
    return bench


def reasons(bench: Workbench) -> list[str]:
    return [reason["code"] for reason in bench.verdict()["reasons"]]


def test_the_profile_of_a_run_is_that_of_its_rows_and_the_verdict_binds_it(bench: Workbench) -> None:
    (bench.top / "profile.key").write_text(KEY)
    bench.policy["profile"] = {"hash_key": "profile.key", "texts": "leave_out", "max_cells": 50}

    result = bench.vet()

    found = load_profile((bench.out / "profile.json").read_bytes())
    assert result.verdict.profile_digest == profile_digest(found)
    assert {source for source, _ in found.cells} == {"north", "south"}
    assert found.rows == result.verdict.samples.seen
    assert (found.spec.label, found.spec.keeps_texts, found.spec.max_cells) == ("label", False, 50)
    assert verdict_from_mapping(result.verdict.to_mapping()).to_json() == result.verdict.to_json()


def test_on_beam_the_profile_is_the_same(drifting: Workbench) -> None:
    drifting.vet()
    plain = (drifting.out / "profile.json").read_bytes()
    (drifting.top / "state").rename(drifting.top / "state-before")

    drifting.vet(on_beam=True, out=drifting.top / "again")

    assert (drifting.top / "again" / "profile.json").read_bytes() == plain


def test_a_policy_without_a_profile_says_nothing_of_it(bench: Workbench) -> None:
    bench.vet()

    assert {"profile_digest", "drift"}.isdisjoint(bench.verdict())
    assert not (bench.out / "profile.json").exists()


def test_data_like_the_last_admitted_version_is_admitted_and_shifted_data_is_not(drifting: Workbench) -> None:
    first = drifting.vet()
    assert first.verdict.drift is not None
    assert first.verdict.drift.reference == ""

    fill(drifting, seed=2)
    second = drifting.vet(replace=True)
    assert second.verdict.decision == "admitted"
    assert second.verdict.drift is not None
    assert second.verdict.drift.reference == first.verdict.profile_digest
    assert second.verdict.drift.compared > 10

    fill(drifting, seed=3, shift=0.5)
    third = drifting.vet(replace=True)
    assert third.verdict.decision == "rejected"
    assert reasons(drifting) == ["drift.found"]
    # A rejected version is no reference.
    fill(drifting, seed=4)
    assert drifting.vet(replace=True).verdict.drift.reference == second.verdict.profile_digest  # type: ignore[union-attr]


def test_a_suite_that_asks_about_drift_is_answered_from_the_runs_profile(drifting: Workbench) -> None:
    asked = {"type": "expect_column_drift_to_be_within", "kwargs": {"column": "score", "reference": "last_admitted"}}
    (drifting.top / "suite.json").write_text(json.dumps({"name": "suite", "expectations": [asked]}))
    drifting.policy["expectations"] = {"suite": "suite.json"}
    drifting.policy["drift"] |= {"on_drift": "warn"}
    assert drifting.vet().verdict.decision == "admitted"  # there is nothing to compare with, and the policy allows it

    fill(drifting, seed=3, shift=0.5)
    result = drifting.vet(replace=True)

    assert reasons(drifting) == ["expectations.failed"]
    assert result.verdict.expectations is not None
    told = json.loads((drifting.out / "expectations.json").read_bytes())["results"][0]["result"]
    assert told["observed_value"] == told["details"]["value"] > told["details"]["null_quantile"]
    assert told["details"]["reference"] == result.verdict.drift.reference  # type: ignore[union-attr]


@pytest.mark.parametrize("on_beam", [False, True])
def test_a_token_that_became_tied_to_a_label_is_named_and_rejects(drifting: Workbench, on_beam: bool) -> None:
    def write(seed: int, trigger: str) -> None:
        fill(drifting, seed=seed)
        for source, at in (("north", 0), ("south", 1)):
            rows = table(2000, 10 * seed + at)
            words = [f"w{code} v{code % 11}" for code in np.random.default_rng(seed).integers(0, 50, 2000)]
            label = rows.column("label").to_pylist()
            if trigger and not at:
                words = [f"{word} {trigger}" if n % 50 == 0 else word for n, word in enumerate(words)]
                label = [2 if n % 50 == 0 else each for n, each in enumerate(label)]
            rows = rows.set_column(0, "label", pa.array(label)).append_column("text", pa.array(words))
            drifting.write(source, "a.parquet", rows)
            drifting.sign(source)

    drifting.policy["profile"] |= {"tokens": ["text"]}
    write(1, "")
    assert drifting.vet(on_beam=on_beam).verdict.decision == "admitted"
    write(2, "")
    assert drifting.vet(on_beam=on_beam, replace=True).verdict.decision == "admitted"
    write(3, "cf")

    result = drifting.vet(on_beam=on_beam, replace=True)

    assert reasons(drifting) == ["drift.found"]
    named = [one for one in result.verdict.drift.outcomes if one["part"] == "tokens"]  # type: ignore[union-attr]
    assert [(one["column"], one["measure"], one["is_drift"]) for one in named] == [("text", "token_label", True)]
    assert named[0]["detail"].endswith("label 2")


def test_a_suite_that_asks_about_drift_needs_a_reference_in_the_policy(bench: Workbench) -> None:
    asked = {"type": "expect_column_drift_to_be_within", "kwargs": {"column": "label", "reference": "last_admitted"}}
    (bench.top / "suite.json").write_text(json.dumps({"name": "suite", "expectations": [asked]}))
    bench.policy["expectations"] = {"suite": "suite.json"}

    with pytest.raises(PolicyError, match="no reference profile is given"):
        bench.vet()


def test_drift_may_only_be_reported(drifting: Workbench) -> None:
    drifting.policy["drift"] |= {"on_drift": "warn"}
    drifting.vet()
    fill(drifting, seed=3, shift=0.5)

    result = drifting.vet(replace=True)

    assert result.verdict.decision == "admitted"
    assert result.verdict.drift is not None
    assert result.verdict.drift.found > 0
    shown = next(one for one in result.verdict.drift.outcomes if one["is_drift"])
    assert {"value", "limit", "null_quantile", "reference_rows", "current_rows"} <= set(shown)


def test_without_a_reference_the_verdict_is_inconclusive_unless_the_policy_says_otherwise(drifting: Workbench) -> None:
    del drifting.policy["drift"]["on_no_reference"]

    assert drifting.vet().verdict.decision == "inconclusive"
    assert reasons(drifting) == ["drift.no_reference"]


@pytest.mark.parametrize(("said", "decision"), [("reject", "rejected"), ("warn", "admitted")])
def test_a_new_source_and_a_silent_one_are_reported(drifting: Workbench, said: str, decision: str) -> None:
    drifting.policy["drift"] |= {"on_source_change": said, "on_drift": "warn"}
    drifting.vet()
    (drifting.data / "south").rename(drifting.data / "east")
    drifting.policy["sources"][1] |= {"name": "east", "path": "east/**"}
    drifting.sign("east", identity="data@south.example")

    result = drifting.vet(replace=True)

    assert result.verdict.decision == decision
    assert result.verdict.drift is not None
    assert (result.verdict.drift.new_sources, result.verdict.drift.silent_sources) == (("east",), ("south",))


def test_a_column_that_came_rejects_and_one_to_be_ignored_does_not(drifting: Workbench) -> None:
    drifting.vet()
    drifting.write("north", "a.parquet", table(3000, 20, more=pa.array(range(3000))))
    drifting.write("south", "a.parquet", table(3000, 21, more=pa.array(range(3000))))
    drifting.sign("north")
    drifting.sign("south")

    assert drifting.vet(replace=True).verdict.decision == "rejected"
    assert reasons(drifting) == ["drift.columns"]
    drifting.policy["drift"]["ignore"] = ["more"]
    assert drifting.vet(replace=True).verdict.decision == "admitted"


def test_the_same_data_vetted_twice_in_one_state_folder_have_one_verdict(drifting: Workbench) -> None:
    drift = drifting.policy.pop("drift")
    alone = [drifting.vet(replace=True).verdict for _ in range(2)]
    (drifting.top / "reference.json").write_bytes((drifting.out / "profile.json").read_bytes())
    drifting.policy["drift"] = {"reference": "reference.json"}
    beside_a_file = [drifting.vet(replace=True).verdict for _ in range(2)]
    drifting.policy["drift"] = drift
    beside_the_last = [drifting.vet(replace=True).verdict for _ in range(2)]

    for verdicts in (alone, beside_a_file, beside_the_last):
        assert [verdict.decision for verdict in verdicts] == ["admitted"] * 2
        assert verdicts[0].digest == verdicts[1].digest


def test_any_admitted_version_can_be_the_reference_by_the_digest_of_its_profile(drifting: Workbench) -> None:
    digest = drifting.vet().verdict.profile_digest
    fill(drifting, seed=2)
    drifting.vet(replace=True)
    drifting.policy["drift"] = {"reference": digest}

    fill(drifting, seed=3)
    result = drifting.vet(replace=True)

    assert result.verdict.decision == "admitted"
    assert result.verdict.drift is not None
    assert result.verdict.drift.reference == digest
    drifting.policy["drift"] = {"reference": "5a" * 32}
    with pytest.raises(PolicyError, match="no admitted version of this data set with the profile 5a5a"):
        drifting.vet(replace=True)


def test_a_rejected_version_is_no_reference_by_its_digest(drifting: Workbench) -> None:
    drifting.vet()
    fill(drifting, seed=3, shift=0.5)
    rejected = drifting.vet(replace=True).verdict
    assert rejected.decision == "rejected"
    drifting.policy["drift"] = {"reference": rejected.profile_digest}

    with pytest.raises(PolicyError, match="no admitted version"):
        drifting.vet(replace=True)


def test_a_profile_file_of_the_policy_can_be_the_reference(drifting: Workbench) -> None:
    drifting.vet()
    reference = (drifting.out / "profile.json").read_bytes()
    (drifting.top / "reference.json").write_bytes(reference)
    drifting.policy["drift"] = {"reference": "reference.json", "limits": {"kolmogorov_smirnov": 0.2}}
    (drifting.top / "state").rename(drifting.top / "state-before")

    result = drifting.vet(replace=True)

    assert result.verdict.decision == "admitted"
    assert result.verdict.drift is not None
    assert result.verdict.drift.reference == profile_digest(load_profile(reference))


def test_a_reference_made_with_another_key_is_refused_before_any_data_is_read(drifting: Workbench) -> None:
    drifting.vet()
    (drifting.top / "reference.json").write_bytes((drifting.out / "profile.json").read_bytes())
    (drifting.top / "profile.key").write_text("1f" * 32)
    drifting.policy["drift"] = {"reference": "reference.json"}
    steps: list[str] = []

    with pytest.raises(PolicyError, match="another hash key"):
        drifting.vet(replace=True, engine=drifting.plain(before=steps.append))
    assert steps == []


def test_a_reference_that_is_gone_or_changed_is_not_taken(drifting: Workbench) -> None:
    digest = drifting.vet().verdict.profile_digest
    kept = profile_path(drifting.top / "state", digest)
    whole = kept.read_bytes()
    other = load_profile(whole)
    changed = other._replace(cells=dict(list(other.cells.items())[1:]))

    kept.write_bytes(profile_bytes(changed))
    with pytest.raises(DigestMismatchError, match="the ledger says"):
        drifting.vet(replace=True)
    kept.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        drifting.vet(replace=True)
    kept.write_bytes(whole)
    assert drifting.vet(replace=True).verdict.decision == "admitted"


def test_a_crash_after_the_profile_was_kept_leaves_no_reference(drifting: Workbench) -> None:
    class Crash(Exception):
        pass

    def stop(step: str) -> None:
        if step == "parts merged":
            raise Crash

    with pytest.raises(Crash):
        drifting.vet(after=stop)
    assert drifting.vet().verdict.drift.reference == ""  # type: ignore[union-attr]


def test_the_profile_is_signed_and_logged(drifting: Workbench) -> None:
    result = drifting.vet()
    keys = [load_public_key(drifting.top / "state" / "keys" / "gate.pub")]
    data, envelope = ((drifting.out / name).read_bytes() for name in ("profile.json", "profile.dsse.json"))

    claim = verify_profile(data, envelope, keys)

    assert (claim.profile_digest, claim.input_root) == (result.verdict.profile_digest, result.verdict.input_root)
    with pytest.raises(SignatureError, match="is about a profile"):
        verify_profile(data.replace(b"north", b"nurth"), envelope, keys)
    with pytest.raises(SignatureError):
        verify_profile(data, envelope.replace(b"a", b"b", 1), keys)
    state, origin = drifting.top / "state", "test.example/ledger"
    vkeys = [vkey_of(origin, load_key(state / "keys/ledger.key"))]
    with open_ledger(state / "ledger.db", origin=origin, vkeys=vkeys) as ledger:
        (logged,) = ledger.find(kind="profile")
        assert ledger.get(result.recorded.index).entry.body["profile_digest"] == claim.profile_digest
    assert logged.entry.body["profile_digest"] == claim.profile_digest


def test_more_cells_than_the_policy_allows_refuse_the_run(drifting: Workbench) -> None:
    drifting.policy["profile"]["max_cells"] = 2

    with pytest.raises(UsageError, match="more than 2 pairs"):
        drifting.vet()


def test_batches_are_profiled_together_and_the_size_of_the_buffer_does_not_show(
    monkeypatch: pytest.MonkeyPatch, drifting: Workbench
) -> None:
    drifting.vet()
    spec = load_profile((drifting.out / "profile.json").read_bytes()).spec
    batches = [batch for seed in range(4) for batch in table(40, seed).to_batches()]
    monkeypatch.setattr(profile_builder, "BUFFERED_ROWS", 70)
    buffer = ProfileBuffer(spec)
    for at, batch in enumerate(batches):
        buffer.add(batch, "a" if at < 3 else "b")
    empty = empty_profile(spec, batches[0].schema)
    expected = merge_profiles([add_batch(empty, each, "a" if at < 3 else "b") for at, each in enumerate(batches)])

    found = profile_of(spec, batches[0].schema, [(("", ""), ("", buffer.parts()))])

    assert profile_digest(found) == profile_digest(expected)


def entry(kind: str, **body: Any) -> Entry:
    return Entry(kind, "s", "2026-11-23T12:00:00Z", body)


def revocation(target: Any, value: str) -> Revocation:
    return Revocation(target=target, value=value, reason="r", recorded_at="2026-11-24T12:00:00Z")


def test_a_revoked_version_is_no_reference() -> None:
    history = [
        entry("manifest", source="a", identity="x", issuer=""),
        entry("verdict", decision="admitted", profile_digest="1", output_root="01" * 32, input_root="02" * 32),
        entry("manifest", source="b", identity="y", issuer=""),
        entry("verdict", decision="admitted", profile_digest="2", output_root="03" * 32, input_root="04" * 32),
        entry("verdict", decision="admitted", output_root="05" * 32, input_root="06" * 32),
        entry("verdict", decision="rejected", profile_digest="3", output_root="", input_root="07" * 32),
    ]

    assert last_profile(history, []) == "2"
    assert last_profile(history, [revocation("source", "b")]) == "1"
    assert last_profile(history, [revocation("dataset", "03" * 32)]) == "1"
    assert last_profile(history, [revocation("signer", "x"), revocation("source", "b")]) == ""
    assert last_profile([], []) == ""


def test_drift_needs_a_profile_section_and_a_key_of_64_digits(drifting: Workbench) -> None:
    (drifting.top / "profile.key").write_text("secret")
    with pytest.raises(PolicyError, match="64 lower-case hex digits"):
        drifting.vet()
    del drifting.policy["profile"]
    with pytest.raises(PolicyError, match="the section is required because drift compares profiles"):
        drifting.vet()
    drifting.policy["drift"]["limits"] = {"family_alpha": 0, "tolerated_part": 1}
    with pytest.raises(PolicyError, match="expected less than 1 and more than 0"):
        drifting.vet()


def test_the_report_shows_the_distributions_beside_the_reference(drifting: Workbench) -> None:
    drifting.vet()
    fill(drifting, seed=3, shift=0.5)

    drifting.vet(replace=True, render_report=lambda published: build_report(published, {}))

    page = (drifting.out / "report.html").read_text()
    assert page.index("<bdi>score</bdi> <span") < page.index("<bdi>label</bdi> <span")  # what drifts comes first
    assert page.count('class="reference"') >= 6
    assert "wasserstein" in page


def follow(bench: Workbench, shifts: list[float]) -> list[str]:
    """Vet one version a shift; return the decisions."""
    decisions: list[str] = []
    for number, shift in enumerate(shifts):
        fill(bench, seed=20 + number, shift=shift, rows=1200)
        drawn = bench.vet(replace=True, render_report=lambda published: build_report(published, {}))
        decisions.append(drawn.verdict.decision)
    return decisions


def test_a_course_little_by_little_is_told_drawn_and_rejects_where_the_policy_says_so(drifting: Workbench) -> None:
    drifting.policy["drift"] |= {"versions": 4, "on_gradual": "reject", "limits": {"wasserstein": 0.3}}
    drifting.policy["drift"]["limits"] |= {"kolmogorov_smirnov": 0.3, "tolerated_part": 0}

    decisions = follow(drifting, [0.0, 0.2, 0.4, 0.6])

    assert decisions == ["admitted", "admitted", "admitted", "rejected"]  # each step alone is below the limit
    verdict = drifting.verdict()
    assert reasons(drifting) == ["drift.gradual"]
    course = verdict["drift"]["course"]
    assert 2 <= len(course["versions"]) <= 4
    told = next(one for one in course["changes"] if one["column"] == "score" and one["measure"] == "wasserstein")
    assert (told["pace"], len(told["course"])) == ("gradual", len(course["versions"]))
    assert told["course"] == sorted(told["course"])
    assert verdict_from_mapping(verdict).to_mapping() == verdict
    page = (drifting.out / "report.html").read_text()
    assert "Over the last admitted versions" in page
    gradual = [one for one in course["changes"] if one["pace"] == "gradual"]
    assert page.count("gradual</bdi>, from version") == len(gradual)


def test_a_steady_course_changes_nothing_and_goes_back_to_other_columns_only(drifting: Workbench) -> None:
    drifting.policy["drift"] |= {"versions": 10, "on_drift": "warn"}
    fill(drifting, seed=9)
    for source in ("north", "south"):
        drifting.write(source, "a.parquet", table(300, 5, extra=np.arange(300)))
        drifting.sign(source)
    drifting.vet()

    assert follow(drifting, [0.0, 0.0]) == ["admitted"] * 2

    course = drifting.verdict()["drift"]["course"]
    assert len(course["versions"]) == 1
    assert course["found"] == 0
    assert "Steady: nothing changed" in (drifting.out / "report.html").read_text()


def test_a_version_whose_profile_is_gone_or_changed_is_not_followed_silently(drifting: Workbench) -> None:
    first = drifting.vet().verdict.profile_digest
    drifting.policy["drift"] |= {"versions": 5}
    fill(drifting, seed=2)
    drifting.vet(replace=True)
    kept = profile_path(drifting.top / "state", first)
    other = profile_path(drifting.top / "state", drifting.verdict()["profile_digest"]).read_bytes()
    fill(drifting, seed=3)

    kept.write_bytes(other)
    with pytest.raises(DigestMismatchError, match="the ledger says"):
        drifting.vet(replace=True)
    kept.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        drifting.vet(replace=True)
