"""Admission on an object store: are the objects below this place, byte for byte, what the certificate is about?

As `millcert.provenance.admission` for folders, with what a store has instead: names by a listing, bytes by a read to
the end. A store has no links and no devices. The caller owes that nobody can write below the place between this and the
training job's reads: give the job a bucket, or a prefix under a retention lock, that only the gate writes to.
"""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from millcert.errors import DigestMismatchError, ManifestError, StoreError, UsageError
from millcert.provenance.admission import Admission
from millcert.provenance.certificate import MAX_CERTIFICATE_BYTES, Certificate

_CHUNK_BYTES = 1 << 20
_SHOWN = 10


def read_remote_certificate(uri: str) -> bytes:
    """Return the bytes of a certificate, at most one more than it may have.

    Raises:
        UsageError: there is none, or Beam has no filesystem for the place.
        StoreError: it cannot be read.
    """
    with _translated(uri):
        if not FileSystems.exists(uri):
            raise UsageError(
                f"There is no certificate at {uri}; without one nothing is admitted.",
                hint="Give --certificate, or run `millcert vet` first.",
                path=uri,
            )
        with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            return bytes(stream.read(MAX_CERTIFICATE_BYTES + 1))


def admit_remote(uri: str, certificate: Certificate) -> Admission:
    """Hash every object below `uri` and return the admission, or raise and say which object is not as certified.

    Args:
        uri: what the manifest's paths are relative to, on any of Beam's filesystems.
        certificate: as `verify_certificate` returned it.

    Raises:
        UsageError: there is nothing at `uri`, or Beam has no filesystem for it.
        ManifestError: an object is added or missing.
        DigestMismatchError: an object's size or bytes differ.
        StoreError: the store failed.

    Cost: one read of the data; memory for one buffer and the names.
    """
    prefix, manifest = uri.rstrip("/") + "/", certificate.manifest
    with _translated(uri):
        listed = [each.path.removeprefix(prefix) for each in FileSystems.match([prefix + "**"])[0].metadata_list]
    # Object stores keep empty objects for folders; they hold no byte that a job could train on.
    found = {name for name in listed if name and not name.endswith("/")}
    if not found:
        raise UsageError(f"There is no data at {uri}.", hint="Give the place that was admitted.", path=uri)
    expected = {entry.path for entry in manifest.files}
    if found != expected:
        added, missing = sorted(found - expected), sorted(expected - found)
        parts = (("not in the certificate's manifest", added), ("missing", missing))
        told = "; ".join(f"{', '.join(map(repr, names[:_SHOWN]))}: {what}" for what, names in parts if names)
        raise ManifestError(
            f"The objects under {uri} are not those that were certified: {told}.",
            hint="Copy the admitted folder again as it was published, and train on nothing else.",
            path=(added or missing)[0],
            added=tuple(added),
            missing=tuple(missing),
        )
    for entry in manifest.files:
        with _translated(prefix + entry.path):
            size, actual = _hashed(prefix + entry.path, entry.size_bytes)
        if size != entry.size_bytes or not hmac.compare_digest(actual, entry.sha256):
            raise DigestMismatchError(
                f"The object {entry.path!r} under {uri} has SHA-256 {actual}, certified is {entry.sha256}.",
                hint="It changed after it was certified. Copy the admitted folder again, and train on nothing else.",
                path=entry.path,
                expected=entry.sha256,
                actual=actual,
            )
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    return Admission(uri, manifest.name, manifest.root, len(manifest.files), size_bytes)


def _hashed(uri: str, size_bytes: int) -> tuple[int, str]:
    """Hash an object to its end, or to one byte beyond what it may have."""
    digest, size = hashlib.sha256(), 0
    with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        while size <= size_bytes and (chunk := stream.read(min(_CHUNK_BYTES, size_bytes + 1 - size))):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    # Credentials and endpoints are the environment's, as the store's own client finds them.
    FileSystems.set_options(PipelineOptions([]))
    try:
        yield
    except ValueError as error:
        raise UsageError(
            f"Beam knows no file system for {uri}: {error}",
            hint="Install its extra: gcp, aws, azure or hadoop.",
            path=uri,
        ) from error
    except (OSError, BeamIOError) as error:
        raise StoreError(
            f"{uri} could not be read: {error}", hint="Check the place and the credentials, then try again.", path=uri
        ) from error
