"""The state folder: where a gate keeps its keys and its ledger, and where verifiers find the public halves.

| public, or not secret | private |
|---|---|
| ledger.db, the ledger; ledger.vkey, its public key; ledger.checkpoint, the last one seen | keys/ledger.key |
| keys/gate.pub, the gate's public key | keys/gate.key |
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from millcert.errors import StoreError, UsageError
from millcert.provenance.checkpoint import VerifierKey, parse_vkey
from millcert.provenance.keys import load_public_key

#: Environment variable that names the state folder where no option does.
HOME_VARIABLE = "MILLCERT_HOME"

DEFAULT_FOLDER = ".millcert"

_MAX_VKEY_FILE_BYTES = 64 * 1024


@dataclass(frozen=True)
class StateFolder:
    """Paths in one state folder; none of them need exist."""

    path: Path

    @property
    def ledger(self) -> Path:
        """The ledger's database."""
        return self.path / "ledger.db"

    @property
    def ledger_vkey(self) -> Path:
        """The ledger's public key, in C2SP's text form."""
        return self.path / "ledger.vkey"

    @property
    def gate_public_key(self) -> Path:
        """The gate's public key, in PEM."""
        return self.path / "keys" / "gate.pub"


def state_folder(chosen: Path | None = None) -> StateFolder:
    """Return the chosen state folder, else $MILLCERT_HOME, else `.millcert` in the working directory."""
    return StateFolder(chosen or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_FOLDER))


def load_gate_keys(paths: Iterable[Path]) -> list[Ed25519PublicKey]:
    """Return the gate's public keys.

    Raises:
        UsageError: a file is missing or holds no Ed25519 public key.
    """
    return [load_public_key(path) for path in paths]


def load_ledger_vkeys(paths: Iterable[Path]) -> list[VerifierKey]:
    """Return the ledger's public keys: one a line in each file, empty lines passed over.

    Raises:
        UsageError: a file is missing, holds no key, or something else.
        StoreError: a file cannot be read.
    """
    keys: list[VerifierKey] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_VKEY_FILE_BYTES).decode("utf-8")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UsageError(
                f"There is no ledger key file at {path}.", hint="Check the path.", path=str(path)
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is no ledger key file: it is not text.", path=str(path)) from error
        except OSError as error:
            raise StoreError(f"The ledger key file {path} cannot be read: {error.strerror}.", path=str(path)) from error
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            raise UsageError(f"{path} holds no ledger key.", hint="Expected one name+hash+key a line.", path=str(path))
        keys.extend(parse_vkey(line) for line in lines)
    return keys
