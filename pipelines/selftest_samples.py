"""The samples that a self-test plants its attacks in: a part of the user's own data, held in memory and never written.

The part is the samples with the smallest digests, so it does not depend on the order of files or rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.base import Role
from millcert.checks.planting import Samples
from millcert.checks.sample_digest import sample_digests
from millcert.errors import NotEnoughSamplesError, UsageError
from millcert.pipelines.formats import HEAD_BYTES, SchemaFacts, decode, detect_format, merge_schemas, read_schema
from millcert.pipelines.formats.schema import schema_from_json
from millcert.pipelines.planning import read_limits
from millcert.pipelines.read import digest_array
from millcert.pipelines.records import WorkItem
from millcert.pipelines.roles import ColumnNames, is_list, plan_roles, vector_width
from millcert.pipelines.spool import match_files, read_verified
from millcert.pipelines.view_manifest import PREFIX
from millcert.policy import LoadedPolicy

_BATCH_ROWS = 4096
#: What the kept samples may weigh. Our choice: a laptop holds it several times over.
MAX_BYTES = 2 << 30


@dataclass(frozen=True, eq=False)
class Subject:
    """What is tested: samples, what belongs to each of them, and what they are of.

    digests: uint8 (n, 32). vectors: role -> (n, d), of the user's own columns. input_digest: SHA-256 over the files'
    names and digests, hex. seen: usable samples of the whole data set. widths: of the user's
    vectors, by role.
    """

    samples: Samples
    digests: np.ndarray
    vectors: Mapping[str, np.ndarray]
    input_digest: str
    seen: int
    widths: Mapping[str, int] = field(default_factory=dict)

    def batches(
        self, samples: Samples, views: Mapping[str, np.ndarray], roles: frozenset[Role]
    ) -> list[pa.RecordBatch]:
        """Return planted samples as a check reads them, with the roles that it asks for."""
        found = []
        for start in range(0, len(samples.label), _BATCH_ROWS):
            part = slice(start, start + _BATCH_ROWS)
            columns: dict[str, Any] = {
                "label": pa.array(samples.label[part].tolist(), pa.string()),
                "source": pa.array(samples.source[part].tolist(), pa.string()),
                "sample_digest": digest_array(self.digests[part]),
            }
            if samples.text is not None:
                columns["text"] = pa.array(samples.text[part], pa.string())
            matrices = dict(views)
            if samples.features is not None:
                matrices["features"] = samples.features
            for role, rows in matrices.items():
                kind = np.float64 if role in {"features", "pred_probs"} else np.float32
                flat = np.ascontiguousarray(rows[part], dtype=kind)
                columns[role] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
            chosen = {role: column for role, column in columns.items() if role in roles}
            found.append(pa.RecordBatch.from_arrays(list(chosen.values()), names=list(chosen)))
        return found


@dataclass(frozen=True, eq=False)
class _Kept:
    digests: np.ndarray
    roles: pa.RecordBatch

    def smallest(self, count: int) -> "_Kept":
        order = np.lexsort(self.digests.T[::-1])[:count]
        return _Kept(self.digests[order], self.roles.take(pa.array(order)))


@dataclass(frozen=True, eq=False)
class Listing:
    """The data files of a policy's data set, hashed, and one schema for all of them."""

    items: tuple[WorkItem, ...]
    schema: pa.Schema


def list_files(loaded: LoadedPolicy, datasets: Sequence[str]) -> Listing:
    """Return the data files that files, folders or globs name; reads every file once.

    Raises:
        UsageError, PolicyError, UntrustedSourceError: the policy does not fit the data, or there are none.
        HostileDataError, StoreError: as for reading.
    """
    policy, limits = loaded.policy, read_limits(loaded.policy)
    declared = loaded.files.get("dataset.schema")
    items, found = [], []
    for file in match_files(tuple(datasets), limits=limits):
        if file.format == "auxiliary":
            continue
        source = policy.source_of(file.name).name
        with read_verified(file.uri, expected_sha256=None, limits=limits) as spooled:
            kind = detect_format(file.name, spooled.file.read(HEAD_BYTES))
            facts = read_schema(kind, spooled.file, limits, name=file.name)
            items.append(WorkItem(file.name, file.uri, kind, source, spooled.size_bytes, spooled.sha256))
        if declared is not None and facts.is_inferred:
            facts = SchemaFacts(schema_from_json(declared), is_inferred=False)
        found.append((file.name, facts))
    if not items:
        raise UsageError("The data set has no data file.", hint="Name a file, a folder or a glob that has some.")
    return Listing(tuple(items), merge_schemas(found))


