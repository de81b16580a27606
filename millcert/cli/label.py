"""`millcert label`: what became of the labels between two versions, who accounts for it; label tasks of other forms."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from millcert.cli.dataset import Dataset, open_dataset, read_bounded, write_whole
from millcert.cli.label_tasks import consensus, issues
from millcert.cli.output import emit, json_option
from millcert.errors import InvalidSampleError, MissingColumnError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from millcert.checks.label_changes import LabelChange, LabelChanges, LabelledRows

_MAX_EVENT_BYTES = 1 << 30
#: Unexplained changes that the text shows; --json and --out have all.
_SHOWN = 20


class _Version(NamedTuple):
    """rows: for the comparison. keys, labels: as text. places: (file, row in its file) of each row."""

    rows: "LabelledRows"
    keys: list[str]
    labels: list[str]
    places: list[tuple[str, int]]


@click.group()
def label() -> None:
    """Say what became of the labels of a data set, and score those of other tasks than one class a row."""


label.add_command(issues)
label.add_command(consensus)


@label.command("diff")
@click.argument("old", type=click.Path(exists=True))
@click.argument("new", type=click.Path(exists=True))
@click.option("--label", "label_column", required=True, help="The column of the label.")
@click.option(
    "--key", "key_column", help="A column that names a row in both; else all columns but the ignored ones do."
)
@click.option("--ignore", multiple=True, help="A column that is no part of a row's content, such as who labelled it.")
@click.option(
    "--events", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Label events: CSV or Label Studio."
)
@click.option("--event-key", help="The field of a Label Studio task's data that is the key; else the task's id.")
@click.option("--event-label", help="The control of the Label Studio setup whose results are the labels.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write all changes to a CSV file.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite the file that is already at --out.")
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    old: str,
    new: str,
    label_column: str,
    key_column: str | None,
    ignore: tuple[str, ...],
    events: Path | None,
    event_key: str | None,
    event_label: str | None,
    out: Path | None,
    is_replaced: bool,
    as_json: bool,
) -> None:
    """Compare the labels of two versions; exit 1 if a change is not explained by an event.

    OLD and NEW are files, folders or globs. Rows are matched by --key, or by their content. An event of a row without a
    key names its content digest, as --out and --json print it.
    """
    from millcert.checks.label_changes import compare_labels, explain
    from millcert.pipelines.formats.label_events import read_label_events

    if key_column == label_column:
        raise UsageError(f"{label_column!r} is named as the label and as the key.", hint="A key outlives a new label.")
    found = (
        ()
        if events is None
        else read_label_events(
            read_bounded(events, _MAX_EVENT_BYTES), name=events.name, key=event_key, control=event_label
        )
    )
    before = _read(open_dataset([old], None), label_column, key_column, ignore)
    after = _read(open_dataset([new], None), label_column, key_column, ignore)
    changes = explain(compare_labels(before.rows, after.rows), after.keys, after.labels, found)
    if out is not None:
        write_whole(out, _as_csv(changes, after).encode(), is_replaced=is_replaced)
    unexplained = changes.unexplained
    emit(_payload(changes, after), _text(changes, after), as_json=as_json)
    if unexplained:
        ctx.exit(1)


def _read(data: Dataset, label_column: str, key_column: str | None, ignore: tuple[str, ...]) -> _Version:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from millcert.checks.label_changes import LabelledRows
    from millcert.checks.sample_digest import sample_digests

    for column in (label_column, *ignore, *([key_column] if key_column else [])):
        if data.schema.get_field_index(column) < 0:
            raise MissingColumnError(
                f"There is no column {column!r}; the data set has {', '.join(data.schema.names)}.", column=column
            )
    kept = [name for name in data.schema.names if name not in {label_column, *ignore}]
    raw, keys, labels, places = list[Any](), list[str](), list[str](), list[tuple[str, int]]()
    next_row: Counter[str] = Counter()
    for name, batch in data.read():
        labels += _texts(batch, label_column)
        if key_column is None:
            digests = sample_digests(batch.select(kept))
            raw.append(digests[:, :16])
            keys += [digest.tobytes().hex() for digest in digests]
        else:
            texts = _texts(batch, key_column)
            digest = b"".join(hashlib.sha256(text.encode()).digest()[:16] for text in texts)
            raw.append(np.frombuffer(digest, dtype=np.uint8).reshape(-1, 16))
            keys += texts
        places += [(name, next_row[name] + at) for at in range(batch.num_rows)]
        next_row[name] += batch.num_rows
    if data.malformed:
        raise InvalidSampleError(
            f"{data.malformed:,} records cannot be decoded, so rows cannot be told by their number.",
            hint="Mend them first.",
        )
    whole = np.concatenate(raw) if raw else np.empty((0, 16), dtype=np.uint8)
    if key_column is not None and len(set(keys)) != len(keys):
        twice = next(text for text, count in Counter(keys).items() if count > 1)
        raise InvalidSampleError(
            f"The key {twice[:100]!r} stands in more than one row, so rows cannot be told apart by {key_column!r}.",
            hint="Name another column, or leave --key out to match rows by their content.",
            column=key_column,
        )
    encoded = pa.array(labels, pa.string()).dictionary_encode()
    return _Version(
        LabelledRows(
            np.ascontiguousarray(whole).view(np.uint64).reshape(-1, 2),
            pc.cast(encoded.indices, pa.int64()).to_numpy(zero_copy_only=False),
            tuple(encoded.dictionary.to_pylist()),
        ),
        keys,
        labels,
        places,
    )


def _texts(batch: "pa.RecordBatch", column: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = batch.column(batch.schema.get_field_index(column))
    if values.null_count:
        raise InvalidSampleError(
            f"Column {column!r} has {values.null_count} nulls; expected none.",
            hint="Give rows without a value one that says so, or leave them out of both versions.",
            column=column,
        )
    if pa.types.is_nested(values.type):  # several labels a row, as they stand
        return [json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) for value in values.to_pylist()]
    try:
        texts: list[str] = pc.cast(values, pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidSampleError(
            f"Column {column!r} of type {values.type} cannot be written as text: {error}.",
            hint="Name a column of text, numbers or lists of them.",
            column=column,
        ) from error
    return texts


def _row(change: "LabelChange", after: _Version) -> dict[str, Any]:
    file, row = after.places[change.row]
    return {
        "key": after.keys[change.row],
        "file": file,
        "row": row,
        "old": change.old,
        "new": change.new,
        "who": change.who,
        "when": change.when,
        "reason": change.reason,
    }


def _payload(changes: "LabelChanges", after: _Version) -> dict[str, Any]:
    return {
        "version": 1,
        "rows_old": changes.rows_old,
        "rows_new": changes.rows_new,
        "same": changes.same,
        "changed": len(changes.changed),
        "added": changes.added,
        "removed": changes.removed,
        "flips": [
            {"old": one, "new": other, "rows": count, "unexplained": missing}
            for (one, other), count, missing in _flips(changes)
        ],
        "by_who": dict(sorted(Counter(change.who for change in changes.changed if not change.reason).items())),
        "unexplained": [_row(change, after) for change in changes.unexplained],
        "events": changes.events,
        "events_of_other_rows": changes.foreign_events,
        "events_not_followed": [event._asdict() for event in changes.unused_events],
    }


def _flips(changes: "LabelChanges") -> "list[tuple[tuple[str, str], int, int]]":
    counts = Counter((change.old, change.new) for change in changes.changed)
    missing = Counter((change.old, change.new) for change in changes.unexplained)
    return sorted(
        ((pair, count, missing[pair]) for pair, count in counts.items()), key=lambda item: (-item[1], item[0])
    )


def _text(changes: "LabelChanges", after: _Version) -> str:
    unexplained = changes.unexplained
    lines = [f"labels  {changes.rows_new:,} rows, {len(changes.changed):,} changed, {len(unexplained):,} not explained"]
    if changes.added or changes.removed:
        lines.append(f"  {changes.added:,} rows are new, {changes.removed:,} are gone")
    lines += [
        f"  {one!r} -> {other!r}  {count:,} rows, {missing:,} not explained"
        for (one, other), count, missing in _flips(changes)[:_SHOWN]
    ]
    for change in unexplained[:_SHOWN]:
        item = _row(change, after)
        lines.append(
            f"  not explained: {item['key']!r} ({item['file']}, row {item['row']}): "
            f"{change.old!r} -> {change.new!r}, {change.reason}"
            + "".join(f", {part!r}" for part in (change.who, change.when) if part)
        )
    if len(unexplained) > _SHOWN:
        lines.append(f"  and {len(unexplained) - _SHOWN:,} more")
    if changes.unused_events:
        lines.append(f"  {len(changes.unused_events):,} rows do not have the label that their last event says")
    if changes.foreign_events:
        lines.append(f"  {changes.foreign_events:,} of {changes.events:,} events name no row of the new version")
    return "\n".join([*lines, f"next: {_advice(changes)}"])


def _advice(changes: "LabelChanges") -> str:
    if changes.events and changes.events == changes.foreign_events:
        return "check --key and --event-key: no event names a row"
    if changes.unexplained:
        return "ask who changed them; --out FILE lists all"
    if changes.added and changes.removed:
        return "look at the new rows: one that changed in its text, too, counts as gone and new; --key tells them apart"
    return "nothing is left to explain"


def _as_csv(changes: "LabelChanges", after: _Version) -> str:
    import csv
    import io

    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["key", "file", "row", "old", "new", "who", "when", "reason"])
    writer.writerows(list(_row(change, after).values()) for change in changes.changed)
    return stream.getvalue()
