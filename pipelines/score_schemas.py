"""The columns of what the scoring read writes about flagged, malformed and held back samples."""

import pyarrow as pa

from millcert.checks.base import NEIGHBOUR_TYPE

#: What a check of labels suggests; null in findings of other checks (`millcert.checks.base.Suggestions`).
SUGGESTION_FIELDS = (
    pa.field("suggested_label", pa.string()),
    pa.field("given_probability", pa.float64()),
    pa.field("suggested_probability", pa.float64()),
    pa.field("neighbours", pa.list_(NEIGHBOUR_TYPE)),
)
FINDINGS_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("sample_digest", pa.binary(32), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("check", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("votes", pa.list_(pa.string()), nullable=False),
        *SUGGESTION_FIELDS,
    ]
)
MALFORMED_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("byte_offset", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
REASONS_TYPE = pa.list_(
    pa.struct(
        [
            pa.field("check", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("group", pa.string()),
            pa.field("score", pa.float64()),
            pa.field("threshold", pa.float64()),
        ]
    )
)
#: What a quarantine file has before the user's columns.
QUARANTINE_FIELDS = (
    pa.field("millcert_file", pa.string(), nullable=False),
    pa.field("millcert_row", pa.int64(), nullable=False),
    pa.field("millcert_sample_digest", pa.binary(32), nullable=False),
    pa.field("millcert_reasons", REASONS_TYPE, nullable=False),
    pa.field("millcert_kind", pa.string(), nullable=False),
)
