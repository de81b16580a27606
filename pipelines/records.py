"""What crosses a stage besides record batches: small values, one a file or one a run.

A worker never raises for what the data does: it emits a `Fault`, and the driver turns that into the error it names. An
exception inside a Beam stage would lose its class on the way, and on some runners it would be retried for ever.

These values use Beam's default coder: there are few of them, and a row coder would hand another process a generated
class without their methods.
"""

from typing import Any, NamedTuple, TypeAlias

from millcert.checks.fusion import Cell
from millcert.errors import InternalError, MillcertError
from millcert.pipelines.formats.base import FORMATS, Format
from millcert.provenance.compact_range import Subtree


class Span(NamedTuple):
    """A part of a large file that one worker reads: row groups [first_group, end_group), spans 0 to spans - 1 in order.

    first_row: the record's index in the file of its first one. size_bytes: what is read of the file.
    """

    number: int
    spans: int
    first_group: int
    end_group: int
    first_row: int
    size_bytes: int


class WorkItem(NamedTuple):
    """One file of the data set, or a span of it: the unit of work of every pass.

    name: the manifest path (POSIX, relative). source: the name of the policy's rule for it. sha256: "" before the
    file was hashed; afterwards every read of it must meet this digest. view_uri, view_sha256: its file of views, and
    view_of: the digest of the data file that they were made of; "" where the run has no views. blocks_sha256: hex, of
    the list of its blocks' digests, "" where there is none (blocks.py). span: None for the whole file. steps: of a
    small Parquet file, how many rows of each row group may be decoded at once, as its bytes say; () where each reader
    finds that out.
    """

    name: str
    uri: str
    format: str
    source: str
    size_bytes: int
    sha256: str
    view_uri: str = ""
    view_sha256: str = ""
    view_of: str = ""
    blocks_sha256: str = ""
    span: Span | None = None
    steps: tuple[int, ...] = ()

    @property
    def unit(self) -> str:
        """What tells the unit of work from all others: the file's name, behind it the number of a span."""
        return unit_name(self.name, self.span)

    @property
    def read_bytes(self) -> int:
        """How many bytes a pass reads of it."""
        return self.size_bytes if self.span is None else self.span.size_bytes

    @property
    def data_format(self) -> Format:
        """The format of a data file. Beam's row coder knows text only, so the field is text.

        Raises:
            InternalError: the file is auxiliary; nobody may decode it.
        """
        if self.format not in FORMATS:
            raise InternalError(f"{self.name} is {self.format} and holds no samples.")
        return self.format


class Fault(NamedTuple):
    """A broken promise met by a worker, as a value: the code names the error class that the driver raises."""

    code: str
    message: str
    hint: str
    file: str


class WorkDone(NamedTuple):
    """A step is through with a file. is_reused: the file was not read, because the work of an earlier run was found.

    refused: entries of the work store that were not ours, met since the last record. failed: what it would not read or
    write.
    """

    step: str
    file: str
    is_reused: bool
    refused: int = 0
    failed: int = 0


#: What a pass says of a file besides what it found: that something is wrong, or that it is through.
Note: TypeAlias = Fault | WorkDone


class FileDigest(NamedTuple):
    """What hashing a file gave. `item.sha256` is set.

    others: (algorithm, digest in hex) of the same bytes, for each further algorithm that the file's source allows.
    work: whether that was done in this run.
    """

    item: WorkItem
    fault: Fault | None
    others: tuple[tuple[str, str], ...] = ()
    work: WorkDone | None = None


class FileSchema(NamedTuple):
    """What a file says of its columns. schema: Arrow IPC schema bytes; widths: role -> list length in its first row.

    work: whether that was found out in this run. spans: how it is read; none where it is read as a whole. steps: as
    those of its work items.
    """

    name: str
    schema: bytes
    is_inferred: bool
    widths: dict[str, int]
    fault: Fault | None
    work: WorkDone | None = None
    spans: tuple[Span, ...] = ()
    steps: tuple[int, ...] = ()


class ShardFacts(NamedTuple):
    """What the first full read of a file found.

    records: all of them. rows: those that decode, whatever role they can play. row_tree_root: hex, RFC 6962 tree over
    the rows' sample digests, in row order. digests_sha256: hex, of the file's digest sidecar; "" where none is kept.
    """

    name: str
    records: int
    rows: int
    row_tree_root: str
    digests_sha256: str = ""

    @property
    def unit(self) -> str:
        """As that of the file's work item."""
        return self.name


