"""Faults of a policy file: each with its place, all reported at once."""

from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from millcert.errors import PolicyError

#: A place in the document: keys and list positions from the root.
KeyPath = tuple[str | int, ...]

#: How many faults the text of the error lists; the error's `faults` always has every one.
LISTED_FAULTS = 50


class PolicyFault(NamedTuple):
    """One thing that is wrong with a policy file.

    path: the file, as the caller named it.
    line, column: 1-based; of the value, of the key if the key is wrong, or of the section that lacks a key.
    key: dotted, such as "checks[0].max_flagged_fraction"; "" for the document.
    message: what was expected and what was found.
    """

    path: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        return f"{self.path}:{self.line}:{self.column}: {subject}{self.message}"


def dotted(place: KeyPath) -> str:
    """Return a place as text: ("checks", 0, "config") becomes "checks[0].config"."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def refuse(faults: Iterable[PolicyFault], origin: str) -> NoReturn:
    """Raise one PolicyError that holds every fault, in the order of the file and without repeats.

    Raises:
        PolicyError: always; its `faults` is a tuple of PolicyFault, its message has one line for each.
    """
    ordered = tuple(sorted(set(faults), key=lambda fault: (fault.line, fault.column, fault.key, fault.message)))
    count = "1 fault" if len(ordered) == 1 else f"{len(ordered)} faults"
    lines = [f"{origin} is no valid policy, {count}:", *(f"  {fault}" for fault in ordered[:LISTED_FAULTS])]
    if len(ordered) > LISTED_FAULTS:
        lines.append(f"  and {len(ordered) - LISTED_FAULTS} more")
    raise PolicyError(
        "\n".join(lines),
        hint="Mend the lines named; `millcert policy schema` and docs/policy.md list every key.",
        faults=ordered,
    )
