"""The list of expectations says what the planner does, and knows each one that the installed GX registers."""

import pytest

from millcert.checks.expectations_catalog import FAMILIES, ExpectationFacts, catalog


@pytest.fixture(scope="module")
def facts() -> dict[str, ExpectationFacts]:
    return {one.name: one for one in catalog()}


def test_all_are_answered_but_the_three_that_are_sql(facts: dict[str, ExpectationFacts]) -> None:
    refused = {name for name, one in facts.items() if not one.is_supported}

    assert len(facts) == 59
    assert refused == {
        "unexpected_rows_expectation",
        "expect_query_results_to_match_comparison",
        "expect_table_row_count_to_equal_other_table",
    }
    assert all("SQL" in facts[name].refusal for name in refused)


@pytest.mark.parametrize(
    ("name", "families", "exactness", "reads", "per_row"),
    [
        ("expect_column_mean_to_be_between", ("bool", "int", "float", "decimal"), "exact", 1, False),
        ("expect_column_median_to_be_between", ("int", "float"), "exact or interval", 2, False),
        ("expect_column_values_to_not_be_outliers", ("int", "float"), "exact or interval", 2, True),
        ("expect_column_value_z_scores_to_be_less_than", ("int", "float"), "exact", 2, True),
        ("expect_column_values_to_match_like_pattern", ("string",), "exact", 1, True),
        ("expect_column_values_to_not_be_null", tuple(FAMILIES), "exact", 1, True),
        ("expect_table_row_count_to_equal", (), "exact", 1, False),
    ],
)
def test_a_few_that_are_known(
    facts: dict[str, ExpectationFacts],
    name: str,
    families: tuple[str, ...],
    exactness: str,
    reads: int,
    per_row: bool,
) -> None:
    one = facts[name]

    assert (one.families, one.exactness, one.reads, one.per_row) == (families, exactness, reads, per_row)
