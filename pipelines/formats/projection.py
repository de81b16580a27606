"""Records without some of their columns, in the file's own form: what is kept stays byte for byte as it was stored.

Top-level columns only; the records are those that `decode` accepted, so their form is known to be sound.
"""

import csv
import io
import json
import re
from typing import cast

import numpy as np
import pyarrow as pa

from millcert.errors import InternalError
from millcert.pipelines.formats.base import Decoded, RawSlice

_FIELD = re.compile(rb'"(?:[^"]++|"")*+"|[^",\r\n]*+')
_SPACE = re.compile(r"[ \t\r\n]*")
_VALUES = json.JSONDecoder()
_BOM = b"\xef\xbb\xbf"
_HUGGING_FACE = b"huggingface"


def project_batch(decoded: Decoded, kept: frozenset[str]) -> Decoded:
    """Return what was decoded with the listed columns only; the stored forms stay whole."""
    names = [name for name in decoded.batch.schema.names if name in kept]
    return Decoded(decoded.rows, decoded.batch.select(names), decoded.raw, decoded.stored, decoded.malformed)


def project_stored(decoded: Decoded, kept: frozenset[str], header: bytes) -> Decoded:
    """Return what was decoded with its stored forms cut to the listed columns.

    Args:
        decoded: of any format.
        kept: names of columns.
        header: of a CSV file, as stored; b"" of any other.
    """
    stored = decoded.stored
    if stored is not None:
        stored = stored.select([name for name in stored.schema.names if name in kept])
    raw = decoded.raw
    if raw is not None:
        places = csv_places(header, kept) if header else None
        cut = [_json_members(one, kept) if places is None else _csv_fields(one, places) for one in raw.records()]
        ends = np.cumsum([len(one) for one in cut], dtype=np.int64)
        raw = RawSlice(b"".join(cut), np.concatenate([np.zeros(1, np.int64), ends])[: len(cut)], ends)
    return Decoded(decoded.rows, decoded.batch, raw, stored, decoded.malformed)


def project_header(header: bytes, kept: frozenset[str]) -> bytes:
    """Return a CSV file's header with the listed columns only, its byte order mark and line ending kept."""
    mark = _BOM if header.startswith(_BOM) else b""
    return mark + _csv_fields(header.removeprefix(_BOM), csv_places(header, kept))


def project_schema(stored: pa.Schema, kept: frozenset[str]) -> pa.Schema:
    """Return a file's own schema with the listed columns only, and metadata that speaks of no other column."""
    metadata = {name: value for name, value in (stored.metadata or {}).items() if name != b"pandas"}
    if _HUGGING_FACE in metadata:
        metadata[_HUGGING_FACE] = _features(metadata[_HUGGING_FACE], kept)
    return pa.schema([field for field in stored if field.name in kept], metadata=metadata or None)


def csv_places(header: bytes, kept: frozenset[str]) -> list[int]:
    """Return which fields of each record belong to the listed columns."""
    names = next(csv.reader(io.StringIO(header.removeprefix(_BOM).decode(), newline="")))
    return [at for at, name in enumerate(names) if name in kept]


def _csv_fields(record: bytes, places: list[int]) -> bytes:
    body = record.rstrip(b"\r\n")
    fields, at = [], 0
    while True:
        match = cast("re.Match[bytes]", _FIELD.match(body, at))
        fields.append(match.group())
        at = match.end() + 1
        if match.end() >= len(body):
            break
    if len(fields) <= max(places, default=-1):
        raise InternalError(f"A record that was decoded has {len(fields)} fields; {max(places) + 1} are needed.")
    line = b",".join(fields[place] for place in places)
    # An empty line is no record, so a single empty field is written with its quotes.
    return (line or b'""') + record[len(body) :]


def _json_members(record: bytes, kept: frozenset[str]) -> bytes:
    text = record.decode()
    end = len(text.rstrip("\r\n"))
    at, members = _skip(text, text.index("{") + 1), []
    while text[at] == '"':
        start = at
        name, at = _VALUES.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        _, at = _VALUES.raw_decode(text, at)
        if name in kept:
            members.append(text[start:at])
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return ("{" + ", ".join(members) + "}" + text[end:]).encode()


def _skip(text: str, at: int) -> int:
    return cast("re.Match[str]", _SPACE.match(text, at)).end()


def _features(data: bytes, kept: frozenset[str]) -> bytes:
    """Return Hugging Face's metadata with the features of the listed columns; as it is where it has another form."""
    try:
        document = json.loads(data)
        features = document["info"]["features"]
        document["info"]["features"] = {name: feature for name, feature in features.items() if name in kept}
    except (ValueError, KeyError, TypeError, AttributeError):
        return b"{}"
    return json.dumps(document).encode()