def read_subject(
    loaded: LoadedPolicy, datasets: Sequence[str], *, max_samples: int, listing: Listing | None = None
) -> Subject:
    """Return the `max_samples` samples of a data set with the smallest digests; reads every file once more.

    Raises:
        UsageError, PolicyError, MissingColumnError, UntrustedSourceError: the policy does not fit the data.
        NotEnoughSamplesError: there are no samples.
        HostileDataError, StoreError: as for reading.
    """
    limits = read_limits(loaded.policy)
    roles = {role: column for role, column in loaded.policy.roles().items() if not is_view(column)}
    if "label" not in roles:
        raise UsageError("Labels are needed here.", hint="Name the column: dataset.columns.label.")
    listing = listing or list_files(loaded, datasets)
    widths: dict[str, int] = {}
    kept: _Kept | None = None
    seen = 0
    for item in listing.items:
        with read_verified(item.uri, expected_sha256=item.sha256, limits=limits) as spooled:
            for decoded in decode(item.data_format, spooled.file, listing.schema, limits, name=item.name):
                _learn_widths(roles, decoded.batch, widths)
                view = plan_roles(roles, listing.schema, widths).apply(decoded.batch, item.source)
                seen += view.roles.num_rows
                kept = _added(kept, sample_digests(decoded.batch)[view.usable], view.roles, max_samples)
    if kept is None or not kept.roles.num_rows:
        raise NotEnoughSamplesError("The data set has no usable sample.")
    names = "".join(f"{item.name}\0{item.sha256}\n" for item in listing.items)
    subject = _subject(kept.smallest(max_samples), loaded)
    digest = hashlib.sha256(names.encode()).hexdigest()
    return replace(subject, input_digest=digest, seen=seen, widths=dict(widths))


def is_view(column: ColumnNames) -> bool:
    """Say whether a role is played by a view that `millcert embed` made, and by no column of the data."""
    return isinstance(column, str) and column.startswith(PREFIX)


def _learn_widths(roles: Mapping[Role, ColumnNames], batch: pa.RecordBatch, widths: dict[str, int]) -> None:
    for role, column in roles.items():
        if role in widths or not isinstance(column, str):
            continue
        place = batch.schema.get_field_index(column)
        if place >= 0 and is_list(batch.schema.field(place).type) and (width := vector_width(batch.column(place))):
            widths[role] = width


def _added(kept: _Kept | None, digests: np.ndarray, roles: pa.RecordBatch, most: int) -> _Kept:
    if kept is not None:
        digests = np.concatenate([kept.digests, digests])
        roles = pa.Table.from_batches([kept.roles, roles]).combine_chunks().to_batches()[0]
    both = _Kept(digests, roles)
    if roles.nbytes > 2 * MAX_BYTES:
        raise UsageError(
            f"{roles.num_rows:,} samples weigh more than {2 * MAX_BYTES:,} bytes.", hint="Give a lower --max-samples."
        )
    return both.smallest(most) if roles.num_rows > 2 * most else both


def _subject(kept: _Kept, loaded: LoadedPolicy) -> Subject:
    policy, roles = loaded.policy, kept.roles

    def matrix(role: str) -> np.ndarray | None:
        place = roles.schema.get_field_index(role)
        if place < 0:
            return None
        column = roles.column(place)
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(column), column.type.list_size)

    def texts(role: str) -> np.ndarray:
        return np.array(roles.column(roles.schema.get_field_index(role)).to_pylist(), dtype=object)

    drawn = policy.dataset.images.get(str(policy.roles().get("features")))
    features = matrix("features")
    shape = () if drawn is None or features is None else tuple(drawn.shape)
    has_text = roles.schema.get_field_index("text") >= 0
    samples = Samples(
        texts("label"), texts("source"), features, shape, tuple(texts("text").tolist()) if has_text else None
    )
    vectors = {
        role: rows
        for role in ("embedding_self", "embedding_external", "pred_probs")
        if (rows := matrix(role)) is not None
    }
    return Subject(samples, kept.digests, vectors, "", 0)
