"""Reading a policy: YAML in, a validated and digested policy out, or every fault with its line.

Rules this module keeps:
  1. All faults of a policy and of the files that it names come in one PolicyError, each with line, column and key.
  2. The digest covers what the policy says and the bytes of every file that it names. Comments, order of keys and
     spelling of values do not change it.
  3. What was hashed is what is used: the named files' bytes are read once and handed on in `LoadedPolicy.files`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rfc8785
from pydantic import ValidationError

from millcert.errors import PolicyError, UnknownCheckError, UsageError
from millcert.policy_drift import is_in_ledger
from millcert.policy_faults import KeyPath, PolicyFault, dotted, refuse
from millcert.policy_model import (
    CheckRule,
    Columns,
    Dataset,
    Expectations,
    ImageShape,
    Ledger,
    Limits,
    Policy,
    Signer,
    SourceRule,
    Trust,
    VerdictLimits,
)
from millcert.policy_yaml import MAX_POLICY_BYTES, Document, read_yaml

__all__ = [
    "CheckRule",
    "Columns",
    "Dataset",
    "Expectations",
    "ImageShape",
    "Ledger",
    "Limits",
    "LoadedPolicy",
    "Policy",
    "PolicyFault",
    "Signer",
    "SourceRule",
    "Trust",
    "VerdictLimits",
    "load_policy",
    "parse_policy",
    "policy_digest",
]

#: A suite, a schema or a trusted root is text that people and tools write; more is a mistake.
MAX_NAMED_FILE_BYTES = 16 << 20

_HASH_KEY = re.compile(r"[0-9a-f]{64}\n?")

#: Separates this digest from any other use of the same bytes.
_DIGEST_DOMAIN = "millcert policy v1"

#: Sections and keys that name a file.
_NAMED_FILES = (
    ("dataset", "schema"),
    ("drift", "reference"),
    ("expectations", "suite"),
    ("profile", "hash_key"),
    ("trust", "trusted_root"),
)
#: A profile has some 10 kB a column, source and label.
_MAX_BYTES: Mapping[KeyPath, int] = {("drift", "reference"): 1 << 30, ("profile", "hash_key"): 1024}

_NO_VALUE = "the key has no value"

#: What the findings of a suite are called.
_EXPECTATIONS = "expectations"

#: Roles that the gate fills itself.
_OWN_ROLES = frozenset({"source", "sample_digest"})


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy and all that it names.

    base_dir: the policy file's folder, absolute; the paths of suite, schema and trusted root start there.
    digest: SHA-256 as hex of the policy and of the files that it names; see `policy_digest`.
    files: key -> bytes of each file that the policy names: "dataset.schema", "drift.reference", "expectations.suite",
        "profile.hash_key", "trust.trusted_root". Use these bytes, they are the ones in the digest.
    """

    policy: Policy
    base_dir: Path
    digest: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def load_policy(path: Path) -> LoadedPolicy:
    """Read a policy file and every file that it names.

    Raises:
        UsageError: the policy file itself cannot be read.
        PolicyError: it has faults; `faults` holds all of them, also those of missing files and of a trusted root that
            has another digest than the pinned one.
    """
    origin = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"Cannot read the policy file {origin}: {error.strerror or error}.",
            hint="Give the path of a policy file; `millcert policy init` writes one.",
            path=origin,
        ) from error
    base_dir = path.absolute().parent
    policy, document, faults = _examine(_decoded(raw, origin), origin)
    files: dict[str, bytes] = {}
    if document.is_whole:
        for key, name in _named_files(document.tree):
            content, problem = _read_named(base_dir / name, key)
            if problem is not None:
                faults.append(_fault(document, origin, key, problem))
                continue
            files[dotted(key)] = content
        faults += [_fault(document, origin, place, message) for place, message in _pin_faults(document.tree, files)]
    if faults or policy is None:
        refuse(faults, origin)
    return LoadedPolicy(policy, base_dir, policy_digest(policy, files), files)


def parse_policy(text: str, *, origin: str) -> Policy:
    """Return the policy in a YAML text; `origin` names it in faults. Files that it names are not looked at.

    Raises:
        PolicyError: it has faults; `faults` holds all of them.
    """
    policy, _, faults = _examine(text, origin)
    if faults or policy is None:
        refuse(faults, origin)
    return policy


def policy_digest(policy: Policy, files: Mapping[str, bytes]) -> str:
    """Return SHA-256 as hex over the canonical JSON (RFC 8785) of a policy and the digests of the files it names.

    Args:
        policy: a validated policy.
        files: key -> bytes, as in `LoadedPolicy.files`.
    """
    document = {
        "domain": _DIGEST_DOMAIN,
        "policy": policy.to_document(),
        "files": {key: hashlib.sha256(content).hexdigest() for key, content in files.items()},
    }
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()


