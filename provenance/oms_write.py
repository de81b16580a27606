"""The statement of an OpenSSF model signature, written: version 1, whole files, with our name-binding root besides.

The format's own subject digest is over the files' digests alone, so a renamed folder (another label) keeps it. Beside
it stands what binds names, sizes and count: the root of our manifest, under a key of our own, which readers of version
1 pass over (its authors: any field of the predicate but two is ignored by verifiers) and our reader checks.

Source: the model signing specification 1.0. Format: docs/formats/oms.md.
"""

import hashlib
from collections.abc import Sequence

from millcert.errors import ManifestError
from millcert.provenance.digest import BOOKKEEPING
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.oms import EXTENSION, PREDICATE_V1
from millcert.provenance.statement import STATEMENT_TYPE
from millcert.provenance.strict_json import canonical_json

_VERSION = 1
#: What the tool leaves out of a folder by itself, so it would find a listed one of these missing.
_LEFT_OUT = (".git", ".gitattributes", ".github", ".gitignore")


def model_statement(manifest: Manifest, ignored: Sequence[str] = ()) -> bytes:
    """Return the statement (in-toto v1, JSON) that an envelope of a model signature holds.

    Args:
        manifest: the files that are signed; its name becomes the subject's. Facts about rows are not in this format.
        ignored: paths of files beside them that are not signed, such as the signature's own.

    Raises:
        ManifestError: there is no file, or one under a name that the format's own tool leaves out.
    """
    hidden = [entry.path for entry in manifest.files if entry.path.split("/")[0] in _LEFT_OUT]
    if hidden or not manifest.files:
        found = f"{hidden[0]!r}, which its tools leave out" if hidden else "no file"
        raise ManifestError(
            f"A model signature cannot list {found}.", hint="Move it out of the folder, or sign a manifest instead."
        )
    # The signing tool's order is by segments, and its verifier's subject digest is in the order of the list.
    entries = sorted(manifest.files, key=lambda entry: entry.path.split("/"))
    files = tuple(FileEntry(entry.path, entry.size_bytes, entry.sha256) for entry in entries)
    joined = b"".join(bytes.fromhex(entry.sha256) for entry in entries)
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": manifest.name, "digest": {"sha256": hashlib.sha256(joined).hexdigest()}}],
            "predicateType": PREDICATE_V1,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": sorted({*ignored, *_LEFT_OUT, *BOOKKEEPING}),
                },
                "resources": [{"name": entry.path, "algorithm": "sha256", "digest": entry.sha256} for entry in entries],
                EXTENSION: {
                    "root": Manifest(manifest.name, files).root,
                    "size_bytes": [entry.size_bytes for entry in entries],
                    "version": _VERSION,
                },
            },
        },
        what="model signature's statement",
    )
