"""From the user's columns to the roles that checks ask for, and which rows cannot play them.

A row whose label is null, or whose vector is null, of another width or not finite, is malformed: it goes to the dead
letter with one of the reasons below, never to a check and never silently to training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.base import Role
from millcert.errors import MissingColumnError
from millcert.pipelines.role_values import has_text, is_table_value, joined_text, table_rows

#: The column that plays a role; several for `features` (table values) and `text`.
ColumnNames: TypeAlias = str | tuple[str, ...]

TEXT_ROLES: frozenset[Role] = frozenset({"label", "source", "annotator", "split", "text"})
VECTOR_TYPES: Mapping[Role, pa.DataType] = {
    "embedding_self": pa.float32(),
    "embedding_external": pa.float32(),
    "pred_probs": pa.float64(),
    "features": pa.float64(),
}
#: How far a row of probabilities may sum from 1 (as in checks/columns.py).
PROBABILITY_SUM_TOLERANCE = 1e-3


class RoleFault(NamedTuple):
    """Why one row cannot play a role. position: its index in the batch."""

    position: int
    reason: str
    detail: str


class RoleView(NamedTuple):
    """A batch seen through its roles: `roles` holds the rows where `usable` is true, in order."""

    roles: pa.RecordBatch
    usable: np.ndarray
    faults: tuple[RoleFault, ...]


@dataclass(frozen=True)
class RoleColumn:
    """One role: the user's column that plays it and, for vectors, how wide it must be (0 for text).

    more: further columns of the role. is_table: the columns are single values, one a place of the vector.
    """

    role: Role
    column: str
    width: int
    more: tuple[str, ...] = ()
    is_table: bool = False


@dataclass(frozen=True)
class RolePlan:
    """All roles of a data set; made once by `plan_roles`, applied to every batch of every pass."""

    columns: tuple[RoleColumn, ...]

    def apply(self, batch: pa.RecordBatch, source: str) -> RoleView:
        """Return the batch's roles; `source` fills the source role where no column plays it.

        A column that plays the source role names sub-sources: its value is prefixed with the rule's name, so a file
        cannot claim to be from another rule's source.
        """
        usable = np.ones(batch.num_rows, dtype=bool)
        faults: list[RoleFault] = []
        arrays: dict[str, pa.Array] = {}
        for column in self.columns:
            values = [batch.column(batch.schema.get_field_index(name)) for name in (column.column, *column.more)]
            if column.is_table:
                arrays[column.role] = _fixed_lists(table_rows(values), pa.float64())
            elif column.role == "text":
                arrays[column.role] = _text(joined_text(values), column, usable, faults)
            else:
                reader = _text if column.role in TEXT_ROLES else _vector
                arrays[column.role] = reader(values[0], column, usable, faults)
        if not usable.all():
            mask = pa.array(usable)
            arrays = {role: array.filter(mask) for role, array in arrays.items()}
        count = int(usable.sum())
        if "source" in arrays:
            prefix = pa.scalar(f"{source}/", pa.string())
            arrays["source"] = pc.binary_join_element_wise(prefix, arrays["source"], "")
        else:
            arrays["source"] = pa.repeat(pa.scalar(source, pa.string()), count)
        view = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
        return RoleView(view, usable, tuple(sorted(faults)))


def plan_roles(roles: Mapping[Role, ColumnNames], schema: pa.Schema, widths: Mapping[str, int]) -> RolePlan:
    """Return the plan for `roles` (role -> user's column or columns) over data of `schema`.

    Args:
        roles: from the policy.
        schema: the data set's canonical schema.
        widths: role -> width of the vectors, for list columns whose type does not say it.

    Raises:
        MissingColumnError: a column is not there, or its type cannot play the role.
    """
    planned: list[RoleColumn] = []
    for role, given in sorted(roles.items()):
        names = (given,) if isinstance(given, str) else given
        kinds = [_kind(role, name, schema) for name in names]
        is_table = role == "features" and (len(names) > 1 or not is_list(kinds[0]))
        for name, kind in zip(names, kinds, strict=True):
            if is_table:
                _refuse_unless(is_table_value(kind), role, name, f"a number, text, time or boolean, got {kind}")
            elif role == "text":
                _refuse_unless(has_text(kind), role, name, f"text, or lists and structs that hold text, got {kind}")
            elif role in TEXT_ROLES:
                _refuse_unless(_is_text(kind), role, name, f"text, integer or boolean, got {kind}")
        if is_table:
            planned.append(RoleColumn(role, names[0], len(names), names[1:], is_table=True))
        else:
            width = 0 if role in TEXT_ROLES else _width(role, names[0], kinds[0], widths)
            planned.append(RoleColumn(role, names[0], width, names[1:]))
    return RolePlan(tuple(planned))


def vector_width(values: pa.Array) -> int:
    """Return the length of the first list in `values` that is not null, 0 if there is none."""
    if pa.types.is_fixed_size_list(values.type):
        return int(values.type.list_size)
    lengths = pc.list_value_length(values.drop_null().slice(0, 1))
    return int(lengths[0].as_py()) if len(lengths) else 0


def is_list(kind: pa.DataType) -> bool:
    """Say whether a type is a list that can be a vector."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _kind(role: Role, name: str, schema: pa.Schema) -> pa.DataType:
    position = schema.get_field_index(name)
    if position < 0:
        raise MissingColumnError(
            f"The policy maps {role} to column {name!r}; the data set has {', '.join(schema.names)}.",
            hint=f"Correct dataset.columns.{role} in the policy.",
            column=name,
        )
    return schema.field(position).type


def _refuse_unless(holds: bool, role: Role, name: str, expected: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise MissingColumnError(
            f"Column {name!r} must be {expected}, to be the {role}.",
            hint=f"Correct dataset.columns.{role} in the policy.",
            column=name,
        )


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
    )


def _width(role: Role, name: str, kind: pa.DataType, widths: Mapping[str, int]) -> int:
    values = kind.value_type if is_list(kind) else None
    if values is None or not (pa.types.is_floating(values) or pa.types.is_integer(values)):
        raise MissingColumnError(
            f"Column {name!r} must be a list of numbers to be {role}, got {kind}.",
            hint=f"Correct dataset.columns.{role} in the policy.",
            column=name,
        )
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else widths.get(role, 0)
    if width <= 0:
        raise MissingColumnError(
            f"Column {name!r} has no vector that is not empty, so {role} has no width.",
            hint="Give the column as a fixed-size list, or fill it.",
            column=name,
        )
    return int(width)


def _text(values: pa.Array, column: RoleColumn, usable: np.ndarray, faults: list[RoleFault]) -> pa.Array:
    if values.null_count:
        _refuse(pc.is_null(values).to_numpy(zero_copy_only=False), f"role.{column.role}_null", column, usable, faults)
    return values if pa.types.is_string(values.type) else pc.cast(values, pa.string())


def _vector(values: pa.Array, column: RoleColumn, usable: np.ndarray, faults: list[RoleFault]) -> pa.Array:
    rows, width, kind = len(values), column.width, VECTOR_TYPES[column.role]
    if values.null_count:
        nulls = pc.is_null(values).to_numpy(zero_copy_only=False)
        _refuse(nulls, f"role.{column.role}_null", column, usable, faults)
    if pa.types.is_fixed_size_list(values.type):
        fits = np.ones(rows, dtype=bool)
    else:
        fits = pc.fill_null(pc.equal(pc.list_value_length(values), width), fill_value=True).to_numpy(
            zero_copy_only=False
        )
        _refuse(~fits, f"role.{column.role}_width", column, usable, faults)
    present = fits & ~pc.is_null(values).to_numpy(zero_copy_only=False)
    chosen = values if present.all() else values.filter(pa.array(present))
    flat = chosen.flatten()
    with np.errstate(over="ignore"):
        # A null inside a list becomes NaN, a float64 beyond float32 becomes infinite; both are refused below.
        numbers = flat.to_numpy(zero_copy_only=False).astype(kind.to_pandas_dtype(), copy=False)
    if present.all():
        block = numbers.reshape(rows, width)
    else:
        block = np.zeros((rows, width), dtype=numbers.dtype)
        block[present] = numbers.reshape(int(present.sum()), width)
    # One sum tells that all is finite, at a fraction of the cost of looking at each value; if it overflows, they tell.
    with np.errstate(over="ignore", invalid="ignore"):
        total = block.sum()
    if not np.isfinite(total):
        _refuse(np.asarray(~np.isfinite(block).all(axis=1)), f"role.{column.role}_not_finite", column, usable, faults)
    if column.role == "pred_probs":
        with np.errstate(over="ignore", invalid="ignore"):
            sums = block.sum(axis=1, dtype=np.float64)
        is_off = (block.min(axis=1) < 0) | (block.max(axis=1) > 1) | (np.abs(sums - 1) > PROBABILITY_SUM_TOLERANCE)
        _refuse(present & is_off, "role.pred_probs_not_a_distribution", column, usable, faults)
    return _fixed_lists(block, kind)


def _fixed_lists(block: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(block).reshape(-1), kind), block.shape[1])


def _refuse(wrong: np.ndarray, reason: str, column: RoleColumn, usable: np.ndarray, faults: list[RoleFault]) -> None:
    kind: Literal["text", "vector"] = "text" if column.role in TEXT_ROLES else "vector"
    expected = "a value" if kind == "text" else f"{column.width} finite numbers"
    detail = f"column {column.column!r}: expected {expected}"
    faults.extend(RoleFault(int(position), reason, detail) for position in np.flatnonzero(wrong & usable))
    usable &= ~wrong
