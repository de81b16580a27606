"""Label events: who gave which row which label, from a CSV table or an export of Label Studio.

CSV: a header with `key` and `label`, and any of `old_label`, `who`, `when`; other columns are refused, as are rows of
another width, an empty key or label, and more than `MAX_EVENTS` rows. Empty lines are passed over.

Label Studio, JSON: a list of tasks. The key is `data[KEY]` of a task, or its `id` where no KEY is given. An annotation
that was not cancelled is an event if its label control has a result: one choice, a path of a taxonomy, a rating or a
number. The control is the one that is named, else the only one of such a kind; what else people drew, wrote or ranked
is no label of a row. `completed_by` (an id, or an object with `email` or `id`) and `updated_at` or `created_at` say who
and when. A `ground_truth` annotation is the last word. Drafts and predictions are nobody's label.

Label Studio, JSON_MIN, CSV and TSV (one annotation a row, known by `annotation_id`): the control must be named, for it
is a column; the key is the column KEY, or `id`; `annotator` and `updated_at` or `created_at` say who and when.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from millcert.checks.label_changes import LabelEvent
from millcert.errors import UsageError
from millcert.pipelines.formats.json_strict import JsonFaultError, parse_document

MAX_EVENTS = 10_000_000

_CSV_COLUMNS = frozenset({"key", "label", "old_label", "who", "when"})
#: Kinds of results that are one label of a whole row.
_LABEL_KINDS = ("choices", "taxonomy", "rating", "number")
#: What tells a table or list of Label Studio with one annotation a row.
_FLAT_MARK = "annotation_id"
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*[\[{]")
_HINT = "docs/label-changes.md says what label events look like."


def read_label_events(
    data: bytes, *, name: str, key: str | None = None, control: str | None = None
) -> tuple[LabelEvent, ...]:
    """Return the events of a file: JSON where it begins with a bracket, else CSV.

    Args:
        data: the whole file.
        name: of the file, for errors.
        key: the field of a Label Studio task's data that names the row; None for the task's id.
        control: the `name` of the control in Label Studio's labelling setup whose results are the labels.

    Raises:
        UsageError: the file breaks a rule of this module; the message says where.
    """
    events = (
        _of_json(data, name, key, control) if _JSON.match(data) else _table(_text_of(data, name), name, key, control)
    )
    found = []
    for event in events:
        found.append(event)
        if len(found) > MAX_EVENTS:
            raise UsageError(f"{name} has more than {MAX_EVENTS:,} label events.", hint="Give fewer at once.")
    return tuple(found)


def _text_of(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: byte {error.start} is not valid UTF-8; expected label events in UTF-8.",
            hint="Save the file as UTF-8, without another encoding's byte order mark.",
        ) from error


def _table(text: str, name: str, key: str | None, control: str | None) -> Iterator[LabelEvent]:
    is_tabbed = "\t" in text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter="\t" if is_tabbed else ",")
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise UsageError(f"{name}: a column stands twice in the header {header[:8]}.", hint=_HINT)
        if _FLAT_MARK not in header:
            _refuse_header(header, name, key, control)
        for row in reader:
            if not row:
                continue
            where = f"{name}, line {reader.line_num}"
            if len(row) != len(header):
                raise UsageError(f"{where}: {len(row)} fields, expected {len(header)}.", hint=_HINT)
            fields = dict(zip(header, row, strict=True))
            if _FLAT_MARK in fields:
                yield _flat_event(fields, key, control, where)
                continue
            old = fields.get("old_label") or None
            yield _event(fields["key"], fields["label"], old, fields.get("who", ""), fields.get("when", ""), where)
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num}: {error}.", hint=_HINT) from error


def _refuse_header(header: list[str], name: str, key: str | None, control: str | None) -> None:
    if not {"key", "label"} <= set(header) <= _CSV_COLUMNS:
        raise UsageError(
            f"{name}: the header must have key and label, and may have old_label, who and when; got {header[:8]}.",
            hint=f"Fields are separated by commas, names are in small letters. {_HINT}",
        )
    if key is not None or control is not None:
        raise UsageError(
            f"{name} is a table of key and label; --event-key and --event-label are for Label Studio's exports.",
            hint="Leave them out.",
        )


def _of_json(data: bytes, name: str, key: str | None, control: str | None) -> Iterator[LabelEvent]:
    try:
        tasks = parse_document(data.removeprefix(b"\xef\xbb\xbf"))
    except JsonFaultError as fault:
        raise UsageError(f"{name}: {fault.detail}", hint=_HINT) from fault
    if not isinstance(tasks, list):
        raise UsageError(f"{name} is a JSON object, expected the list of tasks of a Label Studio export.", hint=_HINT)
    for number, task in enumerate(tasks):
        where = f"{name}, task {number}"
        if isinstance(task, dict) and _FLAT_MARK in task and "annotations" not in task:
            yield _flat_event(task, key, control, where)
            continue
        named = _get(_get(task, "data", dict, where), key, (str, int), where) if key else task_id(task, where)
        for annotation in _get(task, "annotations", list, where):
            if isinstance(annotation, dict) and annotation.get("was_cancelled") is True:
                continue
            label = _label_of(_get(annotation, "result", list, where), control, where)
            if label is None:
                continue
            who, when = _who(annotation.get("completed_by")), _when(annotation, where)
            yield _event(str(named), label, None, who, when, where, is_final=annotation.get("ground_truth") is True)


def task_id(task: Any, where: str) -> str:
    """Return the id of a task, a number or text.

    Raises:
        UsageError: there is none.
    """
    return str(_get(task, "id", (str, int), where))


def _label_of(results: list[Any], control: str | None, where: str) -> str | None:
    """Return the label that an annotation gives its row, None where it gives none."""
    found: dict[str, list[Any]] = {}
    others = set[str]()
    for result in results:
        value = _get(result, "value", dict, where)
        name = str(result.get("from_name") or "a control without a name")
        kind = next((kind for kind in _LABEL_KINDS if kind in value), None)
        if kind is None:
            others.add(name)
        else:
            found.setdefault(name, []).append((kind, value[kind]))
    if control is not None:
        if control in others:
            raise UsageError(
                f"{where}: the results of {control!r} are no {', '.join(_LABEL_KINDS)}.",
                hint="Name a control that gives the whole row one label.",
            )
        found = {name: values for name, values in found.items() if name == control}
    elif not found and others:
        raise UsageError(
            f"{where}: no result is a label of the whole row ({', '.join(_LABEL_KINDS)}); there are results of "
            f"{', '.join(sorted(others))[:200]}.",
            hint="Spans, boxes and texts are not compared; --event-label names the control whose labels these are.",
        )
    if len(found) > 1:
        raise UsageError(
            f"{where}: {len(found)} controls give labels: {', '.join(sorted(found))[:200]}.",
            hint="Name the one whose labels these are with --event-label.",
        )
    if not found:
        return None
    [values] = found.values()
    if len(values) != 1:
        raise UsageError(f"{where}: {len(values)} results of one control, expected one label.", hint=_HINT)
    kind, value = values[0]
    return _one_label(kind, value, where)


def _one_label(kind: str, value: Any, where: str) -> str:
    if kind in ("choices", "taxonomy"):
        if not isinstance(value, list) or len(value) != 1:
            number = len(value) if isinstance(value, list) else "no list of"
            raise UsageError(
                f"{where}: {number} {kind}, expected one: a row has one label.",
                hint="Data of several labels a row is scored with: millcert label issues --task multilabel.",
            )
        value = "/".join(map(str, value[0])) if kind == "taxonomy" and isinstance(value[0], list) else value[0]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(f"{where}: a label is neither text nor a number.", hint=_HINT)
    return str(value)


def _flat_event(row: Mapping[str, Any], key: str | None, control: str | None, where: str) -> LabelEvent:
    if control is None:
        raise UsageError(
            f"{where}: this export of Label Studio has one annotation a row, so a column is the label; got "
            f"{', '.join(sorted(row))[:200]}.",
            hint="Name the column with --event-label.",
        )
    label, named = _get(row, control, (str, int, float, dict), where), _get(row, key or "id", (str, int), where)
    if isinstance(label, dict):  # several choices, or one with more than its text
        label = _one_label("choices", label.get("choices"), where)
    return _event(str(named), str(label), None, _who(row.get("annotator")), _when(row, where), where)


def _who(completed_by: object) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return str(completed_by) if isinstance(completed_by, (str, int)) else ""


def _when(annotation: Mapping[str, Any], where: str) -> str:
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    if not isinstance(when, str):
        raise UsageError(f"{where}: a time is no text.", hint=_HINT)
    return when


def _get(value: Any, field: str, kind: Any, where: str) -> Any:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        is_there = isinstance(value, dict) and field in value
        seen = f"it is {type(found).__name__}" if is_there else f"there is none; got {_names(value)}"
        raise UsageError(f"{where}: no {field!r} of the right kind: expected {kinds}, {seen}.", hint=_HINT)
    return found


def _names(value: Any) -> str:
    return ", ".join(map(str, value))[:200] if isinstance(value, dict) else f"no object but {type(value).__name__}"


def _event(
    key: str, new: str, old: str | None, who: str, when: str, where: str, *, is_final: bool = False
) -> LabelEvent:
    if not key or not new:
        raise UsageError(f"{where}: an event without a {'label' if key else 'key'}.", hint=_HINT)
    return LabelEvent(key, new, old, who, when, is_final)
