"""A profile as a file: canonical JSON with a digest, strict to read. No pickle; docs/formats/profile.md is the format.

A reader checks, in this order: size, JSON without a key twice, format and version, digest, then every part's form. A
file that passes is the one text for its profile: writing it again gives the same bytes. Files of version 1 are read for
ever, and give the profile that version 2 makes of the same rows, but for its tokens.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple, NoReturn

import numpy as np

from millcert.checks.prefix_table import KEY_BITS, PrefixTable
from millcert.checks.profile import Cell, ColumnProfile, Numbers, Profile, ProfileSpec, Sizes, merge_profiles, sizes_of
from millcert.checks.profile_parts import column_from_json, column_to_json, count_of, counts_of, text_of
from millcert.checks.sketch_distinct import REGISTERS
from millcert.checks.sketch_packing import pack, pack_ascending, unpack_ascending
from millcert.checks.sketch_quantiles import LEAST_LEVEL, NO_QUANTILES, at_level
from millcert.checks.sketch_tokens import TokenTable
from millcert.checks.sketch_values import BUCKETS, NO_BUCKETS
from millcert.errors import DigestMismatchError, IntegrityError, MillcertError, UsageError

FORMAT = "millcert-profile"
VERSION = 2
MAX_PROFILE_BYTES = 1 << 30

#: The keys of a spec and of a file by version, and what the digest is over.
_SINCE_2 = frozenset({"tokens", "token_pairs"})
_KEYS = frozenset({"format", "version", "digest", "spec", "types", "cells"})
_TAGS = {1: b"millcert profile v1\0", 2: b"millcert profile v2\0"}


class LoadedProfile(NamedTuple):
    """A profile with the digest that its file says: that of its own version."""

    profile: Profile
    digest: str


def profile_file(profile: Profile) -> tuple[bytes, str]:
    """Return the one file of a profile, canonical JSON ending in a newline, and its digest."""
    document = _document(profile, VERSION)
    digest = _digest(document, VERSION)
    return _text({**document, "digest": digest}) + b"\n", digest


def profile_bytes(profile: Profile) -> bytes:
    """Return the file of `profile_file`."""
    return profile_file(profile)[0]


def profile_digest(profile: Profile) -> str:
    """Return SHA-256 as hex over the canonical JSON of a profile without its digest."""
    return _digest(_document(profile, VERSION), VERSION)


def digest_in_file(data: bytes) -> str:
    """Return the digest that stands in a profile file, which its content has; its parts are not read.

    Raises:
        UsageError: the file is no profile, or of a version that is not known.
        DigestMismatchError: its content is not what its digest says.
        IntegrityError: it has other keys than a profile.
    """
    return _verified(_parse(data))


def load_profile(data: bytes) -> Profile:
    """Read a profile file.

    Raises:
        UsageError: the file is no profile, or of a version that is not known.
        DigestMismatchError: its content is not what its digest says.
        IntegrityError: a part of it has no meaning, or another text stands for the same profile.
    """
    return load_with_digest(data).profile


def load_with_digest(data: bytes) -> LoadedProfile:
    """Read a profile file, and the digest that stands in it, by which a ledger knows the file whatever its version.

    Raises:
        As `load_profile`.
    """
    document = _parse(data)
    actual, version = _verified(document), document["version"]
    try:
        profile = _profile_of(document, version)
        if version == 1:
            is_canonical = _text({**_document(profile, 1), "digest": actual}) + b"\n" == data
            profile = merge_profiles([_from_version_1(profile)])
        else:
            # A profile that is read is one that merging makes.
            profile = merge_profiles([profile])
            is_canonical = profile_bytes(profile) == data
    except MillcertError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise IntegrityError(f"A part of the profile has no meaning: {type(error).__name__}: {error}.") from error
    if not is_canonical:
        raise IntegrityError("The profile is not in its canonical form.", hint="Make it again with this version.")
    return LoadedProfile(profile, actual)


def _verified(document: dict[str, Any]) -> str:
    """Take the digest out of a document, and return it if it is that of the rest."""
    stated, version = document.pop("digest"), document["version"]
    actual = _digest(document, version)
    if stated != actual:
        raise DigestMismatchError(
            f"The profile says its digest is {str(stated)[:64]!r}, its content has {actual}.",
            hint="The file was changed or cut; make it again, or fetch it again.",
            expected=stated,
            actual=actual,
        )
    return actual


def _digest(document: Mapping[str, Any], version: int) -> str:
    return hashlib.sha256(_TAGS[version] + _text(document)).hexdigest()


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_PROFILE_BYTES:
        raise UsageError(f"The profile has {len(data):,} bytes; at most {MAX_PROFILE_BYTES:,} are read.")
    try:
        document = json.loads(data, object_pairs_hook=_no_key_twice, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The file is no profile: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(f'The file is no profile: it has no "format": "{FORMAT}".')
    version = document.get("version")
    if type(version) is not int or version not in _TAGS:
        raise UsageError(f"The profile has version {version!r}; known are 1 to {VERSION}.")
    if set(document) != _KEYS | ({"tokens"} if version > 1 else set()):
        raise IntegrityError(f"The profile has the keys {', '.join(sorted(document))}.")
    return document


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no whole number")


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _document(profile: Profile, version: int) -> dict[str, Any]:
    spec = {name: value for name, value in asdict(profile.spec).items() if version > 1 or name not in _SINCE_2}
    tokens = {} if version == 1 else {"tokens": {name: _tokens(table) for name, table in profile.tokens.items()}}
    return {
        "format": FORMAT,
        "version": version,
        "spec": spec,
        "types": [[name, text] for name, text in profile.types.items()],
        "cells": [
            {
                "source": source,
                "label": label,
                "rows": cell.rows,
                "columns": {name: column_to_json(column) for name, column in cell.columns.items()},
            }
            for (source, label), cell in sorted(profile.cells.items())
        ],
        **tokens,
    }


def _profile_of(document: Mapping[str, Any], version: int) -> Profile:
    spec = _spec_of(document["spec"], version)
    types = {text_of(name): text_of(text) for name, text in document["types"]}
    count = len(document["cells"])
    if count > spec.max_cells:
        raise IntegrityError(f"The profile has {count} cells; its spec allows {spec.max_cells}.")
    sizes = sizes_of(spec, count)
    if version == 1:
        sizes = Sizes(spec.quantile_buckets, spec.listed_values, REGISTERS, BUCKETS)
    cells = {}
    for entry in document["cells"]:
        if set(entry) != {"source", "label", "rows", "columns"} or set(entry["columns"]) != set(types):
            raise IntegrityError("A cell of the profile has other keys or columns than it must.")
        rows = count_of(entry["rows"])
        columns = {
            name: column_from_json(entry["columns"][name], rows, spec, sizes, is_version_1=version == 1)
            for name in types
        }
        cells[text_of(entry["source"]), text_of(entry["label"])] = Cell(rows, columns)
    tokens = {} if version == 1 else document["tokens"]
    if set(tokens) != set(spec.tokens):
        raise IntegrityError("The profile has tokens of other columns than its spec says.")
    whole = sum(cell.rows for cell in cells.values())
    return Profile(spec, types, cells, {name: _tokens_of(tokens[name], whole, spec) for name in spec.tokens})


def _spec_of(given: Mapping[str, Any], version: int) -> ProfileSpec:
    known = {field.name: field.type for field in fields(ProfileSpec) if version > 1 or field.name not in _SINCE_2}
    if set(given) != set(known):
        raise IntegrityError(f"The profile's spec must have the keys {', '.join(sorted(known))}.")
    spec = dict(given)
    if version > 1:
        spec["tokens"] = tuple(text_of(name) for name in spec["tokens"])
    for name, value in spec.items():
        if type(value) is not (tuple if name == "tokens" else known[name]):
            raise IntegrityError(f"The profile's spec has a {name} of type {type(value).__name__}.")
    return ProfileSpec(**spec)


def _tokens(tokens: TokenTable) -> dict[str, Any]:
    table = tokens.table
    ends = np.searchsorted(table.groups, np.arange(len(tokens.labels) + 1)).tolist()
    return {
        "level": table.level,
        "labels": [
            {
                "label": label,
                "tokens": pack_ascending(table.keys[start:end]),
                "rows": pack(table.counts[start:end]),
            }
            for label, start, end in zip(tokens.labels, ends[:-1], ends[1:], strict=True)
        ],
    }


def _tokens_of(part: Mapping[str, Any], rows: int, spec: ProfileSpec) -> TokenTable:
    if set(part) != {"level", "labels"} or not 0 <= (level := count_of(part["level"])) <= KEY_BITS:
        raise IntegrityError("A table of tokens has other keys than it must, or no such level.")
    labels, found, counts = [], [], []
    for at, entry in enumerate(part["labels"]):
        if set(entry) != {"label", "tokens", "rows"}:
            raise IntegrityError(f"A label of a table of tokens has the keys {', '.join(sorted(entry))}.")
        keys = unpack_ascending(entry["tokens"], spec.token_pairs)
        if not len(keys) or int(keys[-1]) >> (KEY_BITS - level):
            raise IntegrityError("A label of a table of tokens has none, or one beyond its level.")
        labels.append(text_of(entry["label"]))
        found.append((np.uint64(at) << np.uint64(KEY_BITS)) | keys)
        # A row stands in as many pairs as it has tokens with one key: no bound but what a count can be.
        counts.append(counts_of(entry["rows"], len(keys), rows << level if level < 8 else 2**53))
    if labels != sorted(set(labels)) or sum(map(len, found)) > spec.token_pairs:
        raise IntegrityError("The labels of a table of tokens do not ascend, or it has more pairs than its spec says.")
    none = np.zeros(0, dtype=np.uint64)
    return TokenTable(
        tuple(labels),
        PrefixTable(
            level, np.concatenate([none, *found]), np.concatenate([none.astype(np.int64), *counts]).astype(np.int64)
        ),
    )


def _from_version_1(profile: Profile) -> Profile:
    """Return the profile without what version 2 leaves out; `merge_profiles` then makes its sketches fit."""
    cells = {
        name: Cell(cell.rows, {column: _column_from_1(part) for column, part in cell.columns.items()})
        for name, cell in profile.cells.items()
    }
    return profile._replace(cells=cells)


def _column_from_1(column: ColumnProfile) -> ColumnProfile:
    values = column.values
    is_listed = values is not None and values.is_complete
    if values is not None and values.is_complete:
        values = values._replace(buckets=NO_BUCKETS)
    return column._replace(
        numbers=None if column.numbers is None else _numbers_from_1(column.numbers),
        lengths=None if column.lengths is None else _numbers_from_1(column.lengths),
        registers=None if is_listed else column.registers,
        values=values,
    )


def _numbers_from_1(numbers: Numbers) -> Numbers:
    sketch = numbers.quantiles
    return numbers._replace(quantiles=at_level(sketch, LEAST_LEVEL) if len(sketch.keys) else NO_QUANTILES)
