"""How much of what an attacker would plant does this gate see in these data? Attacks are planted and the gate is run.

The checks, their configuration and the policy's actions are the user's own; what runs them is a loop in this process.
What of the real run cannot be repeated is said in the result: a model of the user's that made a view cannot be asked
again, so a self view is made anew by the probe of `millcert embed` where there is content, and left out where not.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from millcert.checks.base import Scores, fit_check
from millcert.checks.detection_rates import Rate, auroc, proportion
from millcert.checks.fusion import Cell, Cluster, Panel, fuse, voter_of
from millcert.checks.patch_rows import patch_rows
from millcert.checks.planting import ATTACKS, Attack, Planted, Samples, plant
from millcert.checks.self_view import ContentKind, ProbeChoice, train_self_view
from millcert.checks.text_grams import gram_rows
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, UsageError
from millcert.pipelines.fuse import summarise
from millcert.pipelines.plan import PlannedCheck
from millcert.pipelines.planning import CODE_VERSION, planned_checks
from millcert.pipelines.selftest_file import FORMAT
from millcert.pipelines.selftest_samples import Subject, is_view, read_subject
from millcert.policy import LoadedPolicy


@dataclass(frozen=True)
class SelftestOptions:
    """What is planted. rate: poisoned of all samples, in (0, 0.5]. repeats: other seeds for each attack, at least 1.

    attacks: names; () for every one that the columns allow. max_samples: as many of the data set are used.
    min_tpr: None, or the share of planted samples below which the gate counts as blind to an attack. probe: what makes
    the self view.
    """

    attacks: tuple[str, ...] = ()
    rate: float = 0.01
    repeats: int = 3
    seed: int = 0
    max_samples: int = 20_000
    min_tpr: float | None = None
    probe: ProbeChoice = field(default_factory=ProbeChoice)

    def __post_init__(self) -> None:
        unknown = [name for name in self.attacks if name not in ATTACKS]
        if unknown:
            raise UsageError(f"There is no attack {unknown[0]!r}.", hint=f"Known: {', '.join(ATTACKS)}.")
        if not 0 < self.rate <= 0.5:
            raise UsageError(f"--rate must be in (0, 0.5], got {self.rate}.")
        if self.repeats < 1 or self.max_samples < 2:
            raise UsageError("--repeats must be at least 1, and --max-samples at least 2.")
        if self.min_tpr is not None and not 0 < self.min_tpr <= 1:
            raise UsageError(f"--min-tpr must be in (0, 1], got {self.min_tpr}.")


class _Run(NamedTuple):
    """The gate on one data set. flagged: bool (n,), by any check. score: (n,), the highest rank that a check gave.

    by_check: check -> its scores. rejects: whether the policy rejects. failures: check -> why it could not be fitted.
    """

    flagged: np.ndarray
    score: np.ndarray
    by_check: Mapping[str, Scores]
    clusters: tuple[Cluster, ...]
    rejects: bool
    failures: Mapping[str, str]


class _Tolerance(NamedTuple):
    checks: tuple[PlannedCheck, ...]
    on_backdoor: str
    on_bad_source: str


def run_selftest(
    loaded: LoadedPolicy,
    datasets: Sequence[str],
    options: SelftestOptions,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return what the gate found of each attack, as JSON values (docs/selftest.md); the user's data is only read.

    Args:
        loaded: the policy, with its checks.
        datasets: as for `millcert vet`.
        options: what to plant.
        progress: is told what begins.

    Raises:
        MillcertError: by its class, as `read_subject`, or an attack that was asked for by name cannot be planted.

    Cost: (1 + attacks x repeats) times the checks' passes over the samples, and as many probes where a check reads a
    self view (about 20 CPU-seconds each for 20,000 images of 32 x 32 x 3).
    """
    progress("reading")
    subject = read_subject(loaded, datasets, max_samples=options.max_samples)
    gate = _Gate(loaded, subject, options)
    progress("the data as they are")
    clean = gate.run(subject.samples, options.seed)
    attacks, left = [], []
    for attack in ATTACKS.values():
        if options.attacks and attack.name not in options.attacks:
            continue
        progress(attack.name)
        try:
            attacks.append(_measured(gate, attack, options))
        except NotEnoughSamplesError as error:
            if attack.name in options.attacks:
                raise
            left.append({"attack": attack.name, "reason": error.message})
    blind = [one["attack"] for one in attacks if options.min_tpr is not None and one["tpr"]["value"] < options.min_tpr]
    return {
        "format": FORMAT,
        "dataset": loaded.policy.dataset.name,
        "policy_digest": loaded.digest,
        "code_version": CODE_VERSION,
        "input_digest": subject.input_digest,
        "seed": options.seed,
        "repeats": options.repeats,
        "rate": options.rate,
        "samples": len(subject.samples.label),
        "samples_seen": subject.seen,
        "classes": len(set(subject.samples.label.tolist())),
        "sources": len(set(subject.samples.source.tolist())),
        "checks": [planned.name for planned in gate.checks],
        "left_out": [{"check": name, "reason": reason} for name, reason in sorted(gate.left_out.items())],
        "assumptions": list(gate.assumptions),
        "unplanted": {
            "flagged": _share(proportion(int(clean.flagged.sum()), len(clean.flagged))),
            "rejects": clean.rejects,
            "inconclusive": dict(sorted(clean.failures.items())),
        },
        "attacks": attacks,
        "not_planted": left,
        "min_tpr": options.min_tpr,
        "blind_to": blind,
    }


