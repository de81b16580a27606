"""`millcert label issues` and `consensus`: tasks that are judged in memory, by cleanlab itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.dataset import open_dataset, write_whole
from millcert.cli.output import emit, json_option
from millcert.errors import InvalidSampleError, MissingColumnError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

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

    Classes are whole numbers, the columns of the probabilities. All rows are held in memory.
    """
    import numpy as np
    import pyarrow as pa

    from millcert.checks.label_tasks import multilabel_issues, regression_quality, token_issues

    data = _table(dataset, (label_column, predicted))
    labels, guesses = data[label_column].to_pylist(), data[predicted].to_pylist()
    if task == "multilabel":
        found = multilabel_issues(labels, _matrix(guesses, predicted))
        quality, flagged = found.quality, found.flagged
        columns = {"quality": pa.array(quality), "flagged": pa.array(flagged)}
    elif task == "token":
        texts = token_issues(labels, [_matrix(rows, predicted, least=0) for rows in guesses])
        quality = np.array([item.quality.min(initial=1.0) for item in texts])
        flagged = np.array([bool(item.flagged.any()) for item in texts])
        columns = {
            "quality": pa.array([item.quality.tolist() for item in texts], pa.list_(pa.float64())),
            "flagged": pa.array([item.flagged.tolist() for item in texts], pa.list_(pa.bool_())),
        }
    else:
        quality = regression_quality(_numbers(labels, label_column), _numbers(guesses, predicted))
        flagged = np.zeros(len(quality), dtype=np.bool_)
        columns = {"quality": pa.array(quality)}
    _write(out, pa.table({"row": pa.array(np.arange(len(quality))), **columns}), is_replaced=is_replaced)
    worst = np.argsort(quality, kind="stable")[:_SHOWN].tolist()
    lines = [f"issues  {len(quality):,} rows, {int(flagged.sum()):,} with a doubted label"]
    if task == "regression":
        lines = [f"issues  {len(quality):,} rows; a number is not doubted by itself, only ranked"]
    lines += [f"  row {row}: quality {quality[row]:.4f}" for row in worst]
    emit(
        {
            "version": 1,
            "task": task,
            "rows": len(quality),
            "flagged": int(flagged.sum()),
            "worst": [{"row": row, "quality": float(quality[row])} for row in worst],
            "out": str(out),
        },
        "\n".join([*lines, f"next: look at the rows of {out} with the lowest quality"]),
        as_json=as_json,
    )


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
                f"There is no column {column!r}; the data set has {', '.join(data.schema.names)}.", column=column
            )
    schema = pa.schema([data.schema.field(name) for name in columns])
    table = pa.Table.from_batches([batch.select(list(columns)) for _, batch in data.read()], schema)
    for column in columns:
        if column not in may_be_null and table[column].null_count:
            raise InvalidSampleError(f"Column {column!r} has {table[column].null_count} nulls.", column=column)
    if data.malformed:
        raise InvalidSampleError(
            f"{data.malformed:,} records cannot be decoded, so rows cannot be told by their number.",
            hint="Mend them first.",
        )
    return table


def _matrix(rows: Any, column: str, *, least: int = 1) -> "np.ndarray":
    import numpy as np

    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidSampleError(
            f"Column {column!r} holds no lists of numbers of one length.", column=column
        ) from error
    if not len(matrix) and least == 0:
        return np.zeros((0, 2))
    if matrix.ndim != 2:
        raise InvalidSampleError(f"Column {column!r} holds no lists of numbers of one length.", column=column)
    return matrix


def _numbers(values: list[Any], column: str) -> "np.ndarray":
    import numpy as np

    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise InvalidSampleError(f"Column {column!r} holds no numbers.", column=column)
    return np.array(values, dtype=np.float64)


def _classes(values: list[Any], column: str) -> "np.ndarray":
    import numpy as np

    if not all(value is None or (isinstance(value, int) and not isinstance(value, bool)) for value in values):
        raise InvalidSampleError(f"Column {column!r} holds no whole numbers.", column=column)
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)


def _write(out: Path, table: "pa.Table", *, is_replaced: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(out, sink.getvalue().to_pybytes(), is_replaced=is_replaced)
