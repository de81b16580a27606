"""A first policy for a data set: what can be seen of it, and a commented file that admits nothing by itself.

Looks at names of files and folders, and at the columns of one file; of the samples at the first record at most. What it
guesses it marks with CHECK; what nobody can guess (who may sign) stays as a comment.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from millcert.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: Folders beyond this are put under one rule; directory entries beyond the second are not looked at.
MAX_SOURCES = 50
MAX_ENTRIES = 20_000
#: Of two sources nobody can say which is the odd one.
LEAST_SOURCES = 3

_MAX_LINE_BYTES = 1 << 20
#: Characters that a pattern may not hold, or a file should not; `?` stands for any one.
_SPECIAL = re.compile(r"[^ -~]|[\[\]{}\\]")
_LABEL_NAMES = ("label", "labels", "class", "target", "y", "category", "label_id")
_EXTERNAL_HINTS = ("external", "clip", "dino", "sentence", "pretrained")
_EMBEDDING_HINTS = ("emb", "feature", "vector", "representation")
_PIXEL_HINTS = ("pixel", "image", "img")
_SPLIT_NAMES = ("split", "subset", "partition")
#: What columns of text are called in files for fine-tuning and for classification.
_TEXT_NAMES = re.compile(
    "text|sentence|document|content|body|title|query|context|passage|abstract|review|messages|conversations?|prompt"
    "|completion|instruction|input|output|question|answer|response|chosen|rejected|system|user|assistant"
)
_ID_NAME = re.compile(r"(.*_)?(id|idx|index|uuid)")


@dataclass(frozen=True)
class DatasetSketch:
    """What can be seen of a data set without reading it.

    folders: top-level folders with data files, sorted. has_root_files: whether data files stand beside them.
    columns: name -> "text", "texts" (in lists or structs), "number" (whole), "real", "vector" or "other", from
        `columns_of`; empty where no file could be read.
    """

    name: str
    folders: tuple[str, ...]
    has_root_files: bool
    columns: Mapping[str, str]
    columns_of: str


#: What stands in for a data set that is not there yet.
EXAMPLE = DatasetSketch("my-dataset", (), True, {"label": "text", "embedding": "vector"}, "")


def sketch_dataset(dataset: Path) -> DatasetSketch:
    """Return what can be seen of a data set: a folder, or one file.

    Raises:
        UsageError: there is nothing there, or no file of a format that is read.
    """
    from millcert.pipelines.formats.base import FORMATS

    if not dataset.exists():
        raise UsageError(f"There is no data set at {dataset}.", hint="Give a folder or a data file.", path=str(dataset))
    root = dataset if dataset.is_dir() else dataset.parent
    files = sorted(_data_files(root)) if dataset.is_dir() else [dataset.name]
    if not files:
        raise UsageError(
            f"{dataset} has no file of a format that is read ({', '.join(FORMATS)}).",
            hint="Leave the data set out to get a policy to fill in.",
            path=str(dataset),
        )
    folders = sorted({name.split("/")[0] for name in files if "/" in name})
    columns, columns_of = _first_columns(root, files)
    slug = re.sub(r"[^a-z0-9._-]+", "-", dataset.resolve().name.split(".")[0].lower()).strip("-._")
    return DatasetSketch(
        slug[:128] or "my-dataset", tuple(folders), any("/" not in f for f in files), columns, columns_of
    )


def guess_roles(columns: Mapping[str, str]) -> dict[str, str | list[str]]:
    """Return role -> column or columns, guessed from names and kinds of columns."""
    roles: dict[str, str | list[str]] = {}
    lowered: dict[str, str] = {}
    for column in columns:
        lowered.setdefault(column.lower(), column)
    label = next((lowered[name] for name in _LABEL_NAMES if name in lowered), None)
    if label is not None and columns[label] in {"text", "number"}:
        roles["label"] = label
    split = next((lowered[name] for name in _SPLIT_NAMES if name in lowered), None)
    if split is not None and columns[split] in {"text", "number"}:
        roles["split"] = split
    texts = [
        name for name, kind in columns.items() if kind in {"text", "texts"} and _TEXT_NAMES.fullmatch(name.lower())
    ]
    if texts:
        roles["text"] = texts if len(texts) > 1 else texts[0]
    roles |= _guess_vectors(columns)
    if label is not None and not texts and "vector" not in columns.values():
        values = [name for name, kind in columns.items() if kind in {"text", "number", "real"}]
        table = [name for name in values if name not in {label, split} and not _ID_NAME.fullmatch(name.lower())]
        if table:
            roles["features"] = table if len(table) > 1 else table[0]
    return roles


def _guess_vectors(columns: Mapping[str, str]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for name, kind in columns.items():
        low = name.lower()
        is_embedding = any(hint in low for hint in _EMBEDDING_HINTS)
        if kind != "vector":
            continue
        if "prob" in low:
            roles.setdefault("pred_probs", name)
        elif any(hint in low for hint in _PIXEL_HINTS) and not is_embedding:
            roles.setdefault("features", name)
        elif is_embedding:
            is_external = any(hint in low for hint in _EXTERNAL_HINTS)
            roles.setdefault("embedding_external" if is_external else "embedding_self", name)
    return roles


def policy_template(sketch: DatasetSketch, *, seed: int) -> str:
    """Return the text of a commented policy: valid if a check fits the columns, and admitting nothing until edited.

    Args:
        sketch: of the data set.
        seed: what keys the hashes of checks that take one, in [0, 2**64); nobody who supplies data should know it.
    """
    roles = guess_roles(sketch.columns)
    seen = (
        f"# Columns of {_comment(sketch.columns_of)}: {_comment(', '.join(sketch.columns))}\n"
        if sketch.columns_of
        else ""
    )
    return _TEXT.format(
        name=sketch.name,
        seen=seen,
        columns="".join(f"    {role}: {_quoted(column)}  # CHECK\n" for role, column in roles.items())
        or "    {}  # label: NAME, text: NAME, split: NAME, embedding_self: NAME, embedding_external: NAME\n",
        sources="".join(_source_rules(sketch)),
        checks="".join(_check_rules(roles, sketch, seed)),
    )


def _source_rules(sketch: DatasetSketch) -> Iterator[str]:
    patterns: list[tuple[str, str]] = []
    if len(sketch.folders) > MAX_SOURCES or not sketch.folders:
        patterns = [(sketch.name, "**")]
    else:
        patterns = [(folder, _SPECIAL.sub("?", folder) + "/**") for folder in sketch.folders]
        if sketch.has_root_files:
            patterns.append((sketch.name, "*"))
    taken: set[str] = set()
    for wish, pattern in patterns:
        slug = re.sub(r"[^a-z0-9._-]+", "-", wish.lower()).strip("-._")[:100] or "source"
        name, number = slug, 2
        while name in taken:
            name, number = f"{slug}-{number}", number + 1
        taken.add(name)
        yield f"  - name: {_quoted(name)}\n    path: {_quoted(pattern)}\n    unsigned: accept_as_unknown\n"


def _check_rules(roles: Mapping[str, object], sketch: DatasetSketch, seed: int) -> Iterator[str]:
    if "label" in roles:
        yield from _label_rules(roles, seed)
        yield from _source_shift(roles, sketch)
    views = ("text", "features", "embedding_external", "embedding_self")
    view = next((role for role in views if role in roles), "sample_digest")
    yield (
        "  - check: near_duplicates\n    max_flagged_fraction: 0.05\n    over_limit: warn\n    on_flagged: quarantine\n"
        f"    config: {{view: {view}}}\n"
    )
    if "split" in roles and view in {"text", "features"}:
        yield (
            "  - check: split_leakage\n    max_flagged_fraction: 0.01\n    over_limit: warn\n"
            f"    on_flagged: quarantine\n    config: {{view: {view}}}\n"
        )


def _label_rules(roles: Mapping[str, object], seed: int) -> Iterator[str]:
    """Yield the rules of checks that need a label."""
    if "embedding_self" in roles:
        yield (
            "  - check: robust_spectral\n    max_flagged_fraction: 0.05\n    over_limit: reject\n"
            "    on_flagged: quarantine\n"
        )
    if {"embedding_self", "embedding_external"} <= set(roles):
        yield (
            "  - check: view_contradiction\n    max_flagged_fraction: 0.05\n    over_limit: warn\n"
            f"    on_flagged: quarantine\n    config: {{seed: {seed}}}\n"
        )
    # A list of columns is a table; one column of numbers may be pixels, of which a linear model sees little.
    table = ("features",) if isinstance(roles.get("features"), list) else ()
    views = [role for role in ("embedding_external", "embedding_self", "text", *table) if role in roles]
    if "pred_probs" in roles or views:
        # Hashed words and plain columns doubt a third of clean texts (docs/selftest.md), a self view its own mistakes.
        is_good = "pred_probs" in roles or "embedding_external" in roles
        why = (
            "never rejects; `report` would keep what it doubts" if is_good else "doubts many right labels in this view"
        )
        config = f"view: {'pred_probs' if 'pred_probs' in roles else views[0]}"
        config += f", second_view: {views[0]}" if "pred_probs" in roles and views else ""
        yield (
            f"  - check: label_noise  # {why}\n"
            "    max_flagged_fraction: 0.1\n    over_limit: warn\n"
            f"    on_flagged: {'quarantine' if is_good else 'report'}\n"
            "    # on_rise: warn  # would compare with the last admitted version; without it the data alone decides\n"
            f"    config: {{{config}, seed: {seed}}}  # keep the seed from who supplies the data\n"
        )
    if "features" in roles:
        yield (
            "  - check: trigger_mining  # images: say their shape under dataset.images\n    max_flagged_fraction: 0.0\n"
            "    over_limit: reject\n    on_flagged: quarantine\n"
        )


def _source_shift(roles: Mapping[str, object], sketch: DatasetSketch) -> Iterator[str]:
    """Yield the rule that compares sources: it takes three, and a view that never saw the data, or pixels."""
    column = roles.get("features")
    is_vector = isinstance(column, str) and sketch.columns.get(column) == "vector"
    view = "embedding_external" if "embedding_external" in roles else "features" if is_vector else ""
    if view and (len(sketch.folders) >= LEAST_SOURCES or "source" in roles):
        yield (
            "  - check: source_shift  # warn, where your sources bring different kinds of data\n"
            "    max_flagged_fraction: 0.0\n    over_limit: reject\n    on_flagged: quarantine\n"
            f"    config: {{view: {view}}}\n"
        )


def _data_files(root: Path) -> Iterator[str]:
    """Yield data files below a folder, as POSIX paths; links are not followed."""
    from millcert.pipelines.formats.base import format_of_name

    count = 0
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MAX_ENTRIES:
                return
            if format_of_name(name) is not None and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _first_columns(root: Path, files: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the columns of the first file that tells them, and that file's path; nothing is fatal here."""
    import pyarrow as pa

    for name in files[:3]:
        try:
            columns = _columns(root / name)
        except (OSError, ValueError, RecursionError, pa.ArrowException):
            continue
        columns = {column: kind for column, kind in columns.items() if column.isprintable()}
        if columns:
            return columns, name
    return {}, ""


