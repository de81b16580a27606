"""One schema for a whole data set: files' schemas merged, and the text form that a policy's schema file has."""

import json
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.types as pt

from millcert.errors import PolicyError, UsageError
from millcert.pipelines.formats.base import ReadLimits, SchemaFacts
from millcert.pipelines.formats.canonical import canonical_schema, is_same_type
from millcert.pipelines.formats.inference import TypeConflictError, meet

_UNITS = ("s", "ms", "us", "ns")


def merge_schemas(named: Sequence[tuple[str, SchemaFacts]]) -> pa.Schema:
    """Return the one schema that every file of a data set is decoded to.

    Typed files (Parquet, Arrow) must agree in names and canonical types; the order of columns is that of the first
    typed file. Schemas found by reading (JSONL, CSV) meet in the lattice of `inference`; then, if there is a typed
    file, each of their columns must be one of its columns with a type that can take it. A column that a text file
    lacks is null there. A column of which all files are CSV is text where its types do not meet.

    Args:
        named: (file name, its facts), sorted by name; at least one.

    Raises:
        UsageError: two files disagree; names both and the field.
    """
    if not named:
        raise UsageError("There is no file to take a schema from.")
    typed = [(name, facts.schema) for name, facts in named if not facts.is_inferred]
    inferred = [(name, facts) for name, facts in named if facts.is_inferred]
    if not typed:
        return _meet_all(inferred)
    first_name, schema = typed[0]
    for name, other in typed[1:]:
        _refuse_difference(first_name, schema, name, other)
    for name, facts in inferred:
        for field in facts.schema:
            index = schema.get_field_index(field.name)
            if index < 0:
                raise _disagreement(first_name, name, field.name, "absent", str(field.type))
            kind = schema.field(index).type
            if not (_can_take(kind, field.type) or (facts.is_all_text and pt.is_string(kind))):
                raise _disagreement(first_name, name, field.name, str(schema.field(index).type), str(field.type))
    return schema


def schema_to_json(schema: pa.Schema) -> str:
    """Return a schema as JSON text: an object from column name to type text, in column order, ending in a newline.

    Raises:
        UsageError: the schema has a type that is not canonical.
    """
    entries = {field.name: type_to_text(field.type) for field in schema}
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def schema_from_json(text: str | bytes, limits: ReadLimits | None = None) -> pa.Schema:
    """Return the schema that a policy's schema file names; the inverse of `schema_to_json`.

    Raises:
        PolicyError: it is not an object of type texts, a key stands twice, or a type text is not understood. All faults
            are listed.
    """

    def pairs(items: list[tuple[str, object]]) -> list[tuple[str, object]]:
        return items

    try:
        entries = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"The schema file is not valid JSON: {error}.") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, tuple) for entry in entries):
        raise PolicyError('The schema file must be a JSON object such as {"text": "string", "label": "int64"}.')
    names = [name for name, _ in entries]
    faults = [f"{name!r} stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    fields = []
    for name, value in entries:
        if not isinstance(value, str):
            faults.append(f"{name!r} must be the text of a type")
            continue
        try:
            fields.append(pa.field(name, type_from_text(value)))
        except PolicyError as error:
            faults.append(f"{name!r}: {error.message}")
    if faults:
        raise PolicyError(f"The schema file has {len(faults)} faults: {'; '.join(faults)}.", faults=tuple(faults))
    return canonical_schema(pa.schema(fields), limits or ReadLimits(), name="The schema file")


def type_to_text(kind: pa.DataType) -> str:  # noqa: PLR0911 - a line a kind
    """Return the text of a canonical type, such as `list<float32>` or `struct<"a": int64, "b": string>`."""
    if pt.is_map(kind):
        return f"map<{type_to_text(kind.key_type)}, {type_to_text(kind.item_type)}>"
    if pt.is_fixed_size_list(kind):
        return f"fixed_size_list<{type_to_text(kind.value_type)}, {kind.list_size}>"
    if pt.is_list(kind):
        return f"list<{type_to_text(kind.value_type)}>"
    if pt.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        inner = ", ".join(f"{json.dumps(each.name)}: {type_to_text(each.type)}" for each in fields)
        return f"struct<{inner}>"
    if pt.is_timestamp(kind):
        return f"timestamp[{kind.unit}]" if kind.tz is None else f"timestamp[{kind.unit}, {json.dumps(kind.tz)}]"
    if pt.is_time(kind) or pt.is_duration(kind):
        return str(kind)
    if pt.is_decimal(kind):
        return f"decimal{kind.bit_width}({kind.precision}, {kind.scale})"
    if pt.is_fixed_size_binary(kind):
        return f"fixed_size_binary[{kind.byte_width}]"
    text = next((name for name, plain in _PLAIN.items() if plain == kind), None)
    if text is None:
        raise UsageError(f"The type {kind} is not canonical.")
    return text


def type_from_text(text: str) -> pa.DataType:
    """Return the type that a text names; the inverse of `type_to_text`, with blanks allowed between its parts.

    Raises:
        PolicyError: the text is not understood.
    """
    parser = _TypeParser(text)
    kind = parser.read_type(0)
    parser.expect_end()
    return kind


_PLAIN: Mapping[str, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "date32": pa.date32(),
    "date64": pa.date64(),
    "string": pa.string(),
    "binary": pa.binary(),
}
_DECIMALS = {"decimal32": "decimal32", "decimal64": "decimal64", "decimal128": "decimal128", "decimal256": "decimal256"}
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z_0-9]*|-?[0-9]{1,10}|[<>\[\](),:])')
_MAX_TYPE_DEPTH = 64