class _Gate:
    """The user's checks with what can be made of the views; knows what it cannot repeat."""

    def __init__(self, loaded: LoadedPolicy, subject: Subject, options: SelftestOptions) -> None:
        self._policy = loaded.policy
        self.subject = subject
        self.left_out: dict[str, str] = {}
        self.assumptions: list[str] = []
        samples = subject.samples
        self._has_content = samples.text is not None or samples.features is not None
        made = {"embedding_self"} if self._has_content else set()
        if samples.text is not None or samples.shape:
            made |= {role for role, column in self._policy.roles().items() if is_view(column)}
        has = {"label", "source", "sample_digest", *made, *(set(subject.vectors) - {"embedding_self"})}
        has |= {"features"} if samples.features is not None else set()
        has |= {"text"} if samples.text is not None else set()
        checks = []
        for planned in planned_checks(self._policy):
            missing = sorted(planned.check.columns - has)
            if missing:
                self.left_out[planned.name] = f"{', '.join(missing)} cannot be made again after planting"
            else:
                checks.append(planned)
        self.checks = tuple(checks)
        self._probe = options.probe
        content: ContentKind = "text" if samples.text is not None else "image" if samples.shape else "table"
        self._content = content
        if not self.checks:
            raise UsageError(
                "None of the policy's checks can be tested on these columns.",
                hint="Map dataset.columns.features or text, so that a self view can be made again.",
                left_out=self.left_out,
            )
        self._say_assumptions()

    def _say_assumptions(self) -> None:
        read = frozenset().union(*(planned.check.columns for planned in self.checks))
        if "embedding_self" in read:
            kind = self._probe.resolved(self._content)
            self.assumptions.append(
                f"the self view is that of the probe of `millcert embed --probe {kind}`, trained after planting"
            )
        if "embedding_external" in read:
            self.assumptions.append(
                "the external view of a planted sample is that of the sample before planting"
                if "embedding_external" in self.subject.vectors
                else "the external view is that of random patches or hashed words"
            )
        if "pred_probs" in read:
            self.assumptions.append("probabilities are those of the samples before planting")

    def run(self, samples: Samples, seed: int) -> _Run:
        """Run the checks and fuse what they say."""
        views = self._views(samples, seed)
        found: dict[str, Scores] = {}
        failures: dict[str, str] = {}
        voters = []
        for planned in self.checks:
            check = planned.check
            batches = self.subject.batches(samples, views, check.columns)
            try:
                model = fit_check(check, batches)
            except (NotEnoughSamplesError, InvalidSampleError) as error:
                failures[planned.name] = error.message
                continue
            found[planned.name] = _joined([check.score(model, batch) for batch in batches])
            voters.append(voter_of(check, check.evidence(model), planned.name))
        total = len(samples.label)
        flagged = np.zeros(total, dtype=bool)
        score = np.zeros(total)
        for scores in found.values():
            flagged |= scores.flagged
            score = np.maximum(score, _ranks(scores.score))
        clusters = fuse(Panel(voters), Counter(_cells(samples, found, np.flatnonzero(flagged))))
        return _Run(flagged, score, found, clusters, self._rejects(found, clusters), failures)

    def _rejects(self, found: Mapping[str, Scores], clusters: tuple[Cluster, ...]) -> bool:
        verdict = self._policy.verdict
        tolerance = _Tolerance(self.checks, verdict.on_backdoor or "reject", verdict.on_bad_source or "reject")
        over = any(
            planned.over_limit == "reject"
            and planned.name in found
            and found[planned.name].flagged.mean() > planned.max_flagged_fraction
            for planned in self.checks
        )
        return over or bool(summarise(tolerance, clusters)[1])

    def _views(self, samples: Samples, seed: int) -> dict[str, np.ndarray]:
        read = frozenset().union(*(planned.check.columns for planned in self.checks))
        views = {role: rows for role, rows in self.subject.vectors.items() if role != "embedding_self"}
        if "embedding_self" in read:
            given = samples.text if samples.text is not None else samples.features
            assert given is not None
            choice = replace(self._probe, seed=seed)
            labels = samples.label.astype(str)
            probe = train_self_view(given, labels, self._content, shape=samples.shape, choice=choice)
            views["embedding_self"] = probe.embed(given)
        if "embedding_external" in read and "embedding_external" not in views:
            if samples.text is not None:
                views["embedding_external"] = gram_rows(samples.text, width=256)
            else:
                assert samples.features is not None
                views["embedding_external"] = patch_rows(samples.features, samples.shape)
        return views


