"""`millcert schema`: propose a schema and a suite from data, for a person to review; compare two schemas."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.dataset import Dataset, open_dataset, read_bounded, write_whole
from millcert.cli.output import emit, json_option
from millcert.errors import NotEnoughSamplesError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from millcert.checks.metric_suite import SuiteSpec
    from millcert.checks.profile import Cell
    from millcert.checks.schema_proposal import Evidence

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_VERSION = click.Path(exists=True, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)
_MAX_SCHEMA_BYTES = 16 << 20
#: Characters of an expectation's arguments that a line shows.
_MOST_SHOWN = 120
#: A column's uniqueness is tested in memory, 8 bytes a value; above this it is not proposed.
_MOST_UNIQUE_ROWS = 100_000_000


@click.group()
def schema() -> None:
    """Propose a schema and a suite from data, and compare two schemas."""


@schema.command("infer")
@click.argument("dataset", nargs=-1, required=True)
@click.option("--out", type=_OUT, required=True, help="Where to write the schema: a policy's dataset.schema.")
@click.option("--suite", type=_OUT, help="Where to write a Great Expectations suite: a policy's expectations.suite.")
@click.option("--name", default="proposed", show_default=True, help="What the suite is called.")
@click.option("--margin", default=0.1, show_default=True, help="By which part of their spread ranges are widened.")
@click.option("--schema", "declared", type=_FILE, help="Columns' types of JSONL and CSV that are already known.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite files that are already there.")
@json_option
def infer(
    dataset: tuple[str, ...],
    out: Path,
    suite: Path | None,
    name: str,
    margin: float,
    declared: Path | None,
    is_replaced: bool,
    as_json: bool,
) -> None:
    """Propose a schema, and with --suite a suite, from DATASET (files, folders or globs).

    All that is proposed holds on these data. Review it: data that are already bad give rules that let them pass.
    Reads the data once, and twice more with --suite.
    """
    from millcert.pipelines.formats import schema_to_json

    data = open_dataset(dataset, declared)
    text = schema_to_json(data.schema)
    proposed = None if suite is None else _suite(data, name, margin)
    write_whole(out, text.encode(), is_replaced=is_replaced)
    lines = [f"schema  {len(data.files):,} files, {len(data.schema)} columns", f"  file: {out}"]
    payload: dict[str, Any] = {"columns": json.loads(text), "files": len(data.files), "schema": str(out)}
    if suite is not None and proposed is not None:
        document = json.dumps(proposed, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(suite, document.encode(), is_replaced=is_replaced)
        lines.append(f"  suite: {suite}, {len(proposed['expectations'])} expectations")
        payload |= {"suite": str(suite), "expectations": len(proposed["expectations"]), "malformed": data.malformed}
        held = proposed["meta"]["millcert"]["functional_dependencies"]
        payload["functional_dependencies"] = held
        lines += [f"  {_shown(one['determinant'])} determines {_shown(one['dependent'])}" for one in held]
        if data.malformed:
            lines.append(f"  {data.malformed:,} malformed records were left out")
    emit(
        payload,
        "\n".join([*lines, "next: review both, then name them in the policy: dataset.schema, expectations.suite"]),
        as_json=as_json,
    )


@schema.command("diff")
@click.argument("old", type=_VERSION)
@click.argument("new", type=_VERSION)
@json_option
@click.pass_context
def diff(ctx: click.Context, old: Path, new: Path, as_json: bool) -> None:
    """Compare two versions; exit 1 if what relied on the old one may fail on the new one.

    Each is a schema file, a suite (both then), or a data set: a folder or a data file, whose schema is inferred.
    """
    suites = _suite_of(old), _suite_of(new)
    if suites[0] is not None and suites[1] is not None:
        found = _suite_diff(suites[0], suites[1])
    elif suites == (None, None):
        found = _schema_diff(_schema_of(old), _schema_of(new))
    else:
        raise UsageError("A suite can only be compared with a suite.", hint="Name two suites, or two schemas or data.")
    changes, lines = found
    is_breaking = any(change["is_breaking"] for change in changes)
    head = f"{'breaking' if is_breaking else 'compatible'}  {len(changes)} changes" if changes else "equal"
    advice = "mend the data, or review what reads it" if is_breaking else "nothing that reads the old data must change"
    emit(
        {"version": 1, "is_breaking": is_breaking, "changes": changes},
        "\n".join([head, *lines, f"next: {advice}"]),
        as_json=as_json,
    )
    if is_breaking:
        ctx.exit(1)


def _schema_diff(old: "pa.Schema", new: "pa.Schema") -> tuple[list[dict[str, Any]], list[str]]:
    from millcert.checks.schema_changes import compare_schemas

    changes = compare_schemas(old, new)
    return (
        [{**change._asdict(), "is_breaking": change.is_breaking} for change in changes],
        [f"  {change.change:8} {_shown(change.column)}  {_types(change.old, change.new)}" for change in changes],
    )


def _suite_diff(old: "SuiteSpec", new: "SuiteSpec") -> tuple[list[dict[str, Any]], list[str]]:
    from millcert.checks.suite_changes import compare_suites

    changes = compare_suites(old.expectations, new.expectations)
    lines = []
    for change in changes:
        sides = [_in_short(each) for each in (change.old, change.new) if each]
        about = f"{_shown(change.column) or 'the table'}: {_shown(change.expectation)}"
        lines.append(f"  {change.change:9} {about}  {' -> '.join(sides)}".rstrip())
    return [{**change._asdict(), "is_breaking": change.is_breaking} for change in changes], lines


def _in_short(arguments: "Mapping[str, Any]") -> str:
    text = json.dumps(arguments, sort_keys=True)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _suite_of(path: Path) -> "SuiteSpec | None":
    """Return the suite of a JSON file that has a list of expectations; None of anything else."""
    from millcert.checks.metric_suite import load_suite

    if not _is_json(path):
        return None
    data = read_bounded(path, _MAX_SCHEMA_BYTES)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None  # the reader of schemas says what is wrong with it
    return load_suite(data) if isinstance(document, dict) and isinstance(document.get("expectations"), list) else None


def _schema_of(path: Path) -> "pa.Schema":
    from millcert.pipelines.formats import schema_from_json

    if _is_json(path):
        return schema_from_json(read_bounded(path, _MAX_SCHEMA_BYTES))
    return open_dataset([str(path)], None).schema


def _is_json(path: Path) -> bool:
    return path.is_file() and path.suffix == ".json"


def _suite(data: Dataset, name: str, margin: float) -> dict[str, Any]:
    """Return the proposal, after two readings: one for the profile, one to test what it suggests."""
    import secrets

    from millcert.checks.profile import ProfileSpec
    from millcert.checks.profile_builder import ProfileBuilder
    from millcert.checks.schema_proposal import Evidence, propose_suite

    spec = ProfileSpec(secrets.token_hex(32))
    builder, evidence = ProfileBuilder(spec, data.schema), Evidence()
    for _, batch in data.read():
        builder.add(batch)
        evidence.sample(batch, spec.key)
    profile = builder.finish()
    if not profile.rows:
        raise NotEnoughSamplesError("There is no row to propose a suite from.", hint="Leave --suite out.")
    cell = profile.cells["", ""]
    _test(data, cell, evidence, spec.key)
    return propose_suite(cell, data.schema, evidence, name=name, margin=margin)


def _test(data: Dataset, cell: "Cell", evidence: "Evidence", key: bytes) -> None:
    """Keep the patterns, the uniqueness and the functional dependencies that hold on every row."""
    import numpy as np
    import pyarrow.compute as pc

    from millcert.checks.functional_dependencies import DependencyTest, candidate_columns
    from millcert.checks.metric_columns import ColumnView
    from millcert.checks.schema_proposal import may_be_unique
    from millcert.checks.sketch_hash import hash_values

    patterns = evidence.guess_patterns()
    unique = may_be_unique(cell) if cell.rows <= _MOST_UNIQUE_ROWS else []
    hashes: dict[str, list[np.ndarray]] = {name: [] for name in unique}
    candidates = candidate_columns(cell)
    dependencies = DependencyTest(candidates)
    if not patterns and not unique and len(candidates) < 2:
        return
    for _, batch in data.read():
        dependencies.add(batch)
        for name, pattern in list(patterns.items()):
            texts = ColumnView(batch.column(name)).present
            if pc.all(pc.match_substring_regex(texts, pattern)).as_py() is False:
                del patterns[name]
        for name, found in hashes.items():
            found.append(hash_values(ColumnView(batch.column(name)).present, key))
    evidence.patterns, evidence.dependencies = patterns, dependencies.found()
    for name, found in hashes.items():
        words = np.concatenate(found)
        # Distinct hashes prove distinct values; two values of one hash would only withhold the proposal.
        if len(np.unique(words)) == len(words):
            evidence.unique.add(name)


def _types(old: str, new: str) -> str:
    return f"{old} -> {new}" if old and new and old != new else old or new


def _shown(name: str) -> str:
    """Return a name of the data as one harmless line."""
    return name if name.isprintable() else repr(name)
