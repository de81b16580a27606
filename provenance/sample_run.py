"""What the ledger says of a run's samples: the `shard_roots` entry and the list of shards that it binds.

A run's rows are in one tree a file; the files are in the shard list, a text of one canonical JSON object a line, sorted
by name; the lines are the leaves of the shard tree, whose root is logged. So one entry of a few hundred bytes binds any
number of rows.

Format: docs/formats/sample-leaves.md.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from millcert.errors import LedgerError, UsageError
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.merkle import leaf_hash, root_of
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields

#: The kind of the entry, and the format that its body names.
KIND = "shard_roots"
FORMAT = "millcert-samples-1"
#: With the findings of single samples.
FINDINGS_FORMAT = "millcert-samples-2"

MAX_LINE_BYTES = 64 * 1024

_HEX = re.compile(r"[0-9a-f]{64}")
_SHARD_FIELDS = {"file": str, "records": int, "root": str, "samples": int, "sha256": str, "source": str}
_RUN_FIELDS = {
    "checks": list,
    "dataset": str,
    "format": str,
    "index_root": str,
    "input_root": str,
    "records": int,
    "samples": int,
    "shards": int,
    "shards_root": str,
    "shards_sha256": str,
    "sources": list,
    "verdict": int,
}


@dataclass(frozen=True)
class Shard:
    """One file. records: its rows, decoded or not; samples: those that decode. root: hex, of the rows' tree.

    sha256: hex, of the file's bytes. source: the policy's name of where it is from.
    """

    file: str
    records: int
    samples: int
    root: str
    sha256: str
    source: str

    def line(self) -> bytes:
        """Return the shard's line in the list, without a line end: the data of its leaf in the shard tree."""
        return canonical_json(
            {
                "file": self.file,
                "records": self.records,
                "root": self.root,
                "samples": self.samples,
                "sha256": self.sha256,
                "source": self.source,
            },
            what="shard",
        )


@dataclass(frozen=True)
class RunRoots:
    """What a `shard_roots` entry says of a run.

    dataset, input_root: as in the verdict. records, samples, shards: counts. shards_root: of the shard tree.
    shards_sha256: of the shard list's bytes. index_root: of the sorted index of `samples` leaves. verdict: index of the
    run's verdict in the ledger. flagged, findings_root: of the tree of findings of single samples; -1 and "" in a run
    of format 1, which has none. checks, sources: indexes of the run's check entries and of its sources' manifests; the
    ledger is append-only, so an index names one entry for ever. All digests in hex.
    """

    dataset: str
    input_root: str
    records: int
    samples: int
    shards: int
    shards_root: str
    shards_sha256: str
    index_root: str
    verdict: int
    checks: tuple[int, ...]
    sources: tuple[int, ...]
    flagged: int = -1
    findings_root: str = ""

    @property
    def has_findings(self) -> bool:
        """Whether the run says what its checks said of single samples."""
        return bool(self.findings_root)

    @property
    def run_id(self) -> str:
        """The name of the run's folders: the shard tree's root, unique because the leaves are salted."""
        return self.shards_root

    def entry(self, recorded_at: str) -> Entry:
        """Return the entry to log.

        Raises:
            UsageError: a time is malformed, or there are so many sources that the entry is too long (about 6,000).
        """
        body: dict[str, Any] = {
            "checks": list(self.checks),
            "dataset": self.dataset,
            "format": FORMAT,
            "index_root": self.index_root,
            "input_root": self.input_root,
            "records": self.records,
            "samples": self.samples,
            "shards": self.shards,
            "shards_root": self.shards_root,
            "shards_sha256": self.shards_sha256,
            "sources": list(self.sources),
            "verdict": self.verdict,
        }
        if self.has_findings:
            body |= {"findings_root": self.findings_root, "flagged": self.flagged, "format": FINDINGS_FORMAT}
        return Entry(KIND, self.input_root, recorded_at, body)


def roots_from(entry: Entry) -> RunRoots:
    """Return what a `shard_roots` entry says.

    Raises:
        LedgerError: it is of another kind or format, or malformed.
    """
    if entry.kind != KIND or entry.body.get("format") not in (FORMAT, FINDINGS_FORMAT):
        raise LedgerError(f"Expected a {KIND} entry of format {FORMAT}, got {entry.kind} {entry.body.get('format')!r}.")
    body = dict(entry.body)
    has_findings = body["format"] == FINDINGS_FORMAT
    fields = {**_RUN_FIELDS, **({"findings_root": str, "flagged": int} if has_findings else {})}
    require_fields(body, fields, what=f"{KIND} entry", error=LedgerError)
    digests = [body[name] for name in ("index_root", "input_root", "shards_root", "shards_sha256")]
    digests += [body["findings_root"]] if has_findings else []
    if not all(_HEX.fullmatch(one) for one in digests) or entry.subject != body["input_root"]:
        raise LedgerError(f"The {KIND} entry has a digest that is none, or another subject than its input.")
    indexes = [body["verdict"], *body["checks"], *body["sources"]]
    if not all(type(one) is int and one >= 0 for one in indexes):
        raise LedgerError(f"The {KIND} entry names an entry by something else than its index.")
    if not 0 <= body.get("flagged", 0) <= body["samples"] <= body["records"] or body["shards"] < 0:
        raise LedgerError(f"The {KIND} entry has counts that cannot be.")
    names = set(fields) - {"format", "checks", "sources"}
    return RunRoots(
        **{name: body[name] for name in names}, checks=tuple(body["checks"]), sources=tuple(body["sources"])
    )


def parse_shard(line: bytes) -> Shard:
    """Return the shard that a line of the list says.

    Raises:
        LedgerError: the line is malformed or not in canonical form.
    """
    value = parse_json_object(line, what="shard", max_bytes=MAX_LINE_BYTES, error=LedgerError)
    require_fields(value, _SHARD_FIELDS, what="shard", error=LedgerError)
    shard = Shard(**value)
    is_sound = 0 <= shard.samples <= shard.records and all(_HEX.fullmatch(one) for one in (shard.root, shard.sha256))
    try:
        is_canonical = shard.line() == line
    except UsageError:
        is_canonical = False
    if not is_sound or not is_canonical:
        raise LedgerError("The shard's line has values that cannot be, or is not canonical JSON.")
    return shard


def format_shards(shards: Sequence[Shard]) -> bytes:
    """Return the shard list: one line a shard, sorted by the UTF-8 bytes of the file name.

    Raises:
        UsageError: the shards are in another order, or a line is too long.
    """
    names = [shard.file.encode() for shard in shards]
    lines = [shard.line() for shard in shards]
    if names != sorted(set(names)) or any(len(line) > MAX_LINE_BYTES for line in lines):
        raise UsageError("Shards must be sorted by file name, each once, with names below 60,000 bytes.")
    return b"".join(line + b"\n" for line in lines)


def parse_shards(data: bytes, roots: RunRoots) -> tuple[Shard, ...]:
    """Return the shards of a list that must be the one that the ledger names.

    Raises:
        LedgerError: it is another list.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != roots.shards_sha256:
        raise LedgerError(
            f"The shard list of run {roots.run_id} is not the one in the ledger.",
            hint="Restore the run's folder in the state folder from a copy.",
            expected=roots.shards_sha256,
            actual=digest,
        )
    return tuple(parse_shard(line) for line in data.split(b"\n") if line)


def shards_root(shards: Sequence[Shard]) -> bytes:
    """Return the root of the shard tree."""
    return root_of(leaf_hash(shard.line()) for shard in shards)
