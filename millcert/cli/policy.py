"""`millcert policy`: write, check and explain a policy file."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.output import emit, json_option
from millcert.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from millcert.pipelines.source_outcomes import SourceOutcome
    from millcert.policy import LoadedPolicy, Policy
    from millcert.policy_explain import FileMatch

#: Files below a data set that `explain` looks at.
MAX_EXPLAINED_FILES = 200_000


@click.group()
def policy() -> None:
    """Write, check and explain a policy file."""


@policy.command()
@click.argument("dataset", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("policy.yaml"), show_default=True, help="The file."
)
@click.option("--force", is_flag=True, help="Replace a file that is already there.")
@json_option
def init(dataset: Path | None, out: Path, force: bool, as_json: bool) -> None:
    """Write a commented policy to start from; with DATASET, fitted to its folders and columns."""
    import secrets

    from millcert.policy_template import EXAMPLE, guess_roles, policy_template, sketch_dataset

    if out.exists() and not force:
        raise _exists(out)
    sketch = EXAMPLE if dataset is None else sketch_dataset(dataset)
    write_new(out, policy_template(sketch, seed=secrets.randbits(32)), replace=force)
    payload = {
        "path": str(out),
        "dataset": sketch.name,
        "folders": list(sketch.folders),
        "columns": dict(sketch.columns),
        "roles": guess_roles(sketch.columns),
    }
    text = f"wrote {out}; lines with CHECK hold a guess\nnext: edit it, then millcert policy check {out}"
    emit(payload, text, as_json=as_json)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check a policy FILE and every file that it names; reports all faults at once (exit code 2)."""
    from millcert.policy import load_policy

    loaded = load_policy(file)
    rules = loaded.policy
    payload = {
        "path": str(file),
        "digest": loaded.digest,
        "dataset": rules.dataset.name,
        "sources": [rule.name for rule in rules.sources],
        "checks": [rule.name for rule in rules.checks],
        "files": sorted(loaded.files),
    }
    text = (
        f"valid    {file}: {_count(len(rules.sources), 'source')}, {_count(len(rules.checks), 'check')}\n"
        f"digest   {loaded.digest}\n"
        f"next: millcert policy explain {file}"
    )
    emit(payload, text, as_json=as_json)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, type=click.Path())
@click.option(
    "--verify", "is_verified", is_flag=True, help="Also verify the data set's sources, and say why each passes."
)
@json_option
@click.pass_context
def explain(ctx: click.Context, file: Path, paths: tuple[str, ...], is_verified: bool, as_json: bool) -> None:
    """Say in words what a policy FILE makes the gate do.

    With PATHS, say which rule speaks for each and why. A folder is taken as a data set, and all of its files are looked
    at; anything else as a file's path relative to the data set's root, whether or not the file exists.

    With --verify and one folder, every file is hashed and each source's signature verified, as a run of the gate
    begins; the answer says of each source why it passes or is refused, and the exit code is 3 where one is.
    """
    from millcert.checks.registry import get_check
    from millcert.policy import load_policy
    from millcert.policy_explain import explain_policy, file_lines, printable

    if is_verified and not (len(paths) == 1 and Path(paths[0]).is_dir()):
        raise UsageError("--verify needs one folder: the data set.")
    loaded = load_policy(file)
    configured = {
        position: get_check(rule.check, dict(rule.config)) for position, rule in enumerate(loaded.policy.checks)
    }
    paragraphs = explain_policy(loaded.policy, configured)
    matches = list(_matches(loaded.policy, paths))
    faulty = sum(match.status in {"no_rule", "several_rules"} for match in matches)
    payload = {
        "path": str(file),
        "digest": loaded.digest,
        "policy": loaded.policy.to_document(),
        "paragraphs": [{"heading": part.heading, "sentences": list(part.sentences)} for part in paragraphs],
        "files": [match._asdict() for match in matches],
        "refused_files": faulty,
    }
    lines = [f"policy {file}, digest {loaded.digest}"]
    for part in paragraphs:
        lines += ["", part.heading, *(f"  {sentence}" for sentence in part.sentences)]
    if matches:
        lines += ["", "files", *(f"  {line}" for line in file_lines(matches))]
    outcomes = _outcomes(loaded, paths[0]) if is_verified else ()
    if is_verified:
        payload["verification"] = [outcome._asdict() for outcome in outcomes]
        lines += ["", "verification", *(f"  {one.status:<12}{one.source}: {printable(one.why)}" for one in outcomes)]
    lines += ["", _advice(file, matches, faulty)]
    emit(payload, "\n".join(lines), as_json=as_json)
    if any(outcome.status not in {"passed", "unknown"} for outcome in outcomes):
        ctx.exit(IntegrityError.exit_code)


@policy.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of policy files, for editors and for tools that write policies."""
    from millcert.policy import Policy

    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Policy.model_json_schema(by_alias=True, mode="validation"),
    }
    emit(document, json.dumps(document, indent=2, sort_keys=True), as_json=as_json)


def write_new(path: Path, text: str, *, replace: bool) -> None:
    """Write a whole file or nothing.

    Raises:
        UsageError: the file is there and `replace` is not set, or its folder is not there.
    """
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Make it first.", path=str(path.parent))
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        staged.chmod(0o644)
        if replace:
            staged.replace(path)
        else:
            # A link fails where the name is taken, so two runs cannot overwrite each other.
            path.hardlink_to(staged)
    except FileExistsError as error:
        raise _exists(path) from error
    finally:
        staged.unlink(missing_ok=True)


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} is already there.", hint="Give another name with --out, or --force to replace it.", path=str(path)
    )


def _outcomes(loaded: "LoadedPolicy", dataset: str) -> "tuple[SourceOutcome, ...]":
    from millcert.pipelines.source_outcomes import source_outcomes

    return source_outcomes(loaded, dataset)


def _matches(rules: "Policy", paths: tuple[str, ...]) -> "Iterator[FileMatch]":
    from millcert.policy_explain import explain_file

    for path in paths:
        if Path(path).is_dir():
            yield from (explain_file(rules, name) for name in _files_below(Path(path)))
        else:
            yield explain_file(rules, Path(path).as_posix())


def _files_below(root: Path) -> Iterator[str]:
    from millcert.provenance.digest import BOOKKEEPING

    count = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in BOOKKEEPING)
        for name in sorted(names):
            count += 1
            if count > MAX_EXPLAINED_FILES:
                raise UsageError(f"{root} has more than {MAX_EXPLAINED_FILES:,} files.", hint="Name a folder below it.")
            found = (Path(folder) / name).relative_to(root).as_posix()
            # A name that is no text cannot be printed, and no manifest holds it: its bytes are shown.
            yield found.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _advice(file: Path, matches: "list[FileMatch]", faulty: int) -> str:
    if faulty:
        return f"next: change sources[].path so that exactly one rule matches {_count(faulty, 'refused file')}"
    if matches:
        return f"next: millcert vet DATASET --policy {file}"
    return f"next: millcert policy explain {file} DATASET shows which rule speaks for each file"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
