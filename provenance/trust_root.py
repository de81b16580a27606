"""The Sigstore trusted root: bytes with the digest that pins them, never fetched and never from a cache."""

import hashlib
import re
from dataclasses import dataclass

from millcert.errors import IntegrityError, PolicyError

_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrustRoot:
    """The bytes of a Sigstore trusted root, with the digest that pins them.

    data: JSON of `application/vnd.dev.sigstore.trustedroot+json;version=0.1`.
    sha256: of `data`, 64 lower-case hex digits.

    Raises:
        IntegrityError: `data` has another digest.
    """

    data: bytes
    sha256: str

    def __post_init__(self) -> None:
        actual = hashlib.sha256(self.data).hexdigest()
        if actual != self.sha256:
            raise IntegrityError(
                f"The trusted root has SHA-256 {actual}, but {self.sha256} is pinned.",
                hint="Compare it with the published one; pin the new digest only after that.",
                expected=self.sha256,
                actual=actual,
            )


def load_trust_root(data: bytes, expected_sha256: str) -> TrustRoot:
    """Return a trusted root that is the pinned one.

    Args:
        data: the bytes of the trusted root's file.
        expected_sha256: the digest that the policy pins, 64 lower-case hex digits.

    Raises:
        PolicyError: the pinned digest is no digest.
        IntegrityError: the bytes have another one.
    """
    if not _HEX64.fullmatch(expected_sha256):
        raise PolicyError(
            f"A trusted root is pinned by 64 lower-case hex digits, got {expected_sha256!r:.80}.",
            hint="Write the output of sha256sum for the trusted root that you checked.",
        )
    return TrustRoot(data, expected_sha256)
