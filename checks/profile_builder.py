"""A profile grown batch by batch: many rows measured at once and merged seldom, as both cost by cell, not by row."""

import pyarrow as pa

from millcert.checks.profile import Profile, ProfileSpec, add_batch, empty_profile, merge_profiles

#: Rows and bytes that are held back until they are measured together.
BUFFERED_ROWS = 1 << 18
BUFFERED_BYTES = 64 << 20
#: Measured parts that are held back until they are merged together.
_PARTS = 6


class ProfileBuilder:
    """Collects the batches of one schema. The result is `add_batch` of all of them, to the last bit.

    Memory: `BUFFERED_BYTES`, and seven times that of the profile.
    """

    def __init__(self, spec: ProfileSpec, schema: pa.Schema) -> None:
        """Begin with no rows.

        Raises:
            MissingColumnError: as `empty_profile`.
        """
        self._empty = empty_profile(spec, schema)
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._source = ""
        self._parts = [self._empty]

    def add(self, batch: pa.RecordBatch, source: str = "") -> None:
        """Take a batch; `source` counts where the spec names no column for it.

        Raises:
            UsageError: there are more cells than the spec allows, or other columns.
        """
        if self._held and (source != self._source or batch.schema != self._held[0].schema):
            self._measure()
        self._source = source
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= BUFFERED_ROWS or self._bytes >= BUFFERED_BYTES:
            self._measure()

    def finish(self) -> Profile:
        """Return the profile of all rows so far.

        Raises:
            UsageError: as `add`.
        """
        self._measure()
        self._parts = [merge_profiles(self._parts)]
        return self._parts[0]

    def _measure(self) -> None:
        if not self._held:
            return
        held, self._held = self._held, []
        self._rows = self._bytes = 0
        source = "" if self._empty.spec.source else self._source
        for batch in pa.Table.from_batches(held).combine_chunks().to_batches():
            self._parts.append(add_batch(self._empty, batch.replace_schema_metadata(None), source))
        if len(self._parts) > _PARTS:
            self._parts = [merge_profiles(self._parts)]
