"""Outliers where a deviation is too small for its square to be a number."""

import numpy as np
import pyarrow as pa

from millcert.checks.metric_outliers import FindOutliers
from millcert.checks.metric_sums import sum_floats


def test_a_variance_below_the_least_float_is_none_as_in_great_expectations() -> None:
    values = np.array([-0.0, 5e-324])
    find = FindOutliers("x", "z_score", -0.5, is_double_sided=False, limit=20)

    (condition,) = find._conditions(sum_floats(values, with_squares=True))

    np.testing.assert_array_equal(condition.judge(pa.array(values)).expected, [True, True])
