"""Points in time as text: RFC 3339 in UTC, with `Z`, to the second or finer. The clock is never read here."""

import re
from datetime import datetime

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
