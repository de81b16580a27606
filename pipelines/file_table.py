"""The files of a data set by name, as one value that a process holds once however often it is handed to it.

A runner decodes what a step takes from all files together for every step anew, and keeps each copy until the job ends:
with 100,000 files a dozen tables of them. What travels is the table's own form; a process that has a table of that
form already takes it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from millcert.pipelines.records import Span, WorkItem

#: Form's digest -> table, for as long as anybody holds it.
_TABLES: "WeakValueDictionary[bytes, FileTable]" = WeakValueDictionary()


class FileTable(Mapping[str, WorkItem]):
    """Files by name, sorted; not changed once made."""

    def __init__(self, items: Iterable[WorkItem] = ()) -> None:
        self._items = {item.name: item for item in sorted(items, key=lambda item: item.name)}

    def __getitem__(self, name: str) -> WorkItem:
        """Return the file of that name."""
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names in order."""
        return iter(self._items)

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self._items)

    def __reduce__(self) -> tuple[Callable[[bytes], "FileTable"], tuple[bytes]]:
        """Travel as JSON."""
        return shared_table, (json.dumps([list(item) for item in self._items.values()]).encode(),)


def shared_table(form: bytes) -> FileTable:
    """Return the table of a form: the one that this process has, or a new one."""
    key = hashlib.sha256(form).digest()
    table = _TABLES.get(key)
    if table is None:
        table = _TABLES[key] = FileTable(_item(fields) for fields in json.loads(form))
    return table


def _item(fields: Sequence[Any]) -> WorkItem:
    """Return the file that was written as a list; JSON has no tuples."""
    item = WorkItem(*fields)
    return item._replace(span=None if item.span is None else Span(*item.span), steps=tuple(item.steps))
