"""The vectors of the work store: an entry that was written once is read for ever, or the format gets another number."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from millcert.pipelines.value_coding import decode_value, encode_value
from millcert.pipelines.work_store import WorkStore
from millcert.provenance.work_key import derived_key

VECTORS = Path(__file__).parents[1] / "vectors/0.2.0/work-store"
TOLD: dict[str, Any] = json.loads((VECTORS / "cases.json").read_text())
#: What the entry holds: one of each plain kind.
VALUE = (None, True, False, -300, 2.5, "é", b"\x00\xff", [1, 2], {"b": 1, "a": (2,)}, {3}, frozenset({4}))


def test_a_name_is_the_digest_of_what_it_depends_on() -> None:
    assert hashlib.sha256(rfc8785.dumps(TOLD["name"]["of"])).hexdigest() == TOLD["name"]["is"]


def test_keys_are_made_of_the_state_folders_key_and_a_purpose() -> None:
    for purpose, key in TOLD["keys"].items():
        assert derived_key(bytes.fromhex(TOLD["work_key"]), purpose).hex() == key


def test_an_entry_opens_to_its_value() -> None:
    store = WorkStore(str(VECTORS / "store"), bytes.fromhex(TOLD["keys"]["run"]))

    data = store.get(TOLD["name"]["is"])

    assert data is not None
    assert data.hex() == TOLD["value"]
    assert decode_value(data) == VALUE
    assert encode_value(VALUE) == data


def test_an_entry_under_another_name_or_key_or_with_another_byte_is_none(tmp_path: Path) -> None:
    name, key = TOLD["name"]["is"], bytes.fromhex(TOLD["keys"]["run"])
    whole = (VECTORS / "store" / name[:2] / name).read_bytes()
    for other, changed, secret in (
        ("0" * 64, whole, key),
        (name, whole, bytes(32)),
        *((name, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], key) for at in range(len(whole))),
    ):
        store = WorkStore(str(tmp_path), secret)
        path = Path(store.path_of(other))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(changed)
        assert store.get(other) is None
        assert store.refused == 1


def test_the_page_is_enough_to_open_an_entry() -> None:
    """Written from docs/formats/work-store.md alone."""
    name = TOLD["name"]["is"]
    entry = (VECTORS / "store" / name[:2] / name).read_bytes()
    magic = b"millcert work 1\n"
    assert entry.startswith(magic)
    size = int.from_bytes(entry[16:20], "big")
    assert size >> 31 == 1
    sealed = entry[20:]
    assert len(sealed) == size & 0x7FFFFFFF
    about = magic + name.encode() + b"\n" + (0).to_bytes(8, "big") + b"\1"
    opened = AESGCM(bytes.fromhex(TOLD["keys"]["run"])).decrypt(sealed[:12], sealed[12:], about)
    pa = pytest.importorskip("pyarrow")
    with pa.input_stream(pa.py_buffer(opened), compression="zstd") as stream:
        assert stream.read().hex() == TOLD["value"]
