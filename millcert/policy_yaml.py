"""From YAML text to plain values with positions, refusing what makes YAML mean something else than it says.

Rules this module keeps:
  1. Refused: anchors, aliases, merge keys, tags, repeated keys, keys that are no plain text, a second document, an
     empty document, text above MAX_POLICY_BYTES, nesting above MAX_DEPTH. No object is ever constructed.
  2. A plain scalar keeps its text (`Plain`), and the model says whether text or a number is wanted there. So `no`,
     `on`, `1.0`, `0755`, `1:30` and `2026-01-01` are that very text where text is wanted, and never a bool, an octal, a
     sexagesimal number or a date (YAML 1.1 section on types against YAML 1.2.2 section 10.3, the core schema).
  3. Where a number or a bool is wanted, only JSON's own spelling counts (RFC 8259 sections 3 and 6), and it is finite.
  4. Every key and value has its line and column.

Only the event stream of PyYAML is used, which is iterative; deep nesting cannot exhaust the stack.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeAlias

import yaml

from millcert.policy_faults import KeyPath, PolicyFault, dotted

#: A policy is written by people; a bigger file is a mistake or an attack.
MAX_POLICY_BYTES = 1 << 20

#: The deepest policy has seven levels; a check's config may add some.
MAX_DEPTH = 32

#: More faults than this in one file are noise.
MAX_FAULTS = 200

_JSON_INT = re.compile(r"-?(0|[1-9][0-9]*)\Z")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_OTHER_BOOLS = frozenset({"yes", "no", "on", "off", "y", "n", "true", "false"})
_NUMBER_LIKE = re.compile(
    r"[-+]?(\.?[0-9][0-9a-fA-F_xob]*([.:][0-9_.:]*)?([eE][-+]?[0-9]+)?|\.(inf|nan))\Z", re.IGNORECASE
)
_DATE_LIKE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?\Z")

Scalar: TypeAlias = str | int | float | bool | None


class Plain(str):
    """The text of a scalar that stands in the file without quotes."""

    __slots__ = ()


class Place(NamedTuple):
    """Where something starts in the file; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """A file's values and where each one stands.

    tree: dict, list, Plain (no quotes), str (quotes or block) or None (no value).
    keys, values: where each key and each value starts, by place in the tree.
    faulty: places that already have a fault of YAML.
    is_whole: whether the text was read to its end.
    """

    tree: object
    keys: Mapping[KeyPath, Place]
    values: Mapping[KeyPath, Place]
    faulty: frozenset[KeyPath]
    is_whole: bool

    def locate(self, place: KeyPath, *, at_key: bool = False) -> Place:
        """Return where `place` stands; for what is not in the file, where the section around it stands."""
        known = self.nearest(place)
        if known in self.keys and (at_key or known != place):
            return self.keys[known]
        return self.values.get(known, Place(1, 1))

    def nearest(self, place: KeyPath) -> KeyPath:
        """Return the longest way towards `place` that exists, skipping steps that exist only in the model."""
        found: KeyPath = ()
        for step in place:
            if (*found, step) in self.values:
                found = (*found, step)
        return found


def resolve(text: Plain) -> Scalar:
    """Return what a plain scalar means where any JSON value is allowed.

    Raises:
        ValueError: readers of YAML disagree on its type, or it is no finite number; says how to write it.
    """
    if text in _NULLS:
        return None
    if text in {"true", "false"}:
        return text == "true"
    if text.casefold() in _OTHER_BOOLS:
        raise ValueError(f"{str(text)!r} is a bool for some YAML readers; write true or false, or put it in quotes")
    if _JSON_INT.match(text):
        return _integer(text)
    if _JSON_NUMBER.match(text):
        return _finite(text)
    if _DATE_LIKE.match(text):
        raise ValueError(f"{str(text)!r} is a date for some YAML readers; put it in quotes")
    if _NUMBER_LIKE.match(text):
        raise ValueError(
            f"{str(text)!r} is read as different numbers by different YAML readers (or is not finite); "
            f"write a plain decimal number, or quotes if it is text"
        )
    return str(text)


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"the number has {len(text)} characters; expected at most 20")
    return int(text)


def _finite(text: str) -> float:
    if len(text) > 64:
        raise ValueError(f"the number has {len(text)} characters; expected at most 64")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is too large for a number")
    return value


