"""Points in time as text: RFC 3339 in UTC, with `Z`, to the second or finer. The clock is never read here."""

import re
from datetime import UTC, datetime

from millcert.errors import UsageError

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")


def is_timestamp(text: str) -> bool:
    """Say whether the text is such a point in time, of a day that exists: `2026-11-23T02:38:55Z`."""
    if not _FORM.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def instant(text: str) -> datetime:
    """Return the point in time that a text says, in UTC.

    Raises:
        UsageError: it is none.
    """
    if not is_timestamp(text):
        raise UsageError(
            f"Expected a time in UTC such as 2026-11-23T02:38:55Z, got {text[:80]!r}.", hint="The Z is part of it."
        )
    return datetime.fromisoformat(text).astimezone(UTC)


def stamp(moment: datetime) -> str:
    """Return a point in time, to the second, as text; `moment` has a time zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
