"""Asking witnesses for cosignatures over HTTP: the client of C2SP tlog-witness.

Rules this module keeps:
  1. Only a cosignature that verifies with a pinned key of that very witness counts; the rest of an answer is ignored.
  2. Everything of an answer is bounded: its size, its time, the number of tries. Nothing is followed elsewhere.
  3. A witness that fails is told by its reason; whether that matters is the caller's rule (`witnessing`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from millcert.errors import MillcertError, UsageError
from millcert.provenance.bounded_post import DEFAULT_TIMEOUT_SECONDS, PostFailedError, is_service_url, post
from millcert.provenance.checkpoint import parse_checkpoint, parse_note
from millcert.provenance.cosignature import WitnessKey, verify_cosignatures
from millcert.provenance.witness_request import format_request, parse_known_size

#: Ten ML-DSA-44 cosignatures and room.
MAX_ANSWER_BYTES = 64 * 1024

#: The first answer may be a 409 that tells the size, and another client may get in between.
_TRIES = 4

#: `prove(old_size, new_size)` returns the consistency proof of the log.
Prover = Callable[[int, int], Sequence[bytes]]


@dataclass(frozen=True)
class WitnessSite:
    """A witness that can be asked.

    keys: its pinned public keys, all of one name.
    url: its submission prefix, http or https.
    """

    keys: tuple[WitnessKey, ...]
    url: str

    def __post_init__(self) -> None:
        names = {key.name for key in self.keys}
        if len(names) != 1:
            raise UsageError(f"The keys of one witness bear one name, got {sorted(names)}.")
        if not is_service_url(self.url):
            raise UsageError(
                f"A witness's URL must be http or https with a host, and no query, got {self.url[:200]!r}.",
                hint="Give its submission prefix, such as https://witness.example/w1.",
            )

    @property
    def name(self) -> str:
        """The witness's name."""
        return self.keys[0].name


class WitnessRefusedError(Exception):
    """One witness gave no cosignature; the text says why.

    known_size: what it says it has, if it says so. is_fork: it says that it has another root at the checkpoint's size,
    or the proof from its checkpoint does not verify.
    """

    def __init__(self, reason: str, *, known_size: int | None = None, is_fork: bool = False) -> None:
        super().__init__(reason)
        self.known_size = known_size
        self.is_fork = is_fork


def ask_witness(
    site: WitnessSite, note: bytes, prove: Prover, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> list[str]:
    """Return the witness's signature lines on a checkpoint, verified, each with its newline.

    Args:
        site: whom to ask.
        note: the signed checkpoint.
        prove: makes the consistency proof from the size that the witness has.
        timeout_seconds: for each request.

    Raises:
        WitnessRefusedError: it cannot be reached, refuses, or answers with nothing that verifies.
    """
    size = parse_checkpoint(parse_note(note).text).size
    old_size = 0
    for _ in range(_TRIES):
        proof = prove(old_size, size) if 0 < old_size < size else ()
        status, body = _post(site.url, format_request(old_size, proof, note), timeout_seconds)
        if status == HTTPStatus.OK:
            return _verified_lines(site, note, body)
        known = parse_known_size(body) if status == HTTPStatus.CONFLICT else None
        if known is None:
            text = body[:200].decode("utf-8", "replace").strip()
            is_fork = status in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}
            raise WitnessRefusedError(f"answered {status}: {text}", is_fork=is_fork)
        if known > size:
            raise WitnessRefusedError(f"has a larger checkpoint already, of {known} entries", known_size=known)
        if known == old_size:
            raise WitnessRefusedError(f"has another root at {known} entries", known_size=known, is_fork=True)
        old_size = known
    raise WitnessRefusedError("its checkpoint moved at every try")


def _verified_lines(site: WitnessSite, note: bytes, body: bytes) -> list[str]:
    text = parse_note(note).text
    known = {(key.name, key.key_id) for key in site.keys}
    found: list[str] = []
    try:
        for line in body.decode("utf-8").splitlines(keepends=True):
            alone = f"{text}\n{line}".encode()
            signature = parse_note(alone).signatures[0]
            if (signature.name, signature.key_id) in known:
                if not verify_cosignatures(alone, site.keys)[0].time:
                    raise WitnessRefusedError("gave a cosignature without a time")
                found.append(line)
    except (MillcertError, UnicodeDecodeError) as error:
        raise WitnessRefusedError(f"gave no valid cosignature: {error}") from error
    if not found:
        raise WitnessRefusedError("gave no cosignature by a key that is pinned for it")
    return found


def _post(url: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
    try:
        return post(
            f"{url.rstrip('/')}/add-checkpoint",
            body,
            content_type="application/octet-stream",
            max_answer_bytes=MAX_ANSWER_BYTES,
            timeout_seconds=timeout_seconds,
        )
    except PostFailedError as error:
        raise WitnessRefusedError(str(error)) from error
