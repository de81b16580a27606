"""What is wrong with a configuration of `label_noise`, all of it at once."""

from typing import TYPE_CHECKING

from millcert.checks.digest_sample import seed_fault
from millcert.checks.label_filter import FILTERS, PRUNING
from millcert.checks.label_noise_model import MAX_REFINEMENTS
from millcert.checks.label_noise_views import VIEWS
from millcert.checks.label_quality import SCORERS

if TYPE_CHECKING:
    from millcert.checks.detectors.label_noise import LabelNoise


def faults_of(check: "LabelNoise") -> tuple[str, ...]:
    """Return each fault of the configuration, in words; empty where there is none."""
    faults = [
        (check.filter_by not in FILTERS, f"filter_by must be one of {sorted(FILTERS)}, got {check.filter_by!r}"),
        (check.view not in VIEWS, f"view must be one of {sorted(VIEWS)}, got {check.view!r}"),
        (
            check.second_view is not None and (check.view != "pred_probs" or check.second_view == "pred_probs"),
            "second_view goes with view: pred_probs, and is another view",
        ),
        (
            check.second_view is not None and check.second_view not in VIEWS,
            f"second_view must be one of {sorted(VIEWS)}, got {check.second_view!r}",
        ),
        seed_fault(check.seed),
        (len(set(check.classes)) != len(check.classes), "classes must be distinct"),
        (len(check.classes) == 1, "classes must be empty or at least 2"),
        (not 2 <= check.folds <= 1000, f"folds must be in 2..1000, got {check.folds}"),
        (not 0 <= check.refine <= MAX_REFINEMENTS, f"refine must be in 0..{MAX_REFINEMENTS}, got {check.refine}"),
        (
            check.shrinkage is not None and not 0 < check.shrinkage <= 1,
            f"shrinkage must be in (0, 1], got {check.shrinkage}",
        ),
        (
            check.score_by is not None and check.score_by not in SCORERS,
            f"score_by must be one of {sorted(SCORERS)}, got {check.score_by!r}",
        ),
        (
            check.adjust_pred_probs and check.score_by == "confidence_weighted_entropy",
            "adjust_pred_probs does not go with score_by: confidence_weighted_entropy",
        ),
        (not 0 < check.frac_noise <= 1, f"frac_noise must be in (0, 1], got {check.frac_noise}"),
        (
            check.frac_noise != 1 and check.filter_by not in PRUNING,
            f"frac_noise goes with filter_by {', '.join(PRUNING)}, not {check.filter_by!r}",
        ),
        (check.min_examples_per_class < 0, f"min_examples_per_class is {check.min_examples_per_class}, below 0"),
        (check.ties not in {"by_digest", "together"}, f"ties must be by_digest or together, got {check.ties!r}"),
        (check.ties == "together" and check.view != "pred_probs", "ties: together needs the view pred_probs"),
        (
            check.rare_classes not in {"refuse", "skip"},
            f"rare_classes must be refuse or skip, got {check.rare_classes!r}",
        ),
    ]
    return tuple(text for is_fault, text in faults if is_fault)
