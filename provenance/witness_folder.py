"""The folder of a witness: its name and public keys, its private keys, and what it must never forget.

| file | content |
|---|---|
| witness.vkey | its public keys in text form, one a line; the name is the witness's |
| ed25519.key, ml-dsa-44.key | its private keys, PKCS#8 PEM, mode 0600; one or both |
| state.db | the last checkpoint of each log (`witness`) |
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import StoreError, UsageError
from millcert.provenance.checkpoint import VerifierKey
from millcert.provenance.cosignature import (
    ED25519,
    ML_DSA_44,
    CosignerKey,
    WitnessKey,
    format_witness_vkey,
    generate_ml_dsa_key,
    load_witness_vkeys,
    require_ml_dsa,
    witness_key_of,
)
from millcert.provenance.keys import PRIVATE_MODE, PUBLIC_MODE, create_file, load_key, read_key_file
from millcert.provenance.witness import Witness, WitnessState

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

VKEY_NAME = "witness.vkey"
STATE_NAME = "state.db"

_KEY_NAMES = {ED25519: "ed25519.key", ML_DSA_44: "ml-dsa-44.key"}

#: 32 ML-DSA-44 keys and room.
MAX_VKEY_FILE_BYTES = 64 * 1024


def create_witness(folder: Path, name: str, algorithms: Sequence[int]) -> list[WitnessKey]:
    """Make a witness's folder with new keys; return their public halves.

    Raises:
        UsageError: there is a witness already, the name is none, or ML-DSA-44 is not available.
        StoreError: the folder cannot be written.
    """
    if (folder / VKEY_NAME).exists():
        raise UsageError(
            f"There is a witness in {folder} already.", hint="Serve it, or choose another folder.", path=str(folder)
        )
    made = [(algorithm, _generate(algorithm)) for algorithm in sorted(set(algorithms))]
    public = [witness_key_of(name, key) for _, key in made]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for algorithm, key in made:
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            create_file(folder / _KEY_NAMES[algorithm], pem, PRIVATE_MODE)
        # If we crash before the next line, there is no witness yet, and its keys are in nobody's hands.
        text = "".join(f"{format_witness_vkey(key)}\n" for key in public)
        create_file(folder / VKEY_NAME, text.encode(), PUBLIC_MODE)
    except FileExistsError as error:
        raise UsageError(
            f"{folder} has a witness's key, but no {VKEY_NAME}: making a witness was interrupted there.",
            hint="Remove the folder, or choose another one.",
            path=str(folder),
        ) from error
    except OSError as error:
        raise StoreError(f"The witness's folder {folder} cannot be written: {error.strerror or error}.") from error
    return public


def open_witness(
    folder: Path, logs: Mapping[str, Sequence[VerifierKey]], *, clock: Callable[[], int] = lambda: int(time.time())
) -> Witness:
    """Return the witness in a folder, ready to answer for these logs (origin -> public keys).

    Raises:
        UsageError: there is no witness, a private key is missing, readable by others, or not the public one's.
        StoreError: the folder cannot be read, or its state cannot be written.
    """
    public = read_witness_vkeys(folder / VKEY_NAME)
    keys = [_load(folder / _KEY_NAMES[key.algorithm], key.algorithm) for key in public]
    for key, private in zip(public, keys, strict=True):
        if witness_key_of(key.name, private) != key:
            raise UsageError(
                f"{folder / _KEY_NAMES[key.algorithm]} is not the private half of the key in {VKEY_NAME}.",
                hint="The folder was put together from two witnesses: restore it.",
                path=str(folder),
            )
    return Witness(public[0].name, keys, logs, WitnessState(folder / STATE_NAME), clock)


def read_witness_vkeys(path: Path) -> list[WitnessKey]:
    """Return the witnesses' public keys in a file, one a line.

    Raises:
        UsageError: there is no file, or it holds something else.
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_VKEY_FILE_BYTES).decode("utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(
            f"There are no witness's keys at {path}.", hint="`millcert witness init` makes them.", path=str(path)
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} holds no witness's keys: it is not text.", path=str(path)) from error
    except OSError as error:
        raise StoreError(f"The witness's keys {path} cannot be read: {error.strerror}.", path=str(path)) from error
    return load_witness_vkeys(text)


def _generate(algorithm: int) -> CosignerKey:
    return Ed25519PrivateKey.generate() if algorithm == ED25519 else generate_ml_dsa_key()


def _load(path: Path, algorithm: int) -> CosignerKey:
    return load_key(path) if algorithm == ED25519 else _load_ml_dsa(path)


def _load_ml_dsa(path: Path) -> "MLDSA44PrivateKey":
    require_ml_dsa()
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

    try:
        key = serialization.load_pem_private_key(read_key_file(path, private=True), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not an ML-DSA-44 private key in PEM.", path=str(path)) from error
    if not isinstance(key, MLDSA44PrivateKey):
        raise UsageError(f"{path} is not an ML-DSA-44 private key in PEM.", path=str(path))
    return key
