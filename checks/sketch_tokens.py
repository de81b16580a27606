"""Tokens against labels: in how many rows of each label a token stands, by keyed hashes and in bounded memory.

A token is a word of a text (`millcert.checks.token_words`) or an item of a list. Of its keyed 64-bit hash the upper 44
bits count. While the pairs of token and label are few they are all there, exactly; beyond, tokens with equal upper bits
are counted together (`millcert.checks.prefix_table`), and a count is an upper bound of each of its tokens'. No token
stands in a table as text: rare ones are what must not leak. Who has the data finds the token of a hash with
`TokenNames`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.metric_columns import ColumnView, family
from millcert.checks.prefix_table import KEY_BITS, NO_ROWS, PrefixTable, count_rows, merge_tables, regrouped
from millcert.checks.sketch_hash import hash_values
from millcert.checks.token_words import words_of
from millcert.errors import UsageError

#: Tokens of the data that one name may stand for.
MAX_NAMES = 1000

_DROPPED = np.uint64(64 - KEY_BITS)


class TokenTable(NamedTuple):
    """Rows by token and label.

    labels: distinct, sorted; a group of `table` is a place among them. table: its keys are tokens.
    """

    labels: tuple[str, ...]
    table: PrefixTable


NO_TOKENS = TokenTable((), NO_ROWS)


def has_tokens(data_type: pa.DataType) -> bool:
    """Return whether a column of this Arrow type has tokens: text, or lists of texts or whole numbers."""
    types = pa.types
    if types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        return family(data_type.value_type) in ("string", "int")
    return family(data_type) == "string"


def count_tokens(
    column: pa.Array, label_at: np.ndarray, labels: Sequence[str], *, limit: int, key: bytes
) -> TokenTable:
    """Return the table of a batch.

    Args:
        column: n values, of a type that `has_tokens`.
        label_at: int64 (n,): the place of each row's label in `labels`.
        labels: distinct.
        limit: how many pairs of token and label the table has at most; as many labels at least.
        key: 32 bytes.

    Cost: some 10 nanoseconds a byte of text, in parts of a few megabytes.
    """
    order = sorted(range(len(labels)), key=labels.__getitem__)
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(order))
    parts = []
    for rows, tokens in _tokens(column):
        encoded = tokens.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.uint64)
        # A row counts once for each of its tokens, however often the token stands in it.
        pairs = np.sort((rows.astype(np.uint64) << np.uint64(32)) | codes)
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        hashes = hash_values(encoded.dictionary, key) >> _DROPPED
        whose = place[label_at[(pairs >> np.uint64(32)).astype(np.int64)]]
        parts.append(count_rows(whose, hashes[(pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)], limit))
    return _used(tuple(labels[at] for at in order), merge_tables(parts, limit))


def merge_tokens(tables: Sequence[TokenTable], limit: int) -> TokenTable:
    """Return the table of all rows, all made with this limit and one key."""
    labels = tuple(sorted({label for table in tables for label in table.labels}))
    at = {label: number for number, label in enumerate(labels)}
    parts = [
        regrouped(one.table, np.array([at[label] for label in one.labels], dtype=np.int64))
        for one in tables
        if one.labels
    ]
    return TokenTable(labels, merge_tables(parts, limit))


class TokenNames:
    """Finds the tokens that findings mean, in the data. Memory: `MAX_NAMES` tokens of each."""

    def __init__(self, wanted: Iterable[str], key: bytes) -> None:
        """Begin with none found.

        Args:
            wanted: tokens as `millcert.checks.drift_tokens.TokenDrift` names them: "HEX:BITS".
            key: 32 bytes, of the profile.

        Raises:
            UsageError: one of them is no such name.
        """
        self._key = key
        self._wanted: dict[str, tuple[np.uint64, np.uint64]] = {}
        self._found: dict[str, set[str]] = {}
        for name in wanted:
            digits, _, bits = name.partition(":")
            try:
                number, kept = int(digits, 16), int(bits)
            except ValueError:
                number, kept = 0, -1
            if not 0 <= kept <= KEY_BITS or not 0 <= number < 2**kept:
                raise UsageError(f"{name!r} is no token: expected hexadecimal digits, a colon and how many bits.")
            self._wanted[name] = np.uint64(number), np.uint64(KEY_BITS - kept)
            self._found[name] = set()

    def add(self, column: pa.Array) -> None:
        """Look through the values of a column, of a type that `has_tokens`."""
        for distinct, hashes in hash_tokens(column, self._key):
            for name, (number, dropped) in self._wanted.items():
                same = np.flatnonzero(hashes >> dropped == number)[: MAX_NAMES - len(self._found[name])]
                for value in distinct.take(pa.array(same)).to_pylist():
                    self._found[name].add(value.decode(errors="replace") if isinstance(value, bytes) else str(value))

    def found(self) -> dict[str, list[str]]:
        """Return wanted token -> the tokens of the data that it stands for, sorted; several where bits were dropped."""
        return {name: sorted(values) for name, values in self._found.items()}


def hash_tokens(column: pa.Array, key: bytes) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Yield (distinct tokens, the 44 bits that stand for each, uint64) of a column, some rows at a time."""
    for _, tokens in _tokens(column):
        distinct = tokens.unique()
        yield distinct, hash_values(distinct, key) >> _DROPPED


def _tokens(column: pa.Array) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """Yield (row of each token, tokens) of a column."""
    if family(column.type) == "string":
        view = ColumnView(column)
        for rows, words in words_of(view.present):
            yield view.present_at[rows], words
        return
    lengths = np.where(column.is_null(), 0, column.value_lengths().fill_null(0))
    rows = np.repeat(np.arange(len(column)), lengths.astype(np.int64))
    items = ColumnView(column.flatten())
    yield rows[items.present_at], items.present


def _used(labels: tuple[str, ...], table: PrefixTable) -> TokenTable:
    """Leave out labels without a token, so that a table is a function of its pairs."""
    used = np.flatnonzero(np.bincount(table.groups, minlength=len(labels)))
    place = np.zeros(len(labels), dtype=np.int64)
    place[used] = np.arange(len(used))
    return TokenTable(tuple(labels[at] for at in used.tolist()), regrouped(table, place))