class _TypeParser:
    """A cursor over the tokens of a type's text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        self._next = 0
        position, stripped = 0, text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if match is None:
                raise self._fault()
            self._tokens.append(match.group(1))
            position = match.end()

    def read_type(self, depth: int) -> pa.DataType:
        """Return the type at the cursor."""
        if depth > _MAX_TYPE_DEPTH:
            raise PolicyError("a type is nested too deep")
        word = self._take()
        if word in _PLAIN:
            return _PLAIN[word]
        try:
            return self._read_parametric(word, depth + 1)
        except (pa.ArrowException, ValueError) as error:
            raise self._fault() from error

    def expect_end(self) -> None:
        """Refuse anything behind the type."""
        if self._next != len(self._tokens):
            raise self._fault()

    def _read_parametric(self, word: str, depth: int) -> pa.DataType:
        if word == "list":
            self._expect("<")
            kind = pa.list_(pa.field("item", self.read_type(depth)))
            self._expect(">")
        elif word == "fixed_size_list":
            self._expect("<")
            item = self.read_type(depth)
            self._expect(",")
            kind = pa.list_(pa.field("item", item), self._take_whole())
            self._expect(">")
        elif word == "map":
            self._expect("<")
            key = self.read_type(depth)
            self._expect(",")
            kind = pa.map_(key, self.read_type(depth))
            self._expect(">")
        elif word == "struct":
            kind = pa.struct(self._read_fields(depth))
        elif word == "fixed_size_binary":
            self._expect("[")
            kind = pa.binary(self._take_whole())
            self._expect("]")
        elif word in _DECIMALS:
            self._expect("(")
            precision = self._take_whole()
            self._expect(",")
            kind = getattr(pa, word)(precision, self._take_whole(least=-76))
            self._expect(")")
        else:
            kind = self._read_time(word)
        return kind

    def _read_fields(self, depth: int) -> list[pa.Field]:
        self._expect("<")
        fields: list[pa.Field] = []
        while self._peek() != ">":
            if fields:
                self._expect(",")
            token = self._take()
            name = json.loads(token) if token.startswith('"') else token
            self._expect(":")
            fields.append(pa.field(name, self.read_type(depth)))
        self._expect(">")
        return fields

    def _read_time(self, word: str) -> pa.DataType:
        makers = {"timestamp": pa.timestamp, "duration": pa.duration, "time32": pa.time32, "time64": pa.time64}
        if word not in makers:
            raise self._fault()
        self._expect("[")
        unit = self._take()
        if unit not in _UNITS:
            raise self._fault()
        zone = None
        if word == "timestamp" and self._peek() == ",":
            self._take()
            zone = json.loads(self._take())
            if not isinstance(zone, str) or not zone:
                raise self._fault()
        self._expect("]")
        return pa.timestamp(unit, zone) if zone else makers[word](unit)

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        if not token:
            raise self._fault()
        self._next += 1
        return token

    def _take_whole(self, least: int = 0) -> int:
        value = int(self._take())
        if value < least:
            raise self._fault()
        return value

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise self._fault()

    def _fault(self) -> PolicyError:
        return PolicyError(
            f"{self._text[:100]!r} is no type that is read",
            hint="See docs/formats/reading.md for the types.",
        )


def _meet_all(inferred: Sequence[tuple[str, SchemaFacts]]) -> pa.Schema:
    found: dict[str, pa.DataType] = {}
    sources: dict[str, str] = {}
    # A column that only files of text have can always be read as text.
    typed_columns = {field.name for _, facts in inferred if not facts.is_all_text for field in facts.schema}
    for name, facts in inferred:
        for field in facts.schema:
            try:
                found[field.name] = meet(found.get(field.name, pa.null()), field.type, field.name)
            except TypeConflictError as error:
                if field.name in typed_columns:
                    first, second = error.types
                    source = sources[field.name]
                    raise _disagreement(source, name, error.field, str(first), str(second)) from error
                found[field.name] = pa.string()
            sources.setdefault(field.name, name)
    return pa.schema(list(found.items()))


def _refuse_difference(first_name: str, first: pa.Schema, name: str, other: pa.Schema) -> None:
    for field in first:
        index = other.get_field_index(field.name)
        if index < 0:
            raise _disagreement(first_name, name, field.name, str(field.type), "absent")
        if not is_same_type(field.type, other.field(index).type):
            raise _disagreement(first_name, name, field.name, str(field.type), str(other.field(index).type))
    for field in other:
        if first.get_field_index(field.name) < 0:
            raise _disagreement(first_name, name, field.name, "absent", str(field.type))


def _can_take(typed: pa.DataType, inferred: pa.DataType) -> bool:  # noqa: PLR0911 - a line a kind
    """Return whether values of an inferred type may be decoded to a typed file's type; each value is checked then."""
    if pt.is_null(inferred):
        return True
    if pt.is_integer(inferred):
        return bool(pt.is_integer(typed) or pt.is_floating(typed) or pt.is_decimal(typed))
    if pt.is_floating(inferred):
        return bool(pt.is_floating(typed) or pt.is_decimal(typed))
    if pt.is_string(inferred):
        return bool(pt.is_string(typed) or pt.is_timestamp(typed) or pt.is_date32(typed) or pt.is_decimal(typed))
    if pt.is_list(inferred):
        return bool(pt.is_list(typed) or pt.is_fixed_size_list(typed)) and _can_take(
            typed.value_type, inferred.value_type
        )
    if pt.is_struct(inferred):
        if not pt.is_struct(typed):
            return False
        fields = [inferred.field(i) for i in range(inferred.num_fields)]
        return all(
            typed.get_field_index(each.name) >= 0 and _can_take(typed.field(each.name).type, each.type)
            for each in fields
        )
    return bool(typed == inferred)


def _disagreement(first_name: str, name: str, field: str, first: str, second: str) -> UsageError:
    return UsageError(
        f"The files {first_name} and {name} disagree on the column {field[:100]!r}: {first[:200]} in the first, "
        f"{second[:200]} in the second.",
        hint="Convert one of them, or name the columns' types in a schema file if they are text.",
        paths=(first_name, name),
        column=field,
    )
