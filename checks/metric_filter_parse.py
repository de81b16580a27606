"""From `row_condition`, as a suite has it, to a filter. Nothing is evaluated: what is not understood is refused.

Two forms arrive here, both as Great Expectations 1.24 hands them on: its own condition objects (comparison, nullity,
and, or), and "pass_through", a string in pandas' query language. Of that language these are understood: comparisons of
a column with a literal (also chained, also literal first), `in` and `not in` a list of literals, `isnull()`, `isna()`,
`notnull()`, `notna()`, `and`, `or`, `not`, `&`, `|`, `~`, brackets, and names in backticks. As in pandas, `&` and `|`
bind as `and` and `or` do.
"""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks import metric_bounds as bounds
from millcert.checks.metric_columns import family
from millcert.checks.metric_conditions import Condition, InSet
from millcert.checks.metric_filter import AllOf, AnyOf, ComparesText, Not, RowFilter, ValueHolds, ValueIsNull
from millcert.errors import PolicyError

#: A longer condition is no condition that a person wrote.
MAX_QUERY_CHARACTERS = 10_000

_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "IN",
    ast.NotIn: "NOT_IN",
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NULL_METHODS = {"isnull": False, "isna": False, "notnull": True, "notna": True}
_TEXT: dict[str, Any] = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_WITHIN: dict[str, tuple[str, bool]] = {
    "<": ("max", True),
    "<=": ("max", False),
    ">": ("min", True),
    ">=": ("min", False),
}
#: Texts, names in backticks, and the two operators that pandas gives another precedence than Python.
_TOKENS = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`[^`\n]*`|[&|]""")


def parse_row_condition(condition: Any, schema: pa.Schema) -> RowFilter:
    """Return the filter of a `row_condition`.

    Args:
        condition: a mapping as GX's `Condition.dict()` has it.
        schema: of the data.

    Raises:
        PolicyError: the condition is of no known form, or compares what pandas does not compare so.
    """
    if not isinstance(condition, Mapping):
        raise PolicyError(f"row_condition {condition!r} is not a condition of Great Expectations.")
    match condition.get("type"):
        case "comparison":
            column = str(condition["column"]["name"])
            operator = str(getattr(condition["operator"], "value", condition["operator"]))
            return _comparison(column, operator, condition["parameter"], schema)
        case "nullity":
            column = str(condition["column"]["name"])
            _type_of(column, schema)
            return ValueIsNull(column, is_negated=not condition["is_null"])
        case "and" | "or" as kind:
            parts = tuple(parse_row_condition(part, schema) for part in condition["conditions"])
            if not parts:
                raise PolicyError(f"row_condition: {kind!r} joins no conditions.")
            return AllOf(parts) if kind == "and" else AnyOf(parts)
        case "pass_through":
            return _Query(str(condition["pass_through_filter"]), schema).parse()
        case other:
            raise PolicyError(f"row_condition of type {other!r} is not supported.")


class _Query:
    """A string in pandas' query language."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text = text
        self._schema = schema
        self._quoted: dict[str, str] = {}

    def parse(self) -> RowFilter:
        if len(self._text) > MAX_QUERY_CHARACTERS:
            raise PolicyError(
                f"row_condition has {len(self._text)} characters; at most {MAX_QUERY_CHARACTERS} are read."
            )
        try:
            tree = ast.parse(_TOKENS.sub(self._rewrite, self._text).strip(), mode="eval")
            return self._filter(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise PolicyError(f"row_condition {self._text!r} cannot be read: {type(error).__name__}.") from error

    def _rewrite(self, token: re.Match[str]) -> str:
        text = token.group()
        if text[0] == "`":
            name = f"_quoted_{len(self._quoted)}_"
            self._quoted[name] = text[1:-1]
            return name
        return {"&": " and ", "|": " or "}.get(text, text)

    def _filter(self, node: ast.expr) -> RowFilter:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = tuple(self._filter(value) for value in values)
                return AllOf(parts) if isinstance(op, ast.And) else AnyOf(parts)
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return Not(self._filter(operand))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                links = tuple(self._link(sides[i], ops[i], sides[i + 1]) for i in range(len(ops)))
                return links[0] if len(links) == 1 else AllOf(links)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method), args=[], keywords=[]) if (
                method in _NULL_METHODS
            ):
                column = self._column(name)
                _type_of(column, self._schema)
                return ValueIsNull(column, is_negated=_NULL_METHODS[method])
            case _:
                raise self._refused(node)

    def _link(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> RowFilter:
        sign = _OPERATORS.get(type(operator))
        if sign is None:
            raise self._refused(operator)
        if isinstance(left, ast.Name):
            return _comparison(self._column(left.id), sign, self._literal(right, sign), self._schema)
        if isinstance(right, ast.Name) and sign in _MIRRORED:
            return _comparison(
                self._column(right.id), _MIRRORED[sign], self._literal(left, _MIRRORED[sign]), self._schema
            )
        raise self._refused(left)

    def _literal(self, node: ast.expr, sign: str) -> Any:
        if sign in ("IN", "NOT_IN"):
            if not isinstance(node, ast.List | ast.Tuple):
                raise self._refused(node)
            return [self._literal(item, "==") for item in node.elts]
        is_negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        inner = node.operand if isinstance(node, ast.UnaryOp) and is_negative else node
        if not isinstance(inner, ast.Constant) or not isinstance(inner.value, str | int | float):
            raise self._refused(node)
        if not is_negative:
            return inner.value
        if isinstance(inner.value, str | bool):
            raise self._refused(node)
        return -inner.value

    def _column(self, name: str) -> str:
        return self._quoted.get(name, name)

    def _refused(self, node: ast.AST) -> PolicyError:
        return PolicyError(
            f"row_condition {self._text!r} uses {type(node).__name__} where only columns, literals, comparisons, "
            "and, or, not and the null tests are read.",
            hint="Write it with Great Expectations' own conditions, such as Column('x') > 1.",
        )


def _comparison(column: str, operator: str, parameter: Any, schema: pa.Schema) -> RowFilter:
    data_type = _type_of(column, schema)
    if operator in ("IN", "NOT_IN"):
        if not isinstance(parameter, Sequence) or isinstance(parameter, str):
            raise PolicyError(f"row_condition: {operator} on {column!r} needs a list, got {parameter!r}.")
        for value in parameter:
            _require_kind(column, data_type, value, is_set=True)
        known: Condition = InSet(bounds.members(data_type, parameter), is_negated=operator == "NOT_IN")
        return ValueHolds(column, known, on_null=operator == "NOT_IN")
    if operator not in _TEXT:
        raise PolicyError(f"row_condition: {column!r} is compared by {operator!r}, which is no comparison.")
    _require_kind(column, data_type, parameter, is_set=False)
    if pa.types.is_float32(data_type) or pa.types.is_float16(data_type):
        # numpy compares a column of such floats with a number in its own precision (NEP 50); with a list it does not.
        with np.errstate(over="ignore"):
            parameter = float(np.array(parameter, dtype=data_type.to_pandas_dtype()))
    if family(data_type) == "string":
        return ValueHolds(column, ComparesText(_TEXT[operator], parameter), on_null=operator == "!=")
    if family(data_type) == "timestamp" and operator in ("==", "!="):
        raise PolicyError(
            f"row_condition: {column!r} holds times, which pandas never finds equal to the text {parameter!r}.",
            hint="Compare with two bounds, by >= and <=.",
        )
    if operator in ("==", "!="):
        equal = InSet(bounds.members(data_type, [parameter]), is_negated=operator == "!=")
        return ValueHolds(column, equal, on_null=operator == "!=")
    if family(data_type) == "bool":
        raise PolicyError(f"row_condition: the column {column!r} of bools has no order.")
    end, is_strict = _WITHIN[operator]
    return ValueHolds(
        column, bounds.within(data_type, {f"{end}_value": parameter, f"strict_{end}": is_strict}), on_null=False
    )


def _require_kind(column: str, data_type: pa.DataType, value: Any, *, is_set: bool) -> None:
    """Refuse a literal of another kind than the column: pandas raises, or answers by the kind alone."""
    kind = family(data_type)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    is_right = {
        "bool": isinstance(value, bool) and not is_set,
        "int": is_number,
        "float": is_number,
        "string": isinstance(value, str),
        "timestamp": not is_set and not isinstance(value, bool | int | float),
    }.get(kind, False)
    if not is_right:
        raise PolicyError(
            f"row_condition: the column {column!r} of type {data_type} cannot be compared with {value!r}"
            f"{' in a list' if is_set else ''}.",
            column=column,
        )


def _type_of(column: str, schema: pa.Schema) -> pa.DataType:
    if len(schema.get_all_field_indices(column)) != 1:
        raise PolicyError(
            f"row_condition names the column {column!r}; the data has {', '.join(schema.names)}.", column=column
        )
    return schema.field(column).type
