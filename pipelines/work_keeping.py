"""A worker's end of the work store: what a step found out about a file is kept, and found again by the next run.

Two stores, one code: the run's own, in its staging folder, which a killed run leaves for `--resume`; and one that
outlives runs, where the user asked for it. An entry is a value (accumulators, counts) and a list of the files that
the step wrote to the staging folder, each with its digest. A step is done again unless its value is there, and what
it wrote is there whole, or can be made again from what is kept.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from millcert.errors import StoreError
from millcert.pipelines.output import Written
from millcert.pipelines.plan import PlannedWork, VetPlan
from millcert.pipelines.publish import is_local, write_file
from millcert.pipelines.records import WorkDone
from millcert.pipelines.sample_leaves import read_secret
from millcert.pipelines.value_coding import UncodableError, decode_value, encode_value
from millcert.pipelines.work_store import WorkStore
from millcert.provenance.work_key import FOLDER_NAME, KEY_BYTES, KEY_FILE, derived_key

#: Behind a work's name: the files that it wrote; a copy of one of them; the digests of its rows.
FILES, COPY, ROWS = ".files", ".copy", ".rows"

_COPY_BYTES = 1 << 20


class Recalled(NamedTuple):
    """What was found of a file's work.

    files: those that it wrote that lie in this run's staging folder now, by their places in it. is_placed: these are
    all. is_salted_alike: the run's secret is the one that they were written with.
    """

    value: Any
    is_placed: bool
    is_salted_alike: bool
    files: tuple[Written, ...]


class WorkKeeper:
    """Keeps and recalls work; made once a worker. Without a plan for it, nothing is kept."""

    def __init__(self, plan: VetPlan) -> None:
        self._staging = plan.staging
        self.planned = plan.work
        self._stores: _Stores | None = None
        self._told = (0, 0)

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages of plug-in checks."""
        return () if self.planned is None else self.planned.packages

    def wants(self, size_bytes: int) -> bool:
        """Say whether work on a file of that size is kept: below some size it costs less to do it again."""
        return self.planned is not None and size_bytes >= self.planned.least_bytes

    @property
    def run(self) -> WorkStore:
        """The run's own store."""
        return self._opened().run

    @property
    def kept(self) -> WorkStore | None:
        """The store that outlives runs."""
        return self._opened().kept

    def recall(self, name: str) -> Recalled | None:
        """Return what is kept under a name, None where there is nothing that can be used."""
        value = self._value(name)
        if value is None:
            return None
        for store in self._opened().of_runs:
            listed = store.get(name + FILES)
            if listed is not None:
                salted, files = decode_value(listed)
                wanted = [Written(*one) for one in files]
                placed = tuple(one for one in wanted if self._place(one))
                return Recalled(value[0], len(placed) == len(wanted), salted == self._opened().secret_id, placed)
        return Recalled(value[0], is_placed=False, is_salted_alike=False, files=())

    def remember(self, name: str, value: Any, written: Sequence[Written], *, is_lasting: bool = True) -> bool:
        """Keep what a step found out about a file; say whether that could be done.

        Args:
            name: of the work.
            value: what it found out.
            written: what it wrote to the staging folder.
            is_lasting: False where only this run may use it.
        """
        store = self.kept if is_lasting and self.kept is not None else self.run
        try:
            data = encode_value((value,), self.packages)
        except UncodableError:
            return False
        if not store.put(name, data):
            return False
        return self.list_files(name, written)

    def list_files(self, name: str, written: Sequence[Written]) -> bool:
        """Keep which files of the staging folder belong to a work; say whether that could be done."""
        prefix = f"{self._staging}/"
        files = [(one.uri.removeprefix(prefix), one.sha256, one.size_bytes) for one in written]
        return bool(self.run.put(name + FILES, encode_value((self._opened().secret_id, files))))

    def done(self, step: str, file: str, *, is_reused: bool) -> WorkDone:
        """Return the record that a step is through with a file, and count it."""
        Metrics.counter("millcert", "items_reused" if is_reused else "items_done").inc()
        stores = [] if self._stores is None else self._stores.every
        total = sum(store.refused for store in stores), sum(store.failed for store in stores)
        before, self._told = self._told, total
        return WorkDone(step, file, is_reused, total[0] - before[0], total[1] - before[1])

    def _opened(self) -> "_Stores":
        if self._stores is None:
            run_key, kept_key = read_run_keys(self._staging)
            planned = PlannedWork() if self.planned is None else self.planned
            self._stores = _Stores(
                run=run_store(self._staging, run_key),
                left=tuple(run_store(folder, run_key) for folder in planned.left),
                kept=WorkStore(planned.kept, kept_key) if planned.kept else None,
                secret_id=hashlib.sha256(read_secret(self._staging).secret).hexdigest(),
            )
        return self._stores

    def _value(self, name: str) -> tuple[Any] | None:
        for store in self._opened().every:
            data = store.get(name)
            if data is None:
                continue
            try:
                value: tuple[Any] = decode_value(data, self.packages)
            except UncodableError:
                store.refused += 1
            else:
                return value
        return None

    def _place(self, file: Written) -> bool:
        """Say whether a file lies in the staging folder as it was written, after it was taken from a left one."""
        target = f"{self._staging}/{file.uri}"
        if _is_whole(target, file):
            return True
        for folder in () if self.planned is None else self.planned.left:
            source = f"{folder}/{file.uri}"
            if _is_whole(source, file):
                return _take(source, target)
        return False


