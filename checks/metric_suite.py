"""A suite of expectations as its file has it: JSON as Great Expectations 1.x writes it, read strictly, without GX."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from millcert.errors import PolicyError

MAX_SUITE_BYTES = 16 * 2**20

_SUITE_KEYS = frozenset({"name", "id", "expectations", "suite_parameters", "meta", "notes"})
_EXPECTATION_KEYS = frozenset(
    {"type", "kwargs", "meta", "id", "notes", "description", "severity", "rendered_content", "expectation_context"}
)


@dataclass(frozen=True)
class SuiteSpec:
    """A suite as its file has it, checked in form only.

    name: the suite's name.
    text: canonical JSON (sorted keys, no spaces) of the whole suite.
    digest: SHA-256 of `text` as UTF-8, hex.
    """

    name: str
    text: str
    digest: str

    @property
    def expectations(self) -> tuple[dict[str, Any], ...]:
        """The expectations, in the file's order."""
        return tuple(json.loads(self.text)["expectations"])


def load_suite(data: bytes) -> SuiteSpec:
    """Read a suite from JSON as GX 1.x writes it. Does not import GX.

    Raises:
        PolicyError: not JSON, a key twice, NaN, an unknown key, no expectations, or more than 16 MiB; `faults` has all.
    """
    if len(data) > MAX_SUITE_BYTES:
        raise PolicyError(f"The suite has {len(data)} bytes; at most {MAX_SUITE_BYTES} are read.")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PolicyError(f"The suite is not JSON: {error}.") from error
    faults = _faults_of(document)
    if faults:
        raise PolicyError(f"The suite cannot be used: {'; '.join(faults)}.", faults=faults)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return SuiteSpec(document["name"], text, hashlib.sha256(text.encode()).hexdigest())


def _faults_of(document: Any) -> list[str]:
    if not isinstance(document, dict):
        return [f"expected an object, got {type(document).__name__}"]
    if "expectation_suite_name" in document:
        return ["it is of GX 0.x (expectation_suite_name); save it with GX 1.x"]
    faults = [f"unknown key {key!r}" for key in sorted(set(document) - _SUITE_KEYS)]
    if not isinstance(document.get("name"), str) or not document["name"]:
        faults.append("it has no name")
    if document.get("suite_parameters"):
        faults.append("suite_parameters are not supported")
    entries = document.get("expectations")
    if not isinstance(entries, list) or not entries:
        return [*faults, "it has no expectations, so it would pass any data"]
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            faults.append(f"expectation {number} has no type")
            continue
        faults += [f"expectation {number}: unknown key {key!r}" for key in sorted(set(entry) - _EXPECTATION_KEYS)]
        if not isinstance(entry.get("kwargs"), dict):
            faults.append(f"expectation {number} ({entry['type']}) has no kwargs")
    return faults


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs]}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
