"""Key files: Ed25519 keys in PEM on disk, made once, readable by their owner only.

Rules this module keeps:
  1. A key file appears whole or not at all, and is never written twice: of processes that race, all get one key.
  2. A private key that others can read is refused, not used.
  3. A path that holds something else (a link to nowhere, a folder, another kind of key) is an error, never replaced.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import StoreError, UsageError

#: A PEM file of one Ed25519 key has about 120 bytes.
MAX_KEY_FILE_BYTES = 16 * 1024

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key at `path`, made there if nothing is there; its public half is kept beside it (.pub).

    A new key is PKCS#8 PEM with mode 0600; missing folders are made with mode 0700. Safe to call from several processes
    at once: the file is linked into place, and who comes second reads the first one's key.

    Raises:
        UsageError: the file is no Ed25519 private key, or others can read it.
        StoreError: the folder cannot be written.
    """
    try:
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            with contextlib.suppress(FileExistsError):  # another process was first: use its key
                create_file(path, pem, PRIVATE_MODE)
        key = load_key(path)
        # A crash between the two files is healed here, at the next call.
        if not os.path.lexists(public_key_path(path)):
            with contextlib.suppress(FileExistsError):
                create_file(public_key_path(path), public_pem(key.public_key()), PUBLIC_MODE)
    except OSError as error:
        raise _store_error(path, error) from error
    if key_bytes(load_public_key(public_key_path(path))) != key_bytes(key.public_key()):
        raise UsageError(
            f"{public_key_path(path)} is not the public half of {path}.",
            hint="Delete the .pub file if the private key is the right one; it is then written again.",
            path=str(path),
        )
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key at `path`.

    Raises:
        UsageError: there is no file, it is no unencrypted Ed25519 private key in PEM, or group or others can read it.
        StoreError: the file cannot be read.
    """
    data = read_key_file(path, private=True)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_a_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(path, "private")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key at `path` (SubjectPublicKeyInfo in PEM).

    Raises:
        UsageError: there is no file, or it is no Ed25519 public key in PEM.
        StoreError: the file cannot be read.
    """
    data = read_key_file(path, private=False)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_a_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path, "public")
    return key


def public_key_path(path: Path) -> Path:
    """Return where the public half of the private key at `path` is kept: the same name ending in .pub."""
    return path.with_suffix(".pub")


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_bytes(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of a public key: what two keys are compared by."""
    return key.public_bytes_raw()


def create_file(path: Path, data: bytes, mode: int) -> None:
    """Write a new file that appears whole, durably, and never replaces another.

    Raises:
        FileExistsError: there is something at `path` already.
        OSError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask does not decide who reads a key
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)  # fails if the path exists: here is the one winner
        sync_folder(path.parent)
    finally:
        temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_key_file(path: Path, *, private: bool) -> bytes:
    """Return a key file's bytes, at most MAX_KEY_FILE_BYTES.

    Raises:
        UsageError: there is no file, it is no regular file, or it is private and group or others can read it.
        StoreError: it cannot be read.
    """
    try:
        # O_NONBLOCK: a pipe in the key's place must not hang the gate.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} is not a file, so it is no key.", path=str(path))
            if private and status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise UsageError(
                    f"The private key {path} can be read or written by others (mode {mode:04o}).",
                    hint=f"Assume that it leaked: make a new one, or if you know better: chmod 600 {path}",
                    path=str(path),
                    mode=mode,
                )
            return file.read(MAX_KEY_FILE_BYTES)
    except FileNotFoundError as error:
        kind = "private" if private else "public"
        raise UsageError(f"There is no {kind} key at {path}.", hint="Check the path.", path=str(path)) from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is not a file, so it is no key.", path=str(path)) from error
    except OSError as error:
        raise _store_error(path, error) from error


def _not_a_key(path: Path, kind: str) -> UsageError:
    return UsageError(
        f"{path} is not an Ed25519 {kind} key in PEM (unencrypted).",
        hint="The gate and the ledger sign with Ed25519; other keys cannot stand in for it.",
        path=str(path),
    )


def _store_error(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The key file {path} cannot be read or made: {error.strerror or error}.",
        hint="Check the owner and mode of its folder; nothing was half-written.",
        path=str(path),
    )