class _Stores(NamedTuple):
    """The stores of a run. left: of the runs that it resumes. secret_id: what tells the run's secret from others."""

    run: WorkStore
    left: tuple[WorkStore, ...]
    kept: WorkStore | None
    secret_id: str

    @property
    def of_runs(self) -> tuple[WorkStore, ...]:
        return (self.run, *self.left)

    @property
    def every(self) -> tuple[WorkStore, ...]:
        return self.of_runs if self.kept is None else (*self.of_runs, self.kept)


def _take(source: str, target: str) -> bool:
    """Move a file into the staging folder: nobody writes to the folder that it was left in."""
    try:
        if is_local(source) and is_local(target):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(source).replace(target)
        else:
            FileSystems.copy([source], [target])
    except (OSError, BeamIOError):
        return False
    return True


def _is_whole(uri: str, file: Written) -> bool:
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with open_staged(uri) as stream:
            while chunk := stream.read(_COPY_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
    except (OSError, BeamIOError):
        return False
    return (digest.hexdigest(), size_bytes) == (file.sha256, file.size_bytes)


def open_staged(uri: str) -> Any:
    """Open a file of a staging folder for reading."""
    return FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)


def run_store(staging: str, key: bytes) -> WorkStore:
    """Return the run's own store."""
    return WorkStore(f"{staging}/{FOLDER_NAME}", key)


def place_run_keys(staging: str, key: bytes, kept: str) -> bytes:
    """Put the keys of the run's stores where the workers find them, made of the state folder's; return the first.

    Raises:
        StoreError: the staging folder cannot be written.
    """
    own = derived_key(key, "run")
    write_file(f"{staging}/{KEY_FILE}", own + derived_key(key, f"kept {kept}"))
    return own


def read_run_keys(staging: str) -> tuple[bytes, bytes]:
    """Return the keys of the run's own store and of the one that outlives it, in a worker.

    Raises:
        StoreError: they are not there.
    """
    uri = f"{staging}/{KEY_FILE}"
    try:
        with open_staged(uri) as stream:
            keys = bytes(stream.read())
    except OSError as error:
        raise StoreError(f"The run's keys {uri} cannot be read: {error}", hint="Run again.") from error
    if len(keys) != 2 * KEY_BYTES:
        raise StoreError(f"{uri} holds no keys.", hint="Run again.")
    return keys[:KEY_BYTES], keys[KEY_BYTES:]
