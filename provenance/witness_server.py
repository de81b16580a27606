"""A witness over HTTP: one path, small requests, and bounds on everything that a stranger decides.

Standard library only. TLS, rate limits and names are a reverse proxy's business; by itself this listens on loopback.
"""

import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from millcert.errors import MillcertError, StoreError
from millcert.provenance.witness import Answer, Witness
from millcert.provenance.witness_request import MAX_REQUEST_BYTES

PATH = "/add-checkpoint"

#: Seconds without a byte, and seconds for a whole body: a proof and a checkpoint are a few kilobytes.
IDLE_SECONDS = 30.0
BODY_SECONDS = 30.0

#: Connections at once; more are closed unanswered, and their clients try again.
MAX_CONNECTIONS = 64

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,9}")


class WitnessServer(ThreadingHTTPServer):
    """Serves one witness; `serve_forever` until `shutdown` is called from another thread.

    witness: who answers.
    address: host and port to listen on; port 0 takes a free one, see `url`.
    log: is told one line for each request, in printable ASCII.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, witness: Witness, address: tuple[str, int], *, log: Callable[[str], None]) -> None:
        self.witness = witness
        self.log = log
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__(address, _Handler)
        except (OSError, OverflowError) as error:
            raise StoreError(
                f"The witness cannot listen on {address[0]} port {address[1]}: {error}.",
                hint="Another process may have the port; give --listen HOST:PORT.",
            ) from error

    @property
    def url(self) -> str:
        """The submission prefix: what clients are given."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Answer in a thread of its own, if there is room for one more."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Answer, then make room again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Tell that a connection broke; the others go on."""
        del request
        self.log(f"{client_address} the connection broke")


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    protocol_version = "HTTP/1.1"
    server_version = "millcert-witness"
    sys_version = ""
    timeout: ClassVar[float] = IDLE_SECONDS

    def do_POST(self) -> None:
        """Answer `add-checkpoint`; anything else is not here."""
        body = self._body()
        if isinstance(body, Answer):
            self.close_connection = True  # what follows is the rest of a body that was not read
            self._send(body)
            return
        if self.path != PATH:
            self._send(_plain(HTTPStatus.NOT_FOUND, f"There is only POST {PATH} here."))
            return
        try:
            self._send(self.server.witness.add_checkpoint(body))
        except MillcertError as error:
            self.server.log(_UNPRINTABLE.sub("?", str(error)))
            self._send(_plain(HTTPStatus.INTERNAL_SERVER_ERROR, "The witness failed; nothing was cosigned."))

    def _body(self) -> bytes | Answer:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not _LENGTH.fullmatch(length):
            return _plain(HTTPStatus.LENGTH_REQUIRED, "A Content-Length is required.")
        if int(length) > MAX_REQUEST_BYTES:
            return _plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {MAX_REQUEST_BYTES} bytes are read.")
        deadline = time.monotonic() + BODY_SECONDS
        parts: list[bytes] = []
        missing = int(length)
        while missing and time.monotonic() < deadline:
            part = self.rfile.read1(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts) if not missing else _plain(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive.")

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Pass one printable line on."""
        self.server.log(_UNPRINTABLE.sub("?", f"{self.address_string()} {format % args}"))


def _plain(status: HTTPStatus, message: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{message}\n".encode())