def read_yaml(text: str, origin: str) -> tuple[Document, list[PolicyFault]]:
    """Read one YAML document.

    Returns:
        The document and the faults of its YAML. After a fault of syntax the document is not whole (`is_whole`).
    """
    reader = _Reader(origin)
    is_whole = False
    try:
        size_bytes = len(text.encode("utf-8", errors="surrogatepass"))
        if size_bytes > MAX_POLICY_BYTES:
            reader.stop(Place(1, 1), f"the file has {size_bytes:,} bytes; expected at most {MAX_POLICY_BYTES:,}")
        reader.read(yaml.parse(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader))
        is_whole = True
    except _StopReading:
        pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        reader.fault(place, (), f"this is not YAML: {problem}")
    except yaml.reader.ReaderError as error:
        body = text.removeprefix("\ufeff")
        before = body[: error.position]
        place = Place(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        reader.fault(place, (), f"the character U+{ord(body[error.position]):04X} is not allowed in YAML")
    document = Document(reader.root, reader.keys, reader.values, frozenset(reader.faulty), is_whole=is_whole)
    return document, reader.faults


class _StopReading(Exception):  # noqa: N818 - no error: it ends the reading after its fault was noted
    """The rest of the file is not worth reading."""


class _Reader:
    """Builds the tree from events; collects faults instead of raising."""

    def __init__(self, origin: str) -> None:
        self.root: object = None
        self.keys: dict[KeyPath, Place] = {}
        self.values: dict[KeyPath, Place] = {}
        self.faulty: set[KeyPath] = set()
        self.faults: list[PolicyFault] = []
        self._origin = origin
        self._events: Iterator[yaml.Event] = iter(())

    def fault(self, place: Place, key: KeyPath, message: str) -> None:
        self.faults.append(PolicyFault(self._origin, place.line, place.column, dotted(key), message))
        self.faulty.add(key)
        if len(self.faults) >= MAX_FAULTS:
            raise _StopReading

    def stop(self, place: Place, message: str) -> NoReturn:
        self.fault(place, (), message)
        raise _StopReading

    def read(self, events: Iterator[yaml.Event]) -> None:
        """Read the one document of a stream into `root`."""
        self._events = events
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.stop(_place(event), "a second document starts here; expected one document in the file")
            elif isinstance(event, yaml.NodeEvent):
                self.root = self._value(event, ())
        if not isinstance(self.root, dict):
            self.stop(self.values.get((), Place(1, 1)), "expected a mapping of keys, as in docs/policy.md")

    def _value(self, event: yaml.Event, where: KeyPath) -> object:
        self.values[where] = _place(event)
        self._refuse_indirection(event, where)
        if isinstance(event, yaml.ScalarEvent):
            if event.style is not None:
                return str(event.value)
            return None if event.value in _NULLS else Plain(event.value)
        if isinstance(event, yaml.AliasEvent):
            return None
        if len(where) >= MAX_DEPTH:
            self.stop(_place(event), f"nested deeper than {MAX_DEPTH} levels")
        return self._mapping(where) if isinstance(event, yaml.MappingStartEvent) else self._list(where)

    def _refuse_indirection(self, event: yaml.Event, where: KeyPath) -> None:
        if isinstance(event, yaml.AliasEvent):
            self.fault(_place(event), where, "aliases (*name) are refused; write the value out")
        elif getattr(event, "anchor", None) is not None:
            self.fault(_place(event), where, "anchors (&name) are refused; write the value where it is used")
        elif getattr(event, "tag", None) is not None:
            self.fault(_place(event), where, "tags (!name) are refused; for text use quotes")

    def _list(self, where: KeyPath) -> list[object]:
        items: list[object] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._value(event, (*where, len(items))))
        return items

    def _mapping(self, where: KeyPath) -> dict[str, object]:
        found: dict[str, object] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, where)
            following = next(self._events)
            if key is None:
                self._pass_over(following)
            else:
                found[key] = self._value(following, (*where, key))
        return found

    def _key(self, event: yaml.Event, where: KeyPath) -> str | None:
        """Return the key, or None where it is refused; its value is then passed over."""
        if not isinstance(event, yaml.ScalarEvent):
            self._pass_over(event)
            self.fault(_place(event), where, "a key must be text, got a mapping, a list or an alias")
            return None
        key = str(event.value)
        place = (*where, key)
        self._refuse_indirection(event, place)
        if event.style is None and key == "<<":
            self.fault(_place(event), place, "merge keys (<<) are refused; write the keys out")
            return None
        if place in self.keys:
            self.fault(_place(event), place, f"the key stands here again, first in line {self.keys[place].line}")
            return None
        self.keys[place] = _place(event)
        return key

    def _pass_over(self, event: yaml.Event) -> None:
        depth = 0
        while True:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                self.stop(_place(event), f"nested deeper than {MAX_DEPTH} levels")
            if depth == 0:
                return
            event = next(self._events)


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
