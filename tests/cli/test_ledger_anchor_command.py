"""`millcert ledger anchor` and `verify --anchor`, against a timestamp authority on loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from millcert.cli.main import main
from millcert.provenance.checkpoint import parse_note
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.ledger import Entry, open_ledger
from millcert.testing.sigstore_timestamp import make_timestamp_authority

WHEN = "2026-11-23T02:38:55Z"
NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)
TSA = make_timestamp_authority(start=NOW - timedelta(days=1), end=NOW + timedelta(days=1))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a ledger of three entries and the authority's root in `tsa.pem`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    append(tmp_path, 3)
    (tmp_path / "tsa.pem").write_bytes(TSA.root.certificate.public_bytes(serialization.Encoding.PEM))
    return tmp_path


def append(home: Path, size: int) -> bytes:
    key = load_or_create_key(home / ".millcert" / "keys" / "ledger.key")
    with open_ledger(home / ".millcert" / "ledger.db", origin="example.com/l", key=key, create=True) as ledger:
        return ledger.append([Entry("verdict", f"set-{number}", WHEN, {}) for number in range(size)]).checkpoint


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """Start an authority that answers with a status and a token; return its URL."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(status: int, token: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/timestamp-query"
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(token)))
                self.end_headers()
                self.wfile.write(token)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def token_of(home: Path) -> bytes:
    note = (home / ".millcert" / "ledger.checkpoint").read_bytes()
    return TSA.timestamp(parse_note(note).text.encode(), NOW)


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_ledger_is_anchored_and_later_shown_to_be_there_since(
    home: Path, serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(200, token_of(home))

    assert main(["ledger", "anchor", "--tsa", url, "--tsa-chain", "tsa.pem", "--out", "a.anchor"]) == 0
    assert "anchored  example.com/l  3 entries at 2026-11-23T03:00:00+00:00" in capsys.readouterr().out
    append(home, 5)

    verify = ["ledger", "verify", "--anchor", "a.anchor", "--tsa-chain", "tsa.pem"]
    assert main([*verify, "--json"]) == 0
    answer = answer_of(capsys)
    assert (answer["size"], answer["anchored_at"]) == (5, "2026-11-23T03:00:00+00:00")
    assert 3 in answer["compared_sizes"]
    assert main(verify) == 0
    assert "its first 3 entries are there since 2026-11-23" in capsys.readouterr().out

    assert main(["ledger", "export", "tiles"]) == 0
    capsys.readouterr()
    key = ["--key", ".millcert/ledger.vkey"]
    assert main([*verify, "--tiles", "tiles", *key]) == 0
    assert "its first 3 entries are there since 2026-11-23" in capsys.readouterr().out
    assert main(["ledger", "anchor", "--tsa", url, "--tsa-chain", "tsa.pem", "--out", "b", "--json"]) == 3  # 5 by now
    assert not (home / "b").exists()


def test_an_authority_that_fails_leaves_nothing(
    home: Path, serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    for status, token, code in ((503, b"", 5), (200, b"x" * 70_000, 5), (200, b"nonsense", 3)):
        url = serve(status, token)
        assert main(["ledger", "anchor", "--tsa", url, "--tsa-chain", "tsa.pem", "--out", "a"]) == code
    arguments = ["--tsa-chain", "tsa.pem", "--out", "a"]
    assert main(["ledger", "anchor", "--tsa", "http://127.0.0.1:9/", *arguments]) == 5
    assert "cannot be reached" in capsys.readouterr().err
    assert main(["ledger", "anchor", "--tsa", "file:///etc/passwd", *arguments]) == 2
    assert main(["ledger", "anchor", "--tsa", url, "--tsa-chain", "nothing", "--out", "a"]) == 2
    assert not (home / "a").exists()


def test_an_anchor_and_its_chain_come_together_and_alone(home: Path, serve: Callable[[int, bytes], str]) -> None:
    url = serve(200, token_of(home))
    assert main(["ledger", "anchor", "--tsa", url, "--tsa-chain", "tsa.pem", "--out", "a"]) == 0

    assert main(["ledger", "verify", "--anchor", "a"]) == 2
    assert main(["ledger", "verify", "--tsa-chain", "tsa.pem"]) == 2
    chain = ["--tsa-chain", "tsa.pem"]
    assert main(["ledger", "verify", "--anchor", "a", *chain, "--checkpoint", ".millcert/ledger.checkpoint"]) == 2
    assert main(["ledger", "verify", "--anchor", "nothing", *chain]) == 2
