"""A decision that a run is about to log and has not published yet, kept until it has: a later run finishes it.

Without this a run that was killed between its ledger entries and its output would be run again as a second decision.
The file stands in the state folder, one for each output, from before the first entry until the output is whole. A run
to the same output that is asked for the same takes time, salts and history from it. So the same data give the same
entries to the last byte, the ledger keeps each of them once, and what was missing is completed.

The file holds the run's secret, and is sealed with a key made of the state folder's `work.key`: erasing evidence
destroys that key, and then nothing can be finished any more.

Format: docs/formats/work-store.md.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from millcert.errors import IntegrityError, MillcertError, StoreError
from millcert.pipelines.history import HISTORY_FILE, history_path
from millcert.pipelines.planning import CODE_VERSION
from millcert.pipelines.publish import LAST, is_local, write_file
from millcert.policy import LoadedPolicy
from millcert.provenance.atomic_file import replace_file
from millcert.provenance.sample_leaf import RunSecret
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields
from millcert.provenance.timestamp import is_timestamp
from millcert.provenance.work_key import derived_key, work_key
from millcert.verdict import verdict_from_mapping

if TYPE_CHECKING:
    from millcert.pipelines.driver import VetOptions

FOLDER = "unpublished"
MAGIC = b"millcert unpublished 1\n"

_NONCE_BYTES, _MAX_BYTES = 12, 4096
_FIELDS = {
    "asked": str,
    "history_digest": str,
    "history_size": int,
    "recorded_at": str,
    "secret": str,
    "verdict_digest": str,
}


@dataclass(frozen=True)
class Decision:
    """What a run decided, as far as one needs to know to say the same again.

    asked: digest of what the run was asked for, see `asked_of`. verdict_digest: hex. recorded_at: the time in its
    entries. history_size: entries of the ledger that it took earlier versions from. secret: of its salts.
    history_digest: of what its checks keep of the version, "" for nothing, None before that is known.
    """

    asked: str
    verdict_digest: str
    recorded_at: str
    history_size: int
    secret: RunSecret
    history_digest: str | None = None


def asked_of(loaded: LoadedPolicy, options: "VetOptions") -> str:
    """Return the digest (hex) of what a run is asked for: policy, data sets by name, views, self-test, code."""
    told = {
        "code": CODE_VERSION,
        "datasets": [_absolute(dataset) for dataset in options.datasets],
        "policy": loaded.digest,
        "selftest": "" if options.selftest is None else hashlib.sha256(options.selftest).hexdigest(),
        "views": "" if options.views is None else _absolute(options.views),
    }
    return hashlib.sha256(canonical_json(told, what="run")).hexdigest()


def keep_decision(state: Path, out: str, decision: Decision) -> None:
    """Write a decision down, durably.

    Raises:
        StoreError: it cannot be written.
    """
    path, told = _path(state, out), vars(decision) | {"secret": decision.secret.secret.hex()}
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + _cipher(state).encrypt(nonce, canonical_json(told, what="decision"), _about(out))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be made: {error.strerror}.", hint="Check the rights.") from error

    def write(stream: IO[bytes]) -> None:
        stream.write(MAGIC + sealed)

    replace_file(path, write)


def read_decision(state: Path, out: str) -> Decision | None:
    """Return the decision that a run to `out` was killed behind, None if there is none.

    One that cannot be read counts as none: its key was destroyed, or the file is damaged.

    Raises:
        StoreError, UsageError: the state folder cannot be used.
    """
    try:
        data = _path(state, out).read_bytes()[: _MAX_BYTES + 1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{_path(state, out)} cannot be read: {error.strerror}.", hint="Check the rights.") from error
    if not data.startswith(MAGIC) or len(data) > _MAX_BYTES:
        return None
    sealed = data[len(MAGIC) :]
    try:
        opened = _cipher(state).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _about(out))
        told = parse_json_object(opened, what="decision", max_bytes=_MAX_BYTES, error=IntegrityError)
        require_fields(told, _FIELDS, what="decision", error=IntegrityError)
        decision = Decision(**{**told, "secret": RunSecret(bytes.fromhex(told["secret"]))})
    except (InvalidTag, ValueError, IntegrityError):
        return None
    return decision if is_timestamp(decision.recorded_at) else None


def is_half_published(out: str) -> bool:
    """Say whether a run to `out` was killed while it copied its output there; a local output is whole or not there.

    Raises:
        StoreError: the store does not answer.
    """
    return not is_local(out) and not FileSystems.exists(f"{out.rstrip('/')}/{LAST[0]}")


def is_published(out: str, decision: Decision) -> bool:
    """Say whether the output at `out` is that of a decision.

    Raises:
        StoreError: the store does not answer.
    """
    uri = f"{out.rstrip('/')}/{LAST[0]}"
    try:
        if not FileSystems.exists(uri):
            return False
        with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            verdict = verdict_from_mapping(json.loads(stream.read()))
    except (ValueError, TypeError, KeyError, MillcertError):
        return False
    except (OSError, BeamIOError) as error:
        raise StoreError(f"Cannot read {uri}: {error}", hint="Check the place, then run again.") from error
    return verdict.digest == decision.verdict_digest


def finish_history(decision: Decision, digest: str, state: Path, published: str) -> Decision:
    """Return a decision with the digest of what its checks keep; what an earlier run kept of it stays as it was.

    That has bits of the machine's linear algebra (history.py), so another machine would give the ledger other bytes.

    Raises:
        StoreError: it cannot be written.
    """
    if decision.history_digest is None:
        return replace(decision, history_digest=digest)
    path = history_path(state, decision.history_digest)
    if digest != decision.history_digest and path.exists():
        write_file(f"{published}/{HISTORY_FILE}", path.read_bytes())
    return decision


def forget_decision(state: Path, out: str) -> None:
    """Remove the decision about an output: it is published, or another one takes its place."""
    try:
        _path(state, out).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{_path(state, out)} cannot be removed: {error.strerror}.", hint="Remove it.") from error


def _path(state: Path, out: str) -> Path:
    return state / FOLDER / hashlib.sha256(_absolute(out).encode()).hexdigest()


def _absolute(place: str) -> str:
    return place.rstrip("/") if "://" in place else str(Path(place).resolve())


def _cipher(state: Path) -> AESGCM:
    return AESGCM(derived_key(work_key(state), "unpublished"))


def _about(out: str) -> bytes:
    return MAGIC + _absolute(out).encode()
