"""What changed between two Arrow schemas, and whether what read the old data can read the new."""

from typing import Literal, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.types as pt

#: "widened": every value of the old type is one of the new, exactly; "changed": any other change of type.
Change: TypeAlias = Literal["added", "removed", "widened", "changed", "moved"]

#: Bits of whole numbers that a float type holds exactly.
_EXACT_BITS = {16: 11, 32: 24, 64: 53}


class SchemaChange(NamedTuple):
    """One column's change. old, new: its type as text, "" where it is not there."""

    column: str
    change: Change
    old: str
    new: str

    @property
    def is_breaking(self) -> bool:
        """Whether something that read the old column may fail on, or misread, the new one."""
        return self.change in ("removed", "changed")


def compare_schemas(old: pa.Schema, new: pa.Schema) -> tuple[SchemaChange, ...]:
    """Return the changes from one schema to another: of the old columns in their order, then the added ones.

    A column that both have is "moved" if it stands in another order among those that both have.
    """
    changes = []
    shared_old = [name for name in old.names if name in new.names]
    shared_new = [name for name in new.names if name in old.names]
    for field in old:
        at = new.get_field_index(field.name)
        if at < 0:
            changes.append(SchemaChange(field.name, "removed", str(field.type), ""))
            continue
        kind = new.field(at).type
        if kind != field.type:
            change: Change = "widened" if is_widened(field.type, kind) else "changed"
            changes.append(SchemaChange(field.name, change, str(field.type), str(kind)))
        elif shared_old.index(field.name) != shared_new.index(field.name):
            changes.append(SchemaChange(field.name, "moved", str(field.type), str(kind)))
    added = [SchemaChange(field.name, "added", "", str(field.type)) for field in new if field.name not in old.names]
    return (*changes, *added)


def is_widened(old: pa.DataType, new: pa.DataType) -> bool:  # noqa: C901, PLR0911 - a line a kind
    """Return whether every value of the old type is exactly a value of the new one."""
    if old == new or pt.is_null(old):
        return True
    if pt.is_integer(old) and pt.is_integer(new):
        is_unsigned = pt.is_unsigned_integer(old)
        if is_unsigned == pt.is_unsigned_integer(new):
            return bool(old.bit_width <= new.bit_width)
        return bool(is_unsigned and old.bit_width < new.bit_width)
    if pt.is_integer(old) and pt.is_floating(new):
        return bool(old.bit_width - (not pt.is_unsigned_integer(old)) <= _EXACT_BITS[new.bit_width])
    if pt.is_floating(old) and pt.is_floating(new):
        return bool(old.bit_width <= new.bit_width)
    if pt.is_decimal(old) and pt.is_decimal(new):
        return bool(new.scale >= old.scale and new.precision - new.scale >= old.precision - old.scale)
    if pt.is_fixed_size_binary(old):
        return bool(pt.is_binary(new))
    if (pt.is_list(old) or pt.is_fixed_size_list(old)) and pt.is_list(new):
        return is_widened(old.value_type, new.value_type)
    if pt.is_fixed_size_list(old) and pt.is_fixed_size_list(new):
        return bool(old.list_size == new.list_size) and is_widened(old.value_type, new.value_type)
    if pt.is_struct(old) and pt.is_struct(new):
        fields = [old.field(at) for at in range(old.num_fields)]
        return all(
            new.get_field_index(each.name) >= 0 and is_widened(each.type, new.field(each.name).type) for each in fields
        )
    return False
