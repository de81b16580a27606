"""The file of a self-test, and what binds it into a verdict: docs/selftest.md."""

import hashlib
import json
from typing import Any

import rfc8785

from millcert.errors import IntegrityError, UsageError

#: What a file is of.
FORMAT = "millcert.selftest/1"
#: A result has some 3 kB an attack.
MAX_BYTES = 4 << 20


def selftest_bytes(result: dict[str, Any]) -> bytes:
    """Return the file of a result: canonical JSON (RFC 8785) with its own digest, which tells a slip from a result."""
    return rfc8785.dumps({**result, "sha256": _digest(result)})


def _digest(result: dict[str, Any]) -> str:
    return hashlib.sha256(
        rfc8785.dumps({name: value for name, value in result.items() if name != "sha256"})
    ).hexdigest()


def bind_selftest(data: bytes, *, policy_digest: str, code_version: str) -> str:
    """Return the digest of a self-test's file, hex, after it was found to be of this policy and code.

    Raises:
        IntegrityError: it is no file of a self-test, or not as it was written.
        UsageError: it tested another policy or another version of millcert, so it says nothing of this run.
    """
    try:
        result = json.loads(data)
        is_ours = (
            isinstance(result, dict)
            and result.get("format") == FORMAT
            and result.get("sha256") == _digest(result)
            and rfc8785.dumps(result) == data
        )
    except (ValueError, RecursionError):
        is_ours = False
    if not is_ours:
        raise IntegrityError(
            "The self-test's file is not what `millcert selftest --out` writes.",
            hint="Run `millcert selftest` again; do not edit its result.",
        )
    for name, expected in (("policy_digest", policy_digest), ("code_version", code_version)):
        if result.get(name) != expected:
            raise UsageError(
                f"The self-test's {name} is {str(result.get(name))[:80]!r}; this run's is {expected!r}.",
                hint="Run `millcert selftest` again with this policy and version.",
            )
    return hashlib.sha256(data).hexdigest()
