"""What changed between two suites of expectations, and whether the new one still promises what the old one did."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

#: "loosened": all tables that meet the old expectation meet the new one; "tightened": the other way round; "changed":
#: neither is known.
Change: TypeAlias = Literal["added", "removed", "loosened", "tightened", "changed"]

_COLUMNS = ("column", "column_A", "column_B", "column_list")
_FLAGS = {"strict_min": False, "strict_max": False}
#: Whether a larger set allows more (1) or less (-1).
_SETS = {
    "values_to_be_in_set": 1,
    "distinct_values_to_be_in_set": 1,
    "most_common_value_to_be_in_set": 1,
    "values_to_not_be_in_set": -1,
    "distinct_values_to_contain_set": -1,
}


class SuiteChange(NamedTuple):
    """One expectation's change.

    expectation: its type. column: its columns, "" of the whole table. old, new: its other arguments; None where it is
    not there.
    """

    expectation: str
    column: str
    change: Change
    old: dict[str, Any] | None
    new: dict[str, Any] | None

    @property
    def is_breaking(self) -> bool:
        """Whether what relied on the old expectation may fail on data that meet the new one."""
        return self.change in ("removed", "loosened", "changed")


def compare_suites(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> tuple[SuiteChange, ...]:
    """Return the changes from one suite to another: of the old expectations in their order, then the added ones.

    Expectations are paired by type, columns and row condition; of several such, equal ones first, then in order.

    Args:
        old: expectations, each with "type" and "kwargs", as Great Expectations 1.x writes them.
        new: likewise.
    """
    waiting: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for entry in new:
        waiting.setdefault(_key(entry), []).append(_arguments(entry))
    kept: list[tuple[tuple[str, str, str], dict[str, Any]]] = []
    for entry in old:
        key, arguments = _key(entry), _arguments(entry)
        if arguments in waiting.get(key, ()):
            waiting[key].remove(arguments)
        else:
            kept.append((key, arguments))
    changes = []
    for key, before in kept:
        after = waiting[key].pop(0) if waiting.get(key) else None
        change: Change = "removed" if after is None else _change(key[0], before, after)
        changes.append(SuiteChange(key[0], key[1], change, before, after))
    added = [(key, after) for key, left in waiting.items() for after in left]
    return (*changes, *(SuiteChange(key[0], key[1], "added", None, after) for key, after in added))


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    kwargs = entry["kwargs"]
    names = [kwargs[name] for name in _COLUMNS if kwargs.get(name)]
    columns = ", ".join(", ".join(map(str, name)) if isinstance(name, list) else str(name) for name in names)
    return str(entry["type"]), columns, repr(kwargs.get("row_condition"))


def _arguments(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not the columns; what is left out and what is null are one."""
    return {
        name: value
        for name, value in entry["kwargs"].items()
        if name not in _COLUMNS and value is not None and _FLAGS.get(name) is not value
    }


def _change(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    steps = {_step(kind, name, old.get(name), new.get(name)) for name in names}
    if steps == {1}:
        return "loosened"
    return "tightened" if steps == {-1} else "changed"


def _step(kind: str, name: str, old: Any, new: Any) -> int:
    """Return 1 where an argument allows more than before, -1 where less, 0 where neither is known."""
    if name in _FLAGS:
        return -1 if new else 1
    if name in ("min_value", "max_value"):
        if old is None or new is None:
            return 1 if new is None else -1
        return _sign(old, new) * (-1 if name == "min_value" else 1)
    if name == "mostly":
        return -_sign(1.0 if old is None else old, 1.0 if new is None else new)
    if name == "value_set" and isinstance(old, list) and isinstance(new, list):
        return _SETS.get(kind.removeprefix("expect_column_"), 0) * _growth(old, new)
    return 0


def _growth(old: Sequence[Any], new: Sequence[Any]) -> int:
    """Return 1 where a set holds all of the old one, -1 where the old one holds all of it, else 0."""
    try:
        before, after = set(old), set(new)
    except TypeError:
        return 0
    return 1 if before < after else -1 if after < before else 0


def _sign(old: Any, new: Any) -> int:
    """Return whether a number, or a date or time, grew (1) or shrank (-1); 0 where that is not known."""
    try:
        if isinstance(old, str) and isinstance(new, str):
            old, new = datetime.fromisoformat(old), datetime.fromisoformat(new)
        return int(new > old) - int(new < old)
    except (TypeError, ValueError):  # no date, or only one of them has a zone
        return 0
