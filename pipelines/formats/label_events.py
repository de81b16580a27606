"""Label events: who gave which row which label, from a CSV table or an export of Label Studio.

CSV: a header with `key` and `label`, and any of `old_label`, `who`, `when`; other columns are refused, as are rows of
another width, an empty key or label, and more than `MAX_EVENTS` rows.

Label Studio (JSON export): a list of tasks. The key is `data[KEY]` of a task, or its `id` where no KEY is given. Each
of its annotations that was not cancelled and has one choice is an event: `completed_by` (an id, or an object with
`email` or `id`) and `updated_at` or `created_at` say who and when. A task with another result is refused by number.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

from millcert.checks.label_changes import LabelEvent
from millcert.errors import UsageError
from millcert.pipelines.formats.json_strict import JsonFaultError, parse_document

MAX_EVENTS = 10_000_000

_CSV_COLUMNS = frozenset({"key", "label", "old_label", "who", "when"})
_HINT = "See docs/label-changes.md for what label events look like."


def read_label_events(data: bytes, *, name: str, key: str | None = None) -> tuple[LabelEvent, ...]:
    """Return the events of a file: JSON where it begins with a bracket, else CSV.

    Args:
        data: the whole file.
        name: of the file, for errors.
        key: the field of a Label Studio task's `data` that names the row; None for the task's id.

    Raises:
        UsageError: the file breaks a rule of this module; the message says where.
    """
    events = _label_studio(data, name, key) if data.lstrip()[:1] in {b"[", b"{"} else _table(data, name)
    found = []
    for event in events:
        found.append(event)
        if len(found) > MAX_EVENTS:
            raise UsageError(f"{name} has more than {MAX_EVENTS:,} label events.", hint="Give fewer at once.")
    return tuple(found)


def _table(data: bytes, name: str) -> Iterator[LabelEvent]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: byte {error.start} is not valid UTF-8.", hint=_HINT) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if not {"key", "label"} <= set(header) <= _CSV_COLUMNS or len(set(header)) != len(header):
            raise UsageError(
                f"{name}: the header must have key and label, and may have old_label, who and when; got {header[:8]}.",
                hint=_HINT,
            )
        for row in reader:
            if len(row) != len(header):
                raise UsageError(
                    f"{name}, line {reader.line_num}: {len(row)} fields, expected {len(header)}.", hint=_HINT
                )
            fields = dict(zip(header, row, strict=True))
            yield _event(
                fields["key"],
                fields["label"],
                fields.get("old_label") or None,
                fields.get("who", ""),
                fields.get("when", ""),
                f"{name}, line {reader.line_num}",
            )
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num}: {error}.", hint=_HINT) from error


def _label_studio(data: bytes, name: str, key: str | None) -> Iterator[LabelEvent]:
    try:
        tasks = parse_document(data)
    except JsonFaultError as fault:
        raise UsageError(f"{name}: {fault.detail}", hint=_HINT) from fault
    if not isinstance(tasks, list):
        raise UsageError(f"{name} is a JSON object, expected the list of tasks of a Label Studio export.", hint=_HINT)
    for number, task in enumerate(tasks):
        where = f"{name}, task {number}"
        named = _get(_get(task, "data", dict, where), key, (str, int), where) if key else task_id(task, where)
        for annotation in _get(task, "annotations", list, where):
            if isinstance(annotation, dict) and annotation.get("was_cancelled") is True:
                continue
            label = _choice(_get(annotation, "result", list, where), where)
            when = annotation.get("updated_at") or annotation.get("created_at") or ""
            yield _event(str(named), label, None, _who(annotation.get("completed_by")), _text(when, where), where)


def task_id(task: Any, where: str) -> str:
    """Return the id of a task, a number or text.

    Raises:
        UsageError: there is none.
    """
    return str(_get(task, "id", (str, int), where))


def _choice(result: list[Any], where: str) -> str:
    if len(result) != 1:
        raise UsageError(f"{where}: {len(result)} results in one annotation, expected one choice.", hint=_HINT)
    choices = _get(_get(result[0], "value", dict, where), "choices", list, where)
    if len(choices) != 1 or not isinstance(choices[0], str):
        raise UsageError(f"{where}: {len(choices)} choices, expected one that is text.", hint=_HINT)
    return choices[0]


def _who(completed_by: object) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return str(completed_by) if isinstance(completed_by, (str, int)) else ""


def _get(value: Any, field: str, kind: Any, where: str) -> Any:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise UsageError(f"{where}: no {field!r} of the right kind.", hint=_HINT)
    return found


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: a time is no text.", hint=_HINT)
    return value


def _event(key: str, new: str, old: str | None, who: str, when: str, where: str) -> LabelEvent:
    if not key or not new:
        raise UsageError(f"{where}: an event without a {'label' if key else 'key'}.", hint=_HINT)
    return LabelEvent(key, new, old, who, when)
