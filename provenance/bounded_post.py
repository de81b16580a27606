"""One HTTP POST to a service that the caller configured: bounded in size and time, followed nowhere.

What comes back is bytes of a stranger. The callers verify signatures on them, so neither TLS nor the network is
trusted.
"""

import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPException
from typing import IO
from urllib.parse import urlsplit

DEFAULT_TIMEOUT_SECONDS = 10.0


class PostFailedError(Exception):
    """No whole answer within the bounds; the text says why."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow nothing: the URL is the caller's configuration."""
        del req, fp, code, msg, headers, newurl


_OPENER = urllib.request.build_opener(_NoRedirect)


def is_service_url(url: str) -> bool:
    """Say whether a URL is http or https with a host, and has no query, fragment or credentials."""
    parts = urlsplit(url)
    is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and is_plain


def post(
    url: str, body: bytes, *, content_type: str, max_answer_bytes: int, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> tuple[int, bytes]:
    """Return the HTTP status and body of the answer; any status is an answer.

    Args:
        url: as `is_service_url` takes it.
        body: what is sent.
        content_type: of the body.
        max_answer_bytes: a longer answer is a failure.
        timeout_seconds: without a byte.

    Raises:
        PostFailedError: the service cannot be reached, breaks off, or answers with too much.
    """
    headers = {"Content-Type": content_type, "User-Agent": "millcert"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - see is_service_url
    try:
        with _OPENER.open(request, timeout=timeout_seconds) as response:
            return response.status, _bounded(response, max_answer_bytes)
    except urllib.error.HTTPError as error:
        with error:
            try:
                return error.code, _bounded(error, max_answer_bytes)
            except (OSError, HTTPException) as broken:
                raise PostFailedError(f"cannot be reached: {broken}") from broken
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise PostFailedError(f"cannot be reached: {reason}") from error


def _bounded(response: IO[bytes], limit: int) -> bytes:
    data = response.read(limit + 1)
    if len(data) > limit:
        raise PostFailedError(f"answered with more than {limit} bytes")
    return data