def _examine(text: str, origin: str) -> tuple[Policy | None, Document, list[PolicyFault]]:
    """Read, validate and compare with the registered checks; return what could be made, and all faults."""
    document, faults = read_yaml(text, origin)
    if not document.is_whole:
        return None, document, faults
    empty = list(_empty_values(document.tree, ()))
    faults += [_fault(document, origin, place, f"{_NO_VALUE}; give it one, or remove the key") for place in empty]
    settled = document.faulty | set(empty)
    policy: Policy | None = None
    try:
        policy = Policy.model_validate(document.tree)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            place, message = tuple(item["loc"]), str(item.get("ctx", {}).get("message", item["msg"]))
            if document.nearest(place) not in settled or message == "the key is required":
                faults.append(_fault(document, origin, place, message))
    faults += [_fault(document, origin, place, message) for place, message in _check_faults(document.tree)]
    return policy, document, faults


def _fault(document: Document, origin: str, place: KeyPath, message: str) -> PolicyFault:
    known = document.nearest(place)
    missing = place[-1:] if place and isinstance(place[-1], str) and place[-1] not in known[-1:] else ()
    at_key = message.startswith(("unknown key", _NO_VALUE))
    where = document.locate(known, at_key=at_key or bool(missing))
    return PolicyFault(origin, where.line, where.column, dotted((*known, *missing)), message)


def _empty_values(node: object, place: KeyPath) -> Iterator[KeyPath]:
    """Yield the places without a value; a check's own config may have some."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not (len(place) == 2 and place[0] == "checks" and key == "config" and value is not None):
                yield from _empty_values(value, (*place, key))
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield from _empty_values(value, (*place, position))
    elif node is None:
        yield place


def _check_faults(tree: object) -> Iterator[tuple[KeyPath, str]]:
    """Yield what the registered checks say against the policy: names, configuration, columns that they need."""
    from millcert.checks.registry import get_check, list_checks

    checks = tree.get("checks") if isinstance(tree, dict) else None
    if not isinstance(checks, list):
        return
    for position, item in enumerate(checks):
        try:
            rule = CheckRule.model_validate({**item, "max_flagged_fraction": 0.0}) if isinstance(item, dict) else None
        except ValidationError:
            rule = None
        if rule is None:
            continue
        if rule.called in (*list_checks(), _EXPECTATIONS):
            yield ("checks", position, "as"), f"{rule.called} is the name of a check itself; choose another one"
        try:
            check = get_check(rule.check, dict(rule.config))
        except UnknownCheckError as error:
            yield ("checks", position, "check"), str(error)
        except PolicyError as error:
            # The registry names each field that is wrong as "field: message"; a rule between fields names none.
            faults = error.details.get("faults")
            for text in faults if isinstance(faults, tuple) else (error.message,):
                field_name, _, rest = str(text).partition(": ")
                is_field = bool(rest) and field_name in rule.config
                place: KeyPath = ("checks", position, "config", *([field_name] if is_field else []))
                yield place, rest if is_field else f"{rule.check}: {text}"
        else:
            yield from _missing_columns(tree, position, rule.check, check.columns)


def _missing_columns(tree: Any, position: int, name: str, needed: frozenset[str]) -> Iterator[tuple[KeyPath, str]]:
    dataset = tree.get("dataset")
    columns = dataset.get("columns", {}) if isinstance(dataset, dict) else None
    if isinstance(columns, dict):
        for role in sorted(needed - _OWN_ROLES - columns.keys()):
            yield (
                ("checks", position, "check"),
                f"{name} reads the role {role}; name its column as dataset.columns.{role}",
            )


def _named_files(tree: Any) -> Iterator[tuple[KeyPath, str]]:
    for section, key in _NAMED_FILES:
        part = tree.get(section)
        name = part.get(key) if isinstance(part, dict) else None
        if (section, key) == ("drift", "reference") and is_in_ledger(name):
            continue
        if isinstance(name, str) and name and not name.startswith("/") and "\0" not in name:
            yield (section, key), str(name)


def _read_named(path: Path, key: KeyPath) -> tuple[bytes, str | None]:
    most = _MAX_BYTES.get(key, MAX_NAMED_FILE_BYTES)
    try:
        if not path.is_file():
            return b"", f"there is no file {path}"
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        return b"", f"cannot read {path}: {error}"
    if len(content) > most:
        return b"", f"{path} has more than {most:,} bytes"
    if key == ("profile", "hash_key"):
        is_key = _HASH_KEY.fullmatch(content.decode("ascii", "replace")) is not None
        return content, None if is_key else f"expected 64 lower-case hex digits in {path}, and nothing else"
    try:
        is_object = isinstance(json.loads(content), dict)
    except (ValueError, RecursionError) as error:
        return b"", f"expected a JSON object in {path}: {error}"
    return content, None if is_object else f"expected a JSON object in {path}"


def _pin_faults(tree: Any, files: Mapping[str, bytes]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the fault of a trusted root that is not the one whose digest the policy pins."""
    content = files.get("trust.trusted_root")
    pinned = tree["trust"].get("trusted_root_sha256") if content is not None else None
    if content is not None and isinstance(pinned, str):
        actual = hashlib.sha256(content).hexdigest()
        if actual != pinned:
            name = str(tree["trust"]["trusted_root"])
            yield ("trust", "trusted_root_sha256"), f"{name} has SHA-256 {actual}, which is not the pinned {pinned}"


def _decoded(raw: bytes, origin: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        refuse([PolicyFault(origin, before.count(b"\n") + 1, column, "", "expected UTF-8 text")], origin)
