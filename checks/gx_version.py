"""Which version of Great Expectations is installed, and whether it is one that millcert was tested with.

GX promises little of what an engine needs of it, so another version is refused, before it is imported, with what to
install. Packaging pins the same range (tests/checks/test_gx_adapter.py compares them).
"""

import importlib
import os
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from millcert.errors import UsageError

#: The versions that the tests have run with: from the first, up to but without the second.
TESTED_LEAST, TESTED_BELOW = (1, 24), (1, 25)
#: The same, as packaging writes it.
TESTED = ">={}.{},<{}.{}".format(*TESTED_LEAST, *TESTED_BELOW)


def version_of() -> str:
    """Return the version of GX that is installed; does not import it.

    Raises:
        UsageError: none is.
    """
    try:
        return metadata.version("great-expectations")
    except metadata.PackageNotFoundError as error:
        raise UsageError(
            "A suite needs Great Expectations, which is not installed.",
            hint=f"pip install 'great-expectations{TESTED}'",
        ) from error


def require_tested(version: str | None = None) -> str:
    """Return the version of GX that is installed, if it is one that millcert was tested with; does not import it.

    Args:
        version: the version to judge; None for the installed one.

    Raises:
        UsageError: it is not, or there is none.
    """
    found = version_of() if version is None else version
    numbers = [part for part in found.split(".")[:2] if part.isdigit()]
    if len(numbers) < 2 or not TESTED_LEAST <= (int(numbers[0]), int(numbers[1])) < TESTED_BELOW:
        raise UsageError(
            f"Great Expectations {found} is installed; this millcert was tested with {TESTED}.",
            hint=f"pip install 'great-expectations{TESTED}'",
            expected=TESTED,
            actual=found,
        )
    return found


def require_usable(touchpoints: Sequence[str]) -> None:
    """Import GX, if it is a version that was tested and has all of some names.

    Args:
        touchpoints: "module:name.name" each.

    Raises:
        UsageError: it is not, or lacks any, which are named.
    """
    found = require_tested()
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = [each for each in ("great_expectations:", *touchpoints) if not _is_there(each)]
    if missing:
        raise UsageError(
            f"Great Expectations {found} lacks what millcert needs of it: {', '.join(missing)}.",
            hint=f"pip install --force-reinstall 'great-expectations{TESTED}'",
            missing=missing,
        )


def _is_there(touchpoint: str) -> bool:
    module, _, path = touchpoint.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split(".") if path else ():
            # A field of a model, or an annotation without a value, is no attribute of its class.
            bases = getattr(found, "__mro__", ())
            found = (
                None if any(name in vars(base).get("__annotations__", ()) for base in bases) else getattr(found, name)
            )
    except (ImportError, AttributeError):
        return False
    return True
