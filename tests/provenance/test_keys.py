"""Key files: made once, whole, private."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import StoreError, UsageError
from millcert.provenance.keys import (
    create_file,
    key_bytes,
    load_key,
    load_or_create_key,
    load_public_key,
    public_key_path,
    public_pem,
)

REPOSITORY = Path(__file__).resolve().parents[2]
RACER = """
import sys
from pathlib import Path
from millcert.provenance.keys import key_bytes, load_or_create_key
sys.stdin.readline()
print(key_bytes(load_or_create_key(Path(sys.argv[1])).public_key()).hex())
"""


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def pem_of(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def write_private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_a_key_is_made_once_and_then_loaded(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "gate.key"

    first = load_or_create_key(path)
    second = load_or_create_key(path)

    assert key_bytes(first.public_key()) == key_bytes(second.public_key())
    assert key_bytes(load_public_key(tmp_path / "keys" / "gate.pub")) == key_bytes(first.public_key())
    assert sorted(child.name for child in path.parent.iterdir()) == ["gate.key", "gate.pub"]


def test_only_the_owner_can_read_a_new_key_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "gate.key"
    before = os.umask(0o000)
    try:
        load_or_create_key(path)
    finally:
        os.umask(before)

    assert (mode_of(path), mode_of(public_key_path(path))) == (0o600, 0o644)


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    """Rule 1: of processes that race, all get one key."""
    path = tmp_path / "keys" / "gate.key"
    command = [sys.executable, "-c", RACER, str(path)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for _ in range(4)
    ]

    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = {racer.communicate()[0] for racer in racers}

    assert [racer.returncode for racer in racers] == [0] * 4
    assert answers == {key_bytes(load_key(path).public_key()).hex() + "\n"}
    assert sorted(child.name for child in path.parent.iterdir()) == ["gate.key", "gate.pub"]


def test_who_comes_second_uses_the_key_of_who_came_first(tmp_path: Path) -> None:
    path = tmp_path / "gate.key"
    create_file(path, b"first", 0o600)

    with pytest.raises(FileExistsError):
        create_file(path, b"second", 0o600)

    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_private_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "gate.key"
    load_or_create_key(path)
    path.chmod(mode)

    with pytest.raises(UsageError, match="by others") as caught:
        load_or_create_key(path)

    assert caught.value.details["mode"] == mode
    assert "chmod 600" in caught.value.hint


def test_a_lost_public_half_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "gate.key"
    key = load_or_create_key(path)
    public_key_path(path).unlink()

    load_or_create_key(path)

    assert key_bytes(load_public_key(public_key_path(path))) == key_bytes(key.public_key())


def test_a_public_half_of_another_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.key"
    load_or_create_key(path)
    public_key_path(path).write_bytes(public_pem(Ed25519PrivateKey.generate().public_key()))

    with pytest.raises(UsageError, match="not the public half"):
        load_or_create_key(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a key",
        pem_of(ec.generate_private_key(ec.SECP256R1())),
        pem_of(Ed25519PrivateKey.generate(), b"password"),
        public_pem(Ed25519PrivateKey.generate().public_key()),
    ],
    ids=["empty", "text", "ecdsa", "encrypted", "public"],
)
def test_what_is_no_private_key_of_ours_is_refused_and_kept(tmp_path: Path, data: bytes) -> None:
    """Rule 3: a path that holds something else is an error, never replaced."""
    path = write_private(tmp_path / "gate.key", data)

    with pytest.raises(UsageError, match="not an Ed25519 private key"):
        load_or_create_key(path)

    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pem_of(Ed25519PrivateKey.generate()),
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "private", "ecdsa"],
)
def test_what_is_no_public_key_of_ours_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "gate.pub"
    path.write_bytes(data)

    with pytest.raises(UsageError, match="not an Ed25519 public key"):
        load_public_key(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no private key at"):
        load_key(tmp_path / "gate.key")
    with pytest.raises(UsageError, match="no public key at"):
        load_public_key(tmp_path / "gate.pub")


def test_a_link_to_nowhere_is_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "gate.key"
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UsageError, match="no private key"):
        load_or_create_key(path)

    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_or_a_pipe_is_no_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.key", 0o600)
    (tmp_path / "folder.key").mkdir()

    for name in ("pipe.key", "folder.key"):
        with pytest.raises(UsageError, match="is not a file"):
            load_key(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreError, match="cannot be read or made"):
        load_or_create_key(tmp_path / "file" / "gate.key")
    with pytest.raises(StoreError, match="cannot be read or made"):
        load_key(tmp_path / "file" / "gate.key")