def _measured(gate: _Gate, attack: Attack, options: SelftestOptions) -> dict[str, Any]:
    """Plant an attack in each repeat and return what was found, added up over the repeats."""
    samples = gate.subject.samples
    count = max(1, round(options.rate * len(samples.label)))
    runs: list[tuple[Planted, _Run]] = []
    for repeat in range(options.repeats):
        planted = plant(attack, samples, count=count, seed=options.seed + repeat)
        runs.append((planted, gate.run(planted.samples, options.seed + repeat)))
    names = [planned.name for planned in gate.checks]
    random = np.random.default_rng([options.seed, 1])
    rivals = {
        "random_filter": [
            (planted, random.permutation(run.flagged), random.random(len(run.flagged))) for planted, run in runs
        ],
        "perfect_filter": [(planted, planted.is_bad, planted.is_bad.astype(float)) for planted, _ in runs],
    }
    kinds = Counter(cluster.kind for _, run in runs for cluster in run.clusters)
    return {
        "attack": attack.name,
        "family": attack.family,
        "source": attack.source,
        "planted": count,
        **_rates([(planted, run.flagged, run.score) for planted, run in runs]),
        "rejected": sum(run.rejects for _, run in runs),
        "clusters": dict(sorted(kinds.items())),
        "checks": {
            name: _rates(
                [
                    (planted, run.by_check[name].flagged, run.by_check[name].score)
                    for planted, run in runs
                    if name in run.by_check
                ]
            )
            for name in names
            if any(name in run.by_check for _, run in runs)
        },
        "inconclusive": {name: why for _, run in runs for name, why in sorted(run.failures.items())},
        "controls": {name: _rates(rival) for name, rival in rivals.items()},
    }


def _rates(runs: Sequence[tuple[Planted, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return TPR, FPR and AUROC over all repeats; each repeat's scores are compared among themselves."""
    bad = np.concatenate([planted.is_bad for planted, _, _ in runs])
    good = np.concatenate([~planted.is_bad & ~planted.is_cover for planted, _, _ in runs])
    flagged = np.concatenate([one for _, one, _ in runs])
    score = np.concatenate([_ranks(one) for _, _, one in runs])
    known = bad | good
    return {
        "tpr": _share(proportion(int(flagged[bad].sum()), int(bad.sum()))),
        "fpr": _share(proportion(int(flagged[good].sum()), int(good.sum()))),
        "auroc": _share(auroc(score[known], bad[known])),
    }


def _share(rate: Rate) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in rate._asdict().items()}


def _ranks(score: np.ndarray) -> np.ndarray:
    """Return each score's rank as a share of all, ties at their middle, in [0, 1]."""
    order = np.sort(score)
    below, upto = np.searchsorted(order, score), np.searchsorted(order, score, side="right")
    ranks: np.ndarray = (below + upto) / (2 * len(score))
    return ranks


def _joined(parts: Sequence[Scores]) -> Scores:
    score, threshold, flagged = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("score", "threshold", "flagged")
    )
    return Scores(score, threshold, flagged, parts[0].group, parts[0].reason)


def _cells(samples: Samples, found: Mapping[str, Scores], flagged: np.ndarray) -> list[Cell]:
    return [
        Cell(
            str(samples.source[place]),
            str(samples.label[place]),
            tuple(sorted(name for name, scores in found.items() if scores.flagged[place])),
        )
        for place in flagged.tolist()
    ]
