"""How many lengths a page in DELTA_LENGTH_BYTE_ARRAY or DELTA_BYTE_ARRAY makes a reader decode at once.

A reader decodes all lengths of such a page before the first value, as many as the stream's own header says; blocks of
bit width 0 make billions of them from a few bytes. So the counts are read here first and must not exceed the page's
values.

Source: Apache Parquet format 2.11, Encodings.md, "Delta encoding (DELTA_BINARY_PACKED = 5)" and the two that use it.
"""

from millcert.pipelines.formats.parquet_thrift import CompactReader, ThriftError


def check_length_counts(body: bytes, start: int, values: int, *, has_prefixes: bool) -> None:
    """Refuse a page whose streams of lengths hold more than the page has values.

    Args:
        body: the page, decompressed.
        start: where its values begin, behind the levels.
        values: what the page's header says.
        has_prefixes: True for DELTA_BYTE_ARRAY: prefix lengths stand before the suffix lengths.

    Raises:
        ThriftError: a stream holds more, or is malformed.

    Cost: some microseconds for each 128 prefix lengths.
    """
    reader = CompactReader(memoryview(body), start)
    if has_prefixes:
        _skip_stream(reader, values)
    _read_count(reader, values)


def _read_count(reader: CompactReader, values: int) -> tuple[int, int, int]:
    """Return (values in a block, miniblocks in a block, values of the stream)."""
    block, miniblocks, count = reader.read_varint(), reader.read_varint(), reader.read_varint()
    reader.read_integer()
    if count > values or miniblocks == 0 or block % miniblocks or block > 1 << 20:
        raise ThriftError(f"a page of {values} values has {count} lengths in blocks of {block}")
    return block, miniblocks, count


def _skip_stream(reader: CompactReader, values: int) -> None:
    block, miniblocks, count = _read_count(reader, values)
    left = count - 1  # the first value stands in the header
    per_miniblock = block // miniblocks
    while left > 0:
        reader.read_integer()
        widths = reader.read_bytes(miniblocks)
        for width in widths:
            if left <= 0:
                break  # miniblocks behind the last value have widths but no bytes
            reader.read_bytes(per_miniblock * width // 8)
            left -= per_miniblock
