import gc
import weakref

import apache_beam as beam

from millcert.pipelines.file_table import FileTable, shared_table
from millcert.pipelines.records import Span, WorkItem

ITEMS = [WorkItem(name, f"/data/{name}", "csv", "north", 7, "ab" * 32) for name in ("b.csv", "ä.csv", "a.csv")]
ITEMS[0] = ITEMS[0]._replace(blocks_sha256="cd" * 32, span=Span(1, 2, 4, 8, 300, 7), steps=(16_384, 9))


def test_a_table_is_the_mapping_that_it_was_made_of() -> None:
    table = FileTable(ITEMS)

    assert list(table) == ["a.csv", "b.csv", "ä.csv"]
    assert table == {item.name: item for item in ITEMS}
    assert table.get("c.csv") is None
    assert len(FileTable()) == 0


def test_a_process_holds_one_table_of_a_form_for_as_long_as_somebody_uses_it() -> None:
    coder = beam.coders.registry.get_coder(object)
    form = coder.encode(FileTable(ITEMS))

    first, second = coder.decode(form), coder.decode(form)

    assert first == FileTable(ITEMS)
    assert second is first
    assert isinstance(first["a.csv"], WorkItem)
    other = shared_table(FileTable(ITEMS[:1]).__reduce__()[1][0])
    assert dict(other) == {"b.csv": ITEMS[0]}
    gone = weakref.ref(first)
    del first, second
    gc.collect()
    assert gone() is None