def _columns(path: Path) -> dict[str, str]:
    from millcert.pipelines.formats.base import format_of_name

    kind = format_of_name(path.name)
    if path.suffix.lower() in {".gz", ".zst"}:
        return {}
    if kind == "parquet":
        import pyarrow.parquet as pq

        return _arrow_columns(pq.read_schema(path))
    if kind == "arrow":
        return _arrow_columns(_ipc_schema(path))
    with path.open("rb") as stream:
        line = stream.readline(_MAX_LINE_BYTES).decode("utf-8-sig")
        second = stream.readline(_MAX_LINE_BYTES).decode("utf-8", errors="replace")
    return _json_columns(line) if kind == "jsonl" else _csv_columns(line, second)


def _ipc_schema(path: Path) -> object:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        try:
            return pa.ipc.open_file(source).schema
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).schema


def _arrow_columns(schema: object) -> dict[str, str]:
    import pyarrow as pa

    found: dict[str, str] = {}
    for field in pa.schema(schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            is_pixels = pa.types.is_integer(kind.value_type) and any(
                hint in field.name.lower() for hint in _PIXEL_HINTS
            )
            is_vector = pa.types.is_floating(kind.value_type) or is_pixels
            found[field.name] = "vector" if is_vector else "texts" if _has_text(kind) else "other"
        elif pa.types.is_struct(kind):
            found[field.name] = "texts" if _has_text(kind) else "other"
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
            found[field.name] = "text"
        else:
            is_real = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            found[field.name] = "number" if pa.types.is_integer(kind) else "real" if is_real else "other"
    return found


def _has_text(kind: "pa.DataType") -> bool:
    from millcert.pipelines.role_values import has_text

    return has_text(kind)


def _json_columns(line: str) -> dict[str, str]:
    record = json.loads(line)
    return {str(name): _kind(value) for name, value in record.items()} if isinstance(record, dict) else {}


def _csv_columns(header: str, record: str) -> dict[str, str]:
    import csv

    names = next(csv.reader([header]), [])
    values = next(csv.reader([record]), [])
    padded = values + [""] * (len(names) - len(values))
    return {name: _csv_kind(value) for name, value in zip(names, padded, strict=False)}


def _csv_kind(value: str) -> str:
    if value.lstrip("-").isdigit():
        return "number"
    return "real" if re.fullmatch(r"[-+]?\d*\.\d+([eE][-+]?\d+)?", value) else "text"


def _kind(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        return "vector"
    if isinstance(value, (list, dict)):
        return "texts" if _holds_text(value) else "other"
    if isinstance(value, (str, bool)):
        return "text"
    return "number" if isinstance(value, int) else "real" if isinstance(value, float) else "other"


def _holds_text(value: object) -> bool:
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
    return isinstance(value, str) or any(_holds_text(item) for item in inner)


def _quoted(text: object) -> str:
    """Return a YAML scalar: JSON's double-quoted strings are YAML's (YAML 1.2.2 section 1.2)."""
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:500]


_TEXT = """\
# What the gate demands of this data set. docs/policy.md explains each key and its consequence.
# Lines with CHECK hold a guess. Fractions are from 0 to 1. As written, this policy rejects: its sources are unsigned
# and max_unknown_provenance_fraction is 0.
version: 1

dataset:
  name: {name}
{seen}  columns:
{columns}  # classes: ["0", "1"]        # the order of the columns of pred_probs
  # schema: schema.json           # column -> Arrow type, for JSONL and CSV
  # images: {{pixels: {{shape: [8, 8], max_value: 16}}}}
  max_malformed_fraction: 0.0

# Whose signatures count. Required as soon as one source is signed; the digest pins the file.
# trust:
#   trusted_root: trusted_root.json
#   trusted_root_sha256: 0000000000000000000000000000000000000000000000000000000000000000

# Every file must match exactly one rule. To demand a signature, replace `unsigned` with
#     signed_by: {{issuer: "https://accounts.example.org", identity: "data-release@example.org"}}
sources:
{sources}
# A Great Expectations suite, evaluated over all samples in the same read.
# expectations: {{suite: suite.json, on_failure: reject}}
# profile: {{hash_key: profile.key}}
# drift: {{reference: last_admitted, on_no_reference: report}}

# `millcert check list` shows all checks and the columns that each reads.
checks:
{checks}
verdict:
  max_quarantined_fraction: 0.1
  max_unknown_provenance_fraction: 0.0

ledger:
  origin: example.org/training-data  # CHECK: your ledger's name
"""
