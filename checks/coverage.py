"""Attack families, and which of them a set of checks cannot see on the columns that are there.

A verdict that is silent about what it could not see invites trust that it has not earned (research/detection.md 6,
item 4).
"""

from collections.abc import Iterable

from millcert.checks.base import Check, GroupEvidence

#: The families that a verdict speaks about, with the words for people. `Check.covers` names some of these.
ATTACK_FAMILIES = {
    "label_noise": "honest label errors",
    "targeted_label_flips": "labels flipped on purpose in one source or between two classes",
    "bad_annotator": "one annotator, or one batch of labels, that is wrong more often than the others",
    "backdoor_dirty_label": "a trigger with a wrong label (BadNets, blend), implanted in a model trained on the data",
    "backdoor_adaptive": "a trigger with cover samples that keep their right label",
    "backdoor_all_to_all": "a trigger that moves every class to another one",
    "backdoor_clean_label": "a trigger with the right label",
    "backdoor_text": "inserted words or sentences, syntactic or style triggers",
    "trigger_in_one_source": "an exact patch, value or pair of values that one source brings to one class",
    "shortcut": "a patch at one place of the picture that betrays the class in all sources",
    "bad_source": "one source whose samples differ from all others' in their class",
    "duplicate_flood": "many copies or near copies of few samples",
    "split_leakage": "samples of one declared split that have copies in another",
}


def not_covered(covers: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the families that none of the checks covers, sorted.

    Args:
        covers: `covers` of every check that ran to its end.
    """
    seen = {family for families in covers for family in families}
    return tuple(sorted(set(ATTACK_FAMILIES) - seen))


def families_of(check: Check) -> frozenset[str]:
    """Return the families that a check looks for.

    A labelled baseline (`is_baseline`), whose rule is a fixed share or a rule of thumb, looks for none: it is there to
    be compared with.
    """
    return frozenset() if getattr(check, "is_baseline", False) else check.covers


def families_seen(check: Check, evidence: Iterable[GroupEvidence]) -> frozenset[str]:
    """Return the families that a fitted check could see in these data.

    Args:
        check: as fitted.
        evidence: what it says of each group. Where every group has the figure "tested" or "judged" and it is 0, nothing
            was put to a test (one source, say, has no other to be compared with), so nothing was seen.
    """
    tested = [group.statistic.get("tested", group.statistic.get("judged", 1.0)) for group in evidence]
    return frozenset() if tested and not any(tested) else families_of(check)
