"""What a file's work depends on, as one name: with other code, policy, state or bytes nothing is found under it.

    name = SHA-256 of the canonical JSON (RFC 8785) of
      format   "millcert-work-1"
      code     digest of the source of millcert and of the checks' packages, with the versions of what they compute with
      step     "hash", "describe", "pass N" or "score"
      policy   digest of what the policy asks of this step: checks with their configurations, roles, limits, ...
      state    digest of what the step takes from all files together: schema, roles, models of the pass before
      file     name, source, format, size, digests and rows of the file and of its views

Nothing else reaches the functions that do the work, so equal names mean equal work. What has no form in bytes (a
plug-in's model, say) has no name, and its work is not kept.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rfc8785

from millcert.pipelines.plan import PlannedCheck
from millcert.pipelines.records import WorkItem
from millcert.pipelines.value_coding import OUR_PACKAGE, digest_of

FORMAT = "millcert-work-1"
#: Distributions whose release may change what is computed, besides ours and the checks' own.
COMPUTED_WITH = ("apache-beam", "great-expectations", "numpy", "pyarrow", "scipy", "onnxruntime")


def work_name(step: str, item: WorkItem, *, policy: Any, state: Any, packages: tuple[str, ...] = ()) -> str:
    """Return the name of a file's work in a step.

    Args:
        step: see the module's docstring.
        item: the file; its digest is known, except in the step that finds it.
        policy: what the step takes from it, in values that have a form in bytes.
        state: what it takes from all files together, likewise, or the digest of that.
        packages: of plug-in checks.

    Raises:
        UncodableError: policy or state have no form in bytes.
    """
    # Where the file is does not matter: what was read there has its digest.
    file = {name: value for name, value in item._asdict().items() if name not in {"uri", "view_uri"}}
    told = {
        "code": code_digest(packages),
        "file": digest_of(file).hex(),
        "format": FORMAT,
        "policy": digest_of(policy, packages).hex(),
        "state": state.hex() if isinstance(state, bytes) else digest_of(state, packages).hex(),
        "step": step,
    }
    return hashlib.sha256(rfc8785.dumps(told)).hexdigest()


def check_words(planned: PlannedCheck) -> tuple[str, str, str, str]:
    """Return what tells a configured check from others: its name in the run, check, version, configuration's digest."""
    return planned.name, planned.check.name, planned.check.version, planned.config_digest


@functools.cache
def code_digest(packages: tuple[str, ...] = ()) -> str:
    """Return the digest (hex) of the code that computes, as it is installed where this is called.

    Cost: 10 ms once a process.
    """
    told: dict[str, Any] = {
        "machine": [platform.machine(), sys.byteorder],
        "python": platform.python_version(),
        "releases": {name: _release(name) for name in COMPUTED_WITH},
        "source": {name: _source_digest(name) for name in sorted({OUR_PACKAGE, *packages})},
    }
    return hashlib.sha256(rfc8785.dumps(told)).hexdigest()


def _release(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _source_digest(package: str) -> str:
    """Return the digest of a package's Python files, by their names in it; links are followed as imports do."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None or spec.submodule_search_locations is None else spec.submodule_search_locations
    sources: Mapping[str, Path] = {
        path.relative_to(folder).as_posix(): path for folder in folders for path in _python_files(Path(folder))
    }
    if not sources and spec is not None and spec.origin:
        sources = {Path(spec.origin).name: Path(spec.origin)}
    digest = hashlib.sha256()
    for name in sorted(sources):
        content = hashlib.sha256(sources[name].read_bytes()).digest()
        digest.update(hashlib.sha256(name.encode()).digest() + content)
    return digest.hexdigest()


def _python_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            found += _python_files(path)
        elif path.suffix == ".py":
            found.append(path)
    return found
