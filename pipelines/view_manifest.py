"""The manifest of views: which file of views belongs to which data file, and what made them (docs/embed.md)."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import rfc8785
from apache_beam.io.filesystems import FileSystems

from millcert.errors import IntegrityError, StoreError, UsageError
from millcert.pipelines.records import WorkItem

VIEWS_FILE = "millcert-views.json"
FORMAT = "millcert.views/1"
#: How a policy names a view: `dataset.columns.embedding_self: view:embedding_self`.
PREFIX = "view:"
MAX_WIDTH = 65_536
_MAX_MANIFEST_BYTES = 256 << 20
_HEX64 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"embedding_(self|external)")


class FileView(NamedTuple):
    """The views of one data file. path: of the data file; of_sha256: its digest; sha256: of the file of views."""

    path: str
    of_sha256: str
    rows: int
    sha256: str

    @property
    def view_path(self) -> str:
        """Where the views stand, below the views' folder."""
        return f"{self.path}.views.parquet"


class View(NamedTuple):
    """One view. kind: "probe", "torch_penultimate", "torch_hidden", "patches", "grams" or "onnx".

    model_sha256: of what it computes with, "" for none.
    """

    name: str
    width: int
    kind: str
    model_sha256: str


@dataclass(frozen=True)
class ViewSet:
    """Views of a whole data set.

    folder: where they are. sha256: of the manifest, hex. files: by the data file's path.
    """

    folder: str
    sha256: str
    input_root: str
    code_version: str
    seed: int
    views: tuple[View, ...]
    files: Mapping[str, FileView] = field(repr=False)

    @property
    def columns(self) -> dict[str, int]:
        """Return column -> width, columns named as a policy names them."""
        return {PREFIX + view.name: view.width for view in self.views}

    def attach(self, items: Sequence[WorkItem]) -> tuple[WorkItem, ...]:
        """Return work items that know their views.

        Raises:
            UsageError: a data file has no views, or views are of a file that is not there.
        """
        missing = sorted({item.name for item in items} ^ set(self.files))
        if missing:
            raise UsageError(
                f"The views in {self.folder} and the data set differ in {len(missing)} files, first {missing[0]!r}.",
                hint="Run `millcert embed` on these very files.",
                path=missing[0],
            )
        return tuple(
            replace_item(item, self.files[item.name], f"{self.folder}/{self.files[item.name].view_path}")
            for item in items
        )


def replace_item(item: WorkItem, view: FileView, uri: str) -> WorkItem:
    """Return a work item with its views' place and digests."""
    return item._replace(view_uri=uri, view_sha256=view.sha256, view_of=view.of_sha256)


def input_root(files: Sequence[tuple[str, str]]) -> str:
    """Return what stands for the input as a whole: SHA-256 over the sorted names and digests of its files, hex."""
    lines = "".join(f"{name}\0{sha256}\n" for name, sha256 in sorted(files))
    return hashlib.sha256(f"millcert views input v1\n{lines}".encode()).hexdigest()


def views_bytes(views: ViewSet) -> bytes:
    """Return the manifest as canonical JSON (RFC 8785); the folder is no part of it."""
    document = {
        "format": FORMAT,
        "input_root": views.input_root,
        "code_version": views.code_version,
        "seed": views.seed,
        "views": [view._asdict() for view in views.views],
        "files": [views.files[path]._asdict() for path in sorted(views.files)],
    }
    return rfc8785.dumps(document)


def read_views(folder: str) -> ViewSet:
    """Return the views of a folder.

    Raises:
        UsageError: there is no manifest.
        IntegrityError: it is not what `millcert embed` writes.
        StoreError: it cannot be read.
    """
    uri = f"{folder.rstrip('/')}/{VIEWS_FILE}"
    try:
        if not FileSystems.exists(uri):
            raise UsageError(f"{folder} holds no {VIEWS_FILE}.", hint="Give the --out of `millcert embed`.")
        with FileSystems.open(uri, compression_type="uncompressed") as stream:
            data = bytes(stream.read(_MAX_MANIFEST_BYTES + 1))
    except OSError as error:
        raise StoreError(f"Cannot read {uri}: {error}", hint="Check the rights, then run again.") from error
    views = _parsed(data, folder.rstrip("/"))
    if views is None or views_bytes(views) != data:
        raise IntegrityError(
            f"{uri} is not what `millcert embed` writes.", hint="Run `millcert embed` again; do not edit its manifest."
        )
    return replace(views, sha256=hashlib.sha256(data).hexdigest())


def _parsed(data: bytes, folder: str) -> ViewSet | None:
    try:
        raw: Any = json.loads(data)
        found = ViewSet(
            folder=folder,
            sha256="",
            input_root=raw["input_root"],
            code_version=raw["code_version"],
            seed=raw["seed"],
            views=tuple(View(**view) for view in raw["views"]),
            files={item["path"]: FileView(**item) for item in raw["files"]},
        )
        digests = [digest for file in found.files.values() for digest in (file.of_sha256, file.sha256)]
        is_sound = (
            raw["format"] == FORMAT
            and all(_HEX64.fullmatch(digest) for digest in (*digests, found.input_root))
            and all(_NAME.fullmatch(view.name) and 0 < view.width <= MAX_WIDTH for view in found.views)
            and found.input_root == input_root([(file.path, file.of_sha256) for file in found.files.values()])
            and all(not {"", ".", ".."} & set(path.split("/")) for path in found.files)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if is_sound else None
