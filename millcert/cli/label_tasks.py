"""`millcert label issues` and `consensus`: tasks that are judged in memory, by cleanlab itself."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from millcert.cli.dataset import open_dataset, write_whole
from millcert.cli.output import emit, json_option
from millcert.errors import InvalidSampleError, MissingColumnError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from millcert.checks.label_tasks import Suggestions

_OUT = click.Path(dir_okay=False, path_type=Path)
#: Rows that the text shows, the most suspect first.
_SHOWN = 10


@click.command("issues")
@click.argument("dataset", nargs=-1, required=True)
@click.option("--task", type=click.Choice(["multilabel", "token", "regression"]), required=True)
@click.option("--label", "label_column", required=True, help="Lists of classes (multilabel, token), or numbers.")
@click.option("--predicted", required=True, help="Out-of-sample probabilities: a list, a list of lists; or numbers.")
@click.option("--out", type=_OUT, required=True, help="Where to write each row's quality and flags, as Parquet.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite the file that is already there.")
@json_option
def issues(
    dataset: tuple[str, ...],
    task: str,
    label_column: str,
    predicted: str,
    out: Path,
    is_replaced: bool,
    as_json: bool,
) -> None:
    """Score the labels of a task with several labels a row, a label a token, or a number a row.

    Classes are whole numbers, the columns of the probabilities. All rows are held in memory. Beside each row's quality
    stand what is suggested and the probabilities of what was given and of that: the classes more likely than not
    (multilabel), the likeliest class that a token was not given, or the predicted number.
    """
    import numpy as np
    import pyarrow as pa

    data = _table(dataset, (label_column, predicted))
    labels, guesses = data[label_column].to_pylist(), data[predicted].to_pylist()
    if task == "multilabel":
        judged = _judge_sets(_class_lists(labels, label_column), _matrix(guesses, predicted))
    elif task == "token":
        matrices = [_matrix(rows, predicted, at=at) for at, rows in enumerate(guesses)]
        judged = _judge_tokens(_class_lists(labels, label_column), matrices)
    else:
        judged = _judge_numbers(_numbers(labels, label_column), _numbers(guesses, predicted))
    quality, flagged = judged.quality, judged.flagged
    _write(out, pa.table({"row": pa.array(np.arange(len(quality))), **judged.columns}), is_replaced=is_replaced)
    worst = np.argsort(quality, kind="stable")[:_SHOWN].tolist()
    lines = [f"issues  {len(quality):,} rows, {int(flagged.sum()):,} with a doubted label"]
    if task == "regression":
        lines = [f"issues  {len(quality):,} rows; a number is not doubted by itself, only ranked"]
    shown = [{"row": row, "quality": float(quality[row]), **judged.words(row)} for row in worst]
    lines += [
        f"  row {one['row']}: quality {one['quality']:.4f}"
        + (f", token {one['token']}" if "token" in one else "")
        + (f", given {_brief(one['given'])}, suggested {_brief(one['suggested'])}" if "given" in one else "")
        for one in shown
    ]
    emit(
        {
            "version": 1,
            "task": task,
            "rows": len(quality),
            "flagged": int(flagged.sum()),
            "worst": shown,
            "out": str(out),
        },
        "\n".join([*lines, f"next: look at the rows of {out} with the lowest quality"]),
        as_json=as_json,
    )


class _Judged(NamedTuple):
    """quality: float64 (n,). flagged: bool (n,). columns: of the file. words: what is said of a row."""

    quality: "np.ndarray"
    flagged: "np.ndarray"
    columns: "dict[str, pa.Array]"
    words: Callable[[int], dict[str, Any]]


def _judge_sets(labels: list[list[int]], chances: "np.ndarray") -> _Judged:
    import pyarrow as pa

    from millcert.checks.label_tasks import multilabel_issues, suggest_set

    found = multilabel_issues(labels, chances)
    suggested = [suggest_set(row, chances[at]) for at, row in enumerate(labels)]
    columns = {
        "quality": pa.array(found.quality),
        "flagged": pa.array(found.flagged),
        **_suggestion_columns(suggested),
    }
    return _Judged(
        found.quality,
        found.flagged,
        columns,
        lambda row: {"given": labels[row], "suggested": suggested[row].label.tolist()},
    )


def _judge_tokens(labels: list[list[int]], probs: "list[np.ndarray]") -> _Judged:
    import numpy as np
    import pyarrow as pa

    from millcert.checks.label_tasks import suggest_classes, token_issues

    texts = token_issues(labels, probs)
    suggested = [suggest_classes(np.array(row, dtype=np.int64), probs[at]) for at, row in enumerate(labels)]
    columns = {
        "quality": pa.array([item.quality.tolist() for item in texts], pa.list_(pa.float64())),
        "flagged": pa.array([item.flagged.tolist() for item in texts], pa.list_(pa.bool_())),
        **_suggestion_columns(suggested),
    }

    def words(row: int) -> dict[str, Any]:
        if not len(labels[row]):
            return {}
        token = int(texts[row].quality.argmin())
        return {"token": token, "given": labels[row][token], "suggested": int(suggested[row].label[token])}

    quality = np.array([item.quality.min(initial=1.0) for item in texts])
    return _Judged(quality, np.array([bool(item.flagged.any()) for item in texts]), columns, words)


def _judge_numbers(labels: "np.ndarray", guesses: "np.ndarray") -> _Judged:
    import numpy as np
    import pyarrow as pa

    from millcert.checks.label_tasks import regression_quality

    quality = regression_quality(labels, guesses)
    columns = {"quality": pa.array(quality), "suggested": pa.array(guesses)}
    flagged = np.zeros(len(quality), dtype=np.bool_)
    return _Judged(
        quality, flagged, columns, lambda row: {"given": float(labels[row]), "suggested": float(guesses[row])}
    )


def _suggestion_columns(suggested: "Sequence[Suggestions]") -> "dict[str, pa.Array]":
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    return {
        "given_probability": pa.array([one.given.tolist() for one in suggested], numbers),
        "suggested": pa.array([one.label.tolist() for one in suggested], pa.list_(pa.int64())),
        "suggested_probability": pa.array([one.suggested.tolist() for one in suggested], numbers),
    }


def _brief(value: Any) -> str:
    """Return classes or a number as a line of text holds them."""
    if not isinstance(value, list):
        return f"{value:g}"
    return " ".join(map(str, value[:_SHOWN])) + (" ..." if len(value) > _SHOWN else "") if value else "none"


@click.command("consensus")
@click.argument("dataset", nargs=-1, required=True)
@click.option(
    "--annotator", "annotators", multiple=True, required=True, help="A column of one person's labels; repeat."
)
@click.option("--pred-probs", required=True, help="Out-of-sample probabilities of a model trained on some consensus.")
@click.option("--out", type=_OUT, required=True, help="Where to write the consensus of each row, as Parquet.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite the file that is already there.")
@json_option
def consensus(
    dataset: tuple[str, ...],
    annotators: tuple[str, ...],
    pred_probs: str,
    out: Path,
    is_replaced: bool,
    as_json: bool,
) -> None:
    """Weigh several people's labels of the same rows, and the people (CROWDLAB).

    Labels are whole numbers, the columns of the probabilities; a null stands for no label. All rows are held in memory.
    """
    import numpy as np
    import pyarrow as pa

    from millcert.checks.label_tasks import consensus_of

    data = _table(dataset, (*annotators, pred_probs), may_be_null=annotators)
    given = np.stack([_classes(data[name].to_pylist(), name) for name in annotators], axis=1)
    found = consensus_of(given, _matrix(data[pred_probs].to_pylist(), pred_probs))
    columns = {"label": found.label, "quality": found.quality, "agreement": found.agreement}
    _write(out, pa.table({"row": np.arange(len(found.label)), **columns}), is_replaced=is_replaced)
    people = [
        {
            "annotator": name,
            "rows": int(found.annotator_rows[at]),
            "quality": float(found.annotator_quality[at]),
            "agreement": float(found.annotator_agreement[at]),
            "worst_class": int(found.worst_class[at]),
        }
        for at, name in enumerate(annotators)
    ]
    people.sort(key=lambda person: (person["quality"], person["annotator"]))
    lines = [f"consensus  {len(found.label):,} rows of {len(annotators)} annotators"]
    lines += [
        f"  {person['annotator']}: quality {person['quality']:.3f}, agrees in {person['agreement']:.1%} of "
        f"{person['rows']:,} rows, worst in class {person['worst_class']}"
        for person in people
    ]
    emit(
        {"version": 1, "rows": len(found.label), "annotators": people, "out": str(out)},
        "\n".join([*lines, f"next: train on the labels of {out}, or ask again where the quality is low"]),
        as_json=as_json,
    )


def _table(patterns: Sequence[str], columns: Sequence[str], *, may_be_null: Sequence[str] = ()) -> "pa.Table":
    import pyarrow as pa

    if len(set(columns)) != len(columns):
        raise UsageError(f"A column is named twice: {', '.join(columns)}.", hint="Give each column one part to play.")
    data = open_dataset(patterns, None)
    for column in columns:
        if data.schema.get_field_index(column) < 0:
            raise MissingColumnError(
                f"There is no column {column!r}; the data set has {', '.join(data.schema.names)}.",
                hint="Check the name; small and capital letters differ.",
                column=column,
            )
    schema = pa.schema([data.schema.field(name) for name in columns])
    table = pa.Table.from_batches([batch.select(list(columns)) for _, batch in data.read()], schema)
    for column in columns:
        if column not in may_be_null and table[column].null_count:
            raise InvalidSampleError(
                f"Column {column!r} has {table[column].null_count} nulls; expected none.",
                hint="Leave out the rows without a value; an empty list is one.",
                column=column,
            )
    if data.malformed:
        raise InvalidSampleError(
            f"{data.malformed:,} records cannot be decoded, so rows cannot be told by their number.",
            hint="Mend them first.",
        )
    return table


def _matrix(rows: Any, column: str, *, at: int | None = None) -> "np.ndarray":
    """Return lists of numbers as a matrix; `at`: the row of the data set that they are all of, which may be empty."""
    import numpy as np

    if at is not None and rows == []:
        return np.zeros((0, 2))
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _no_lists(column, rows, at) from error
    if matrix.ndim != 2:
        raise _no_lists(column, rows, at)
    return matrix


def _no_lists(column: str, rows: Any, at: int | None) -> InvalidSampleError:
    """Return the error of lists that are no matrix, with the first that is off."""
    where, width = "" if at is None else f", row {at}", None
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        is_list = isinstance(row, (list, tuple)) and all(_is_number(value) for value in row)
        width = len(row) if width is None and is_list else width
        if not is_list or len(row) != width:
            where = f", row {number}" if at is None else f", row {at}, list {number}"
            found = f"{len(row)} numbers" if is_list else repr(row)[:100]
            where += f": expected {width or 'some'} numbers, found {found}"
            break
    return InvalidSampleError(
        f"Column {column!r} holds no lists of numbers of one length{where}.",
        hint="Give a list of one probability for each class; for the token task a list of such lists, one a token.",
        column=column,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(values: list[Any], column: str) -> "np.ndarray":
    import numpy as np

    for at, value in enumerate(values):
        if not _is_number(value):
            raise InvalidSampleError(
                f"Column {column!r} holds no numbers: row {at} is {repr(value)[:100]}.",
                hint="Regression takes a number as the label and a number as the prediction.",
                column=column,
            )
    return np.array(values, dtype=np.float64)


def _class_lists(values: list[Any], column: str) -> list[list[int]]:
    found = []
    for at, row in enumerate(values):
        classes = [_whole(value) for value in row] if isinstance(row, (list, tuple)) else [None]
        if None in classes:
            raise InvalidSampleError(
                f"Column {column!r} holds no lists of whole numbers: row {at} is {repr(row)[:100]}.",
                hint="Write each class as the number of its column in the probabilities, from 0.",
                column=column,
            )
        found.append([value for value in classes if value is not None])
    return found


def _classes(values: list[Any], column: str) -> "np.ndarray":
    """Return classes, -1 for none: whole numbers, also such as tables with gaps hold them (2.0 and NaN)."""
    import numpy as np

    found = np.full(len(values), -1, dtype=np.int64)
    for at, value in enumerate(values):
        if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124 - what tells NaN
            continue
        whole = _whole(value)
        if whole is None or whole < 0:
            raise InvalidSampleError(
                f"Column {column!r} holds no whole numbers from 0: row {at} is {repr(value)[:100]}.",
                hint="Write each class as the number of its column in the probabilities, and a null for no label.",
                column=column,
            )
        found[at] = whole
    return found


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _write(out: Path, table: "pa.Table", *, is_replaced: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(out, sink.getvalue().to_pybytes(), is_replaced=is_replaced)
