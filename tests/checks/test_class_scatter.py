"""Classes that stand out: as often as promised where none should, and not hidden by one another."""

import numpy as np
import pytest

from millcert.checks.class_scatter import LEAST_OTHERS, deviations_of, expected, scatter_of

SAMPLES, MARKS = 2000, 4


def honest(seed: int, classes: int, *, scatter: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of marked samples that scatter as `scatter` of their logarithm, at stricter and stricter marks."""
    random = np.random.default_rng(seed)
    samples = random.integers(SAMPLES // 2, SAMPLES, classes)
    shares = 0.05 * np.exp(scatter * random.standard_normal(classes))
    marked = [random.binomial(samples, shares)]
    for _ in range(MARKS - 1):
        marked.append(random.binomial(marked[-1], 0.4))
    return np.array(marked), samples


@pytest.mark.parametrize("classes", [6, 10, 40])
@pytest.mark.parametrize("scatter", [0.0, 0.3])
def test_an_honest_class_stands_out_no_more_often_than_allowed(classes: int, scatter: float) -> None:
    """300 data sets at a level of 5 %: 15 expected, 27 is three standard deviations more."""
    named = sum(
        bool(scatter_of(*honest(seed, classes, scatter=scatter), level=0.05).stands_out.any()) for seed in range(300)
    )

    assert named <= 27


@pytest.mark.parametrize("attacked", [1, 2])
def test_up_to_a_quarter_of_the_classes_stands_out_together(attacked: int) -> None:
    marked, samples = honest(1, 10, scatter=0.2)
    marked[:, :attacked] += 400

    found = scatter_of(marked, samples, level=0.01)

    assert found.stands_out.tolist() == [True] * attacked + [False] * (10 - attacked)
    assert (found.p_value[:attacked] < 0.01).all()
    assert (found.p_value[attacked:] > 0.01).all()


def test_more_classes_do_not_make_far_ones_believable() -> None:
    """Honest classes need not scatter as a Gaussian: of a hundred, some are five standard deviations away."""
    named = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        shares = np.sin(np.clip(0.3 + 0.02 * random.standard_t(5, 100), 0, 1)) ** 2
        named += bool(scatter_of(np.rint(20_000 * shares)[None], np.full(100, 20_000), level=0.01).stands_out.any())

    assert named <= 5


def test_one_marked_sample_among_none_is_chance() -> None:
    marked = np.zeros((1, 10), dtype=np.int64)
    marked[0, 3] = 1

    assert scatter_of(marked, np.full(10, 100), level=0.1).p_value.min() >= 0.1


def test_order_of_classes_changes_nothing() -> None:
    marked, samples = honest(5, 12, scatter=0.3)
    marked[:, 3] += 300
    order = np.random.default_rng(0).permutation(12)

    found, moved = (scatter_of(*one, level=0.01) for one in ((marked, samples), (marked[:, order], samples[order])))

    assert moved.p_value == pytest.approx(found.p_value[order])
    assert moved.stands_out.tolist() == found.stands_out[order].tolist()


def test_too_few_classes_say_nothing() -> None:
    marked, samples = np.array([[900] + [0] * (LEAST_OTHERS - 1)]), np.full(LEAST_OTHERS, 1000)

    found = scatter_of(marked, samples, level=0.1)

    assert not found.stands_out.any()
    assert found.p_value.tolist() == [1.0] * LEAST_OTHERS


def test_what_is_expected_of_a_class_holds_it() -> None:
    """An interval of 95 % from nine classes holds the tenth about 95 times in 100."""
    held = 0
    for seed in range(300):
        marked, samples = honest(seed, 10, scatter=0.3)
        found = expected(marked[0, 1:], samples[1:], int(samples[0]), deviations_of(0.05, 9))
        held += bool(found.low <= marked[0, 0] <= found.high)

    assert 0.90 <= held / 300 <= 0.99
    assert deviations_of(0.05, 9) == pytest.approx(2.306, abs=1e-3)
    assert deviations_of(0.05, 900) == deviations_of(0.05, 9)
