"""Which members of a set a column lacks, as Great Expectations on pandas tells them: in its form, and in its order.

GX makes a Python set of the members, takes away the column's values and lists what is left. Of numbers a set's order is
the same in every process, so theirs is made the same way. That of texts and times changes from process to process, and
so does GX's list; here they stay in the suite's order.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import metric_bounds as bounds
from millcert.checks import metric_distinct as distinct
from millcert.checks.metric_columns import family


def missing_members(data_type: pa.DataType, wanted: Sequence[Any], found: pa.Array, values: int) -> list[Any]:
    """Return the members that a column lacks, each once.

    Args:
        data_type: of the column.
        wanted: the members as the suite has them.
        found: the keys of those that the column has.
        values: how many distinct values it has.
    """
    shown = [_as_shown(data_type, member) for member in wanted] if values else list(wanted)
    is_found = {each: _is_found(data_type, member, found) for each, member in zip(shown, wanted, strict=True)}
    if not all(isinstance(each, int | float) for each in is_found):
        return [each for each, is_there in is_found.items() if not is_there]
    # Python takes away a small set in another way than a large one; objects that are in neither make up the number.
    present: set[Any] = {each for each, is_there in is_found.items() if is_there}
    present |= {object() for _ in range(min(values, len(shown)) - len(present))}
    return list(set(shown) - present)


def _is_found(data_type: pa.DataType, member: Any, found: pa.Array) -> bool:
    key = distinct.member_keys(distinct.key_type(data_type), bounds.members(data_type, [member]))
    return bool(len(key)) and bool(pc.is_in(key, value_set=found)[0].as_py())


def _as_shown(data_type: pa.DataType, member: Any) -> Any:
    """Return a member as GX lists it beside values of a column: times as such, not as the texts that suites write."""
    kind = family(data_type)
    if kind not in ("date", "timestamp") or not isinstance(member, str):
        return member
    from dateutil.parser import parse  # type: ignore[import-untyped] # it carries no types

    return parse(member).date() if kind == "date" else parse(member)
