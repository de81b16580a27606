"""What an odd part is made of: the classes that a discriminant made of the rest takes its samples for."""

import numpy as np
import pytest

from millcert.checks.label_content import LEAST_IN_PART, LabelledRows, PartContent


def rows_with_part(
    *, wrong: float, others: tuple[int, ...] = (1, 2, 3, 4), seed: int = 0
) -> tuple[LabelledRows, np.ndarray]:
    """Return five classes and a part of the first one: so much of it is drawn from others; set apart in column 0."""
    random = np.random.default_rng(seed)
    centres = 4 * np.eye(6)[1:]
    code = np.repeat(np.arange(5), 200)
    is_odd = np.zeros(len(code), dtype=bool)
    is_odd[:80] = True
    true = code.copy()
    true[: round(80 * wrong)] = random.choice(others, round(80 * wrong))
    rows = centres[true] + random.standard_normal((len(code), 6))
    rows[is_odd, 0] += 10
    return LabelledRows(rows, code, np.stack([rows[code == value].mean(axis=0) for value in range(5)])), is_odd


ACROSS = np.eye(6)[0]


@pytest.mark.parametrize("wrong", [0.0, 0.25, 0.75, 1.0])
def test_the_mislabelled_share_of_a_part_is_estimated(wrong: float) -> None:
    rows, is_odd = rows_with_part(wrong=wrong)

    content = rows.content(is_odd, ACROSS, 0)

    assert content.samples == 80
    assert content.mislabelled_fraction == pytest.approx(wrong, abs=0.1)
    assert content.says_mislabelled(100) == (wrong > 0.6)


def test_what_comes_of_one_other_class_is_not_of_several() -> None:
    of_one, of_all = rows_with_part(wrong=1.0, others=(3,)), rows_with_part(wrong=1.0)

    assert not of_one[0].content(of_one[1], ACROSS, 0).is_of_several
    assert of_all[0].content(of_all[1], ACROSS, 0).is_of_several


def test_a_part_of_one_class_is_in_few() -> None:
    rows, is_odd = rows_with_part(wrong=1.0)

    assert not rows.is_in_most_classes(is_odd)
    assert rows.is_in_most_classes(np.arange(len(rows.code)) % 7 == 0)
    assert not rows.is_in_most_classes(np.zeros(len(rows.code), dtype=bool))


def test_nothing_is_said_of_an_empty_part_of_a_whole_class_or_of_few_samples() -> None:
    rows, is_odd = rows_with_part(wrong=1.0)

    empty, whole = rows.content(np.zeros_like(is_odd), ACROSS), rows.content(rows.code == 0, ACROSS, 0)
    few = PartContent(LEAST_IN_PART - 1, 0, 0.9, 0.01, 0.2)

    assert empty.mislabelled_fraction == whole.mislabelled_fraction == 0
    assert not any(one.says_mislabelled(1) for one in (empty, whole, few))


def test_classes_that_nothing_tells_apart_say_nothing() -> None:
    random = np.random.default_rng(1)
    rows = LabelledRows(random.standard_normal((400, 4)), np.repeat(np.arange(4), 100), np.zeros((4, 4)))

    assert not rows.content(np.arange(400) % 5 == 0, np.eye(4)[0]).says_mislabelled(1)


def test_few_rows_are_told_apart_by_the_units_alone() -> None:
    """With fewer than five rows a column the covariance is not taken anew."""
    rows, is_odd = rows_with_part(wrong=1.0)
    few = np.arange(len(rows.code)) % 40 == 0
    part = LabelledRows(rows.rows[few], rows.code[few], rows.centres)

    assert part.content(is_odd[few], ACROSS, 0).samples == 2