class SpanFacts(NamedTuple):
    """What the first full read of a span found; `ShardFacts` says the rest.

    subtrees: of the rows' tree, where no record before the span is malformed. decoded_bytes: what it decoded to.
    """

    name: str
    span: Span
    records: int
    rows: int
    subtrees: tuple[Subtree, ...]
    decoded_bytes: int
    digests_sha256: str = ""

    @property
    def unit(self) -> str:
        """As that of the span's work item."""
        return unit_name(self.name, self.span)


class FailingRows(NamedTuple):
    """The rows of one file that fail expectations: its name and SHA-256, how many, and their digest (row_digest.py)."""

    name: str
    file_sha256: str
    rows: int
    digest: str


class FileOutcome(NamedTuple):
    """Where a file's samples went, and what the checks said of them.

    rows: all records = admitted + quarantined + malformed. flagged, scored: check name -> count; flagged_any: samples
    that at least one check flagged. histogram: check name -> {bin -> (samples, flagged)}; bins are those of
    `score_bin`.
    thresholds: check name -> the lowest threshold that a flagged sample was above, None where there is no such sample.
    votes: (source, class, checks) -> how many samples exactly these checks flagged (`millcert.pipelines.fuse`).
    released: leaf of an override -> how many samples it kept out of quarantine.
    doubted: of the quarantined ones, how many nothing but a doubted label holds.
    output_*: of the file under admitted/. output_row_tree_root: over what is admitted; "" where that is the whole file,
    which is then copied byte for byte. findings: rows of the file's findings part. metrics: what the expectations'
    second plan measured. held_by: number of an expectation -> how many samples it holds back.
    failing: the file's rows that fail expectations, by their digest; None where no suite was asked.
    """

    name: str
    source: str
    rows: int
    malformed: int
    admitted: int
    quarantined: int
    flagged: dict[str, int]
    scored: dict[str, int]
    flagged_any: int
    histogram: dict[str, dict[int, tuple[int, int]]]
    thresholds: dict[str, float | None]
    output_sha256: str
    output_size_bytes: int
    output_row_tree_root: str
    findings: int
    votes: dict[Cell, int] = {}  # noqa: RUF012 - never changed
    released: dict[str, int] = {}  # noqa: RUF012 - never changed
    metrics: dict[str, Any] = {}  # noqa: RUF012 - never changed
    held_by: dict[int, int] = {}  # noqa: RUF012 - never changed
    failing: FailingRows | None = None
    doubted: int = 0


def unit_name(name: str, span: Span | None) -> str:
    """Return what tells a unit of work from all others. No file's name has a NUL, so no file is taken for a span."""
    return name if span is None else f"{name}\0{span.number}"


def groups_of(item: WorkItem) -> tuple[int, int] | None:
    """Return the row groups [first, end) of a unit of work; None for all."""
    return None if item.span is None else (item.span.first_group, item.span.end_group)


class CheckFailure(NamedTuple):
    """Stands where a model would: the check could not be fitted, so the gate is inconclusive."""

    code: str
    message: str


def fault_from(error: MillcertError, *, file: str = "") -> Fault:
    """Return the value that stands for `error`."""
    return Fault(code=error.code, message=error.message, hint=error.hint, file=file)


def error_from(faults: list[Fault]) -> MillcertError:
    """Return the error that stands for `faults`: the class of the gravest one, with the messages of all.

    Integrity failures come first, then usage, then the rest, so that the exit code tells the worst that happened.
    """
    by_code = _error_classes()
    ordered = sorted(faults, key=lambda fault: (_gravity(by_code.get(fault.code, InternalError).exit_code), fault))
    worst = ordered[0]
    kind = by_code.get(worst.code, InternalError)
    messages = list(dict.fromkeys(fault.message for fault in ordered))
    shown = messages[:20] + ([f"... and {len(messages) - 20} more"] if len(messages) > 20 else [])
    return kind("\n".join(shown), hint=worst.hint, file=worst.file)


def _gravity(exit_code: int) -> int:
    return {3: 0, 70: 1, 2: 2, 5: 3, 4: 4}.get(exit_code, 5)


def _error_classes() -> dict[str, type[MillcertError]]:
    # The base class has the code of InternalError; what is raised is the class that says what it is.
    found: dict[str, type[MillcertError]] = {InternalError.code: InternalError}
    pending: list[type[MillcertError]] = [MillcertError]
    while pending:
        kind = pending.pop()
        found.setdefault(kind.code, kind)
        pending.extend(kind.__subclasses__())
    return found
