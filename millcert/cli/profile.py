"""`millcert profile`: how a data set is distributed, merged over days, compared with an admitted version."""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.dataset import open_dataset, read_bounded, source_of_file, write_whole
from millcert.cli.output import emit, json_option
from millcert.errors import SignatureError, UsageError

if TYPE_CHECKING:
    from millcert.checks.drift import DriftLimits
    from millcert.checks.profile import Profile
    from millcert.checks.profile_compare import Compared, ProfileDrift, Subject
    from millcert.checks.profile_format import LoadedProfile
    from millcert.provenance.profile_statement import ProfileClaim

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)
_SHOWN = 20
_gate_keys = click.option(
    "--gate-key",
    "gate_keys",
    multiple=True,
    type=_FILE,
    metavar="PEM",
    help="Refuse a profile that no such gate signed; its statement is NAME.dsse.json beside NAME.json.",
)


class _MakeFirst(click.Group):
    """A group in which `profile DATASET` means `profile make DATASET`: a word that is no command but is there."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and Path(args[0]).exists():
            args = ["make", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_MakeFirst)
def profile() -> None:
    """Summarise how a data set is distributed, and compare it with an earlier one.

    `millcert profile DATASET --out FILE` is short for `millcert profile make`.
    """


@profile.command("make")
@click.argument("dataset", nargs=-1, required=True)
@click.option("--out", type=_OUT, required=True, help="Where to write the profile.")
@click.option("--label", default="", help="The column that holds the class.")
@click.option("--source", default="", help="The column that names the source.  [default: a file's first folder]")
@click.option("--schema", type=_FILE, help="The columns' types of JSONL and CSV, as in a policy.")
@click.option("--like", type=_FILE, help="A profile to be merged or compared with: same key, label, source and sizes.")
@click.option("--hash-key-file", type=_FILE, help="64 hex digits that key the hashes.  [default: random]")
@click.option("--without-texts", is_flag=True, help="Leave out the values of columns that have few.")
@click.option("--max-cells", type=click.IntRange(min=1), help="How many pairs of source and label.  [default: 4096]")
@click.option("--tokens", multiple=True, metavar="COLUMN", help="Count this column's words or items by label.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite another profile that is already there.")
@json_option
def make(
    dataset: tuple[str, ...],
    out: Path,
    label: str,
    source: str,
    schema: Path | None,
    like: Path | None,
    hash_key_file: Path | None,
    without_texts: bool,
    max_cells: int | None,
    tokens: tuple[str, ...],
    is_replaced: bool,
    as_json: bool,
) -> None:
    """Read DATASET (files, folders or globs) once and write its profile.

    The profile names sources and labels and holds small columns' values; keep it where the data may be.
    """
    from millcert.checks.profile import ProfileSpec
    from millcert.checks.profile_builder import ProfileBuilder

    if like is not None:
        if label or source or hash_key_file or without_texts or max_cells or tokens:
            raise UsageError("--like settles label, source, key and sizes; leave the other options out.")
        spec = _load(like).spec
    else:
        spec = ProfileSpec(
            _hash_key(hash_key_file),
            label=label,
            source=source,
            keeps_texts=not without_texts,
            tokens=tuple(sorted(set(tokens))),
        )
        spec = spec if max_cells is None else replace(spec, max_cells=max_cells)
    data = open_dataset(dataset, schema)
    builder = ProfileBuilder(spec, data.schema)
    for name, batch in data.read():
        builder.add(batch, source="" if spec.source else source_of_file(name))
    _finish(builder.finish(), out, data.malformed, is_replaced=is_replaced, as_json=as_json)


@profile.command("merge")
@click.argument("profiles", nargs=-1, required=True, type=_FILE)
@click.option("--out", type=_OUT, required=True, help="Where to write the profile.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite another profile that is already there.")
@_gate_keys
@json_option
def merge(profiles: tuple[Path, ...], out: Path, is_replaced: bool, gate_keys: tuple[Path, ...], as_json: bool) -> None:
    """Write the profile of all rows of PROFILES: of a month from its days, say. No row is read again.

    Each profile is merged as often as it is named.
    """
    from millcert.checks.profile import merge_profiles

    _finish(
        merge_profiles(_load(path, gate_keys) for path in profiles), out, None, is_replaced=is_replaced, as_json=as_json
    )


@profile.command("diff")
@click.argument("reference", type=_FILE)
@click.argument("current", type=_FILE)
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Change a limit of docs/drift.md.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="A column that always differs, such as an id.")
@_gate_keys
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    reference: Path,
    current: Path,
    limits: tuple[str, ...],
    ignore: tuple[str, ...],
    gate_keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Compare CURRENT with REFERENCE; exit 1 if anything drifts over its limit and beyond chance.

    With --gate-key a REFERENCE that no such gate signed is refused (exit 3); without, it is believed as it is.
    """
    from millcert.checks.profile_compare import compare_profiles

    found = compare_profiles(_load(reference, gate_keys), _load(current), _limits(limits), ignore=ignore)
    payload = {**_diff_payload(found), "is_reference_signed": bool(gate_keys)}
    emit(payload, _diff_text(found, current, is_signed=bool(gate_keys)), as_json=as_json)
    if found.is_drift:
        ctx.exit(1)


@profile.command("history")
@click.argument("profiles", nargs=-1, required=True, type=_FILE)
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Change a limit of docs/drift.md.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="A column that always differs, such as an id.")
@_gate_keys
@json_option
@click.pass_context
def history(
    ctx: click.Context,
    profiles: tuple[Path, ...],
    limits: tuple[str, ...],
    ignore: tuple[str, ...],
    gate_keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Say when PROFILES (of days, oldest first) changed, and whether at once or gradually; exit 1 if they did."""
    from millcert.checks.profile_history import find_changes

    changes = find_changes([_load(path, gate_keys) for path in profiles], _limits(limits), ignore=ignore)
    payload = [
        {**one.subject._asdict(), **one.drift._asdict(), "at": one.at, "first_after": str(profiles[one.at])}
        | {"pace": one.pace, "step": one.step, "total": one.total, "course": one.course}
        for one in changes
    ]
    lines = [f"{'changed' if changes else 'steady'}  {len(changes):,} changes over {len(profiles):,} profiles"]
    lines += [
        f"  {one.pace:<8} from {profiles[one.at].name}  {_place(one.subject)}: {one.drift.measure} "
        f"{one.drift.value:.4g}, limit {one.drift.limit:g}, null quantile {one.drift.null_quantile:.4g}"
        for one in changes[:_SHOWN]
    ]
    if len(changes) > _SHOWN:
        lines.append(f"  and {len(changes) - _SHOWN:,} more; --json has all")
    lines.append(
        "next: compare the two profiles beside a change: millcert profile diff BEFORE AFTER"
        if changes
        else "next: keep the newest as reference"
    )
    emit({"version": 1, "changes": payload}, "\n".join(lines), as_json=as_json)
    if changes:
        ctx.exit(1)


@profile.command("tokens")
@click.argument("profile_path", metavar="PROFILE", type=_FILE)
@click.argument("dataset", nargs=-1, required=True)
@click.option("--column", required=True, help="The column whose tokens they are.")
@click.option("--token", "wanted", multiple=True, required=True, metavar="HASH:BITS", help="As diff and vet name it.")
@click.option("--schema", type=_FILE, help="The columns' types of JSONL and CSV, as in a policy.")
@json_option
def tokens(
    profile_path: Path,
    dataset: tuple[str, ...],
    column: str,
    wanted: tuple[str, ...],
    schema: Path | None,
    as_json: bool,
) -> None:
    """Say which tokens of DATASET a drift finding means: PROFILE has their hashes only, and the key."""
    from millcert.checks.sketch_tokens import TokenNames

    names = TokenNames(wanted, _load(profile_path).spec.key)
    data = open_dataset(dataset, schema)
    if column not in data.schema.names:
        raise UsageError(f"The data has no column {column!r}; it has {', '.join(data.schema.names)}.")
    for _, batch in data.read():
        names.add(batch.column(column))
    found = names.found()
    lines = [
        f"{token}  {', '.join(_shown(name) for name in each[:_SHOWN]) or 'not in these data'}"
        + (f" and {len(each) - _SHOWN:,} more" if len(each) > _SHOWN else "")
        for token, each in found.items()
    ]
    emit(
        {"version": 1, "column": column, "tokens": found},
        "\n".join([*lines, "next: look at the rows that have them"]),
        as_json=as_json,
    )


@profile.command("verify")
@click.argument("profile_path", metavar="PROFILE", type=_FILE)
@click.argument("statement", type=_FILE)
@click.option("--gate-key", "gate_keys", multiple=True, required=True, type=_FILE, help="Public key of a gate, PEM.")
@json_option
def verify(profile_path: Path, statement: Path, gate_keys: tuple[Path, ...], as_json: bool) -> None:
    """Verify that a gate signed PROFILE, by the STATEMENT beside it (profile.dsse.json); exit 3 if not."""
    loaded, claim = _verified(read_bounded(profile_path, _most_bytes()), statement, gate_keys)
    payload = {
        "code_version": claim.code_version,
        "dataset": claim.dataset,
        "input_root": claim.input_root,
        "profile_digest": loaded.digest,
    }
    emit(
        {"version": 1, **payload},
        f"verified  profile {loaded.digest} of {_shown(claim.dataset)}\n  input: {claim.input_root}\n"
        f"next: millcert ledger find --subject {claim.input_root} says what the gate decided about it",
        as_json=as_json,
    )


def _place(subject: "Subject") -> str:
    where = f"source {_shown(subject.source)}" if subject.source else "all rows"
    detail = f" {_shown(subject.detail)}" if subject.detail else ""
    return f"{where} {_shown(subject.column)} {subject.part}{detail}".replace("  ", " ")


def _load(path: Path, gate_keys: tuple[Path, ...] = ()) -> "Profile":
    """Return the profile of a file; with keys only if the statement beside it says that one of them signed it."""
    from millcert.checks.profile_format import load_profile

    data = read_bounded(path, _most_bytes())
    if gate_keys:
        statement = path.with_name(f"{path.name.removesuffix('.json')}.dsse.json")
        if not statement.is_file():
            raise SignatureError(
                f"The profile {path} is unsigned: there is no {statement.name} beside it.",
                hint="Fetch the statement that the gate published with it, or leave --gate-key out.",
            )
        return _verified(data, statement, gate_keys)[0].profile
    return load_profile(data)


def _verified(data: bytes, statement: Path, gate_keys: tuple[Path, ...]) -> tuple["LoadedProfile", "ProfileClaim"]:
    """Return a profile with its digest, and what the gate said of it.

    Raises:
        SignatureError: no gate of these keys signed these bytes.
    """
    from millcert.checks.profile_format import load_with_digest
    from millcert.provenance.dsse import MAX_ENVELOPE_BYTES
    from millcert.provenance.profile_statement import verify_profile
    from millcert.provenance.state import load_gate_keys

    claim = verify_profile(data, read_bounded(statement, MAX_ENVELOPE_BYTES), load_gate_keys(gate_keys))
    loaded = load_with_digest(data)
    if loaded.digest != claim.profile_digest:
        raise SignatureError(
            f"The profile has the digest {loaded.digest}; the gate signed {claim.profile_digest}.",
            expected=claim.profile_digest,
            actual=loaded.digest,
        )
    return loaded, claim


def _most_bytes() -> int:
    from millcert.checks.profile_format import MAX_PROFILE_BYTES

    return MAX_PROFILE_BYTES


def _hash_key(path: Path | None) -> str:
    import secrets

    # Random unless it was given: a key that everybody knows would let anybody forge collisions.
    return secrets.token_hex(32) if path is None else read_bounded(path, 1024).decode("ascii", "replace").strip()


def _finish(found: "Profile", out: Path, malformed: int | None, *, is_replaced: bool, as_json: bool) -> None:
    from millcert.checks.profile_format import profile_file

    data, digest = profile_file(found)
    write_whole(out, data, is_replaced=is_replaced)
    sources, labels = ({name[at] for name in found.cells} for at in (0, 1))
    payload: dict[str, Any] = {
        "cells": len(found.cells),
        "columns": len(found.types),
        "digest": digest,
        "profile": str(out),
        "rows": found.rows,
        "size_bytes": len(data),
    }
    note = ""
    if malformed is not None:
        payload["malformed"] = malformed
        note = f"  {malformed:,} malformed records were left out\n" if malformed else ""
    emit(
        payload,
        f"profile  {found.rows:,} rows, {len(found.types)} columns, {len(sources)} sources, {len(labels)} labels\n"
        f"{note}"
        f"  digest: {digest}\n"
        f"  file: {out}, {len(data):,} bytes\n"
        f"next: make the next one with --like {out}, then millcert profile diff {out} NEXT",
        as_json=as_json,
    )


def _limits(texts: tuple[str, ...]) -> "DriftLimits":
    from millcert.checks.drift import DriftLimits

    known = [each.name for each in fields(DriftLimits)]
    given: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            name = ""
        if name not in known:
            raise UsageError(f"--limit {text!r} is not NAME=NUMBER with a NAME of {', '.join(known)}.")
    return DriftLimits(**given)


def _diff_payload(found: "ProfileDrift") -> dict[str, Any]:
    return {
        "version": 1,
        "is_drift": found.is_drift,
        "alpha": found.alpha,
        "columns": {"added": found.added, "removed": found.removed, "changed": found.changed},
        "compared": [
            {
                **one.subject._asdict(),
                **one.drift._asdict(),
                "is_drift": one.drift.is_drift,
                "figures": one.figures,
            }
            for one in found.compared
        ],
        "skipped": [subject._asdict() for subject in found.skipped],
    }


def _diff_text(found: "ProfileDrift", current: Path, *, is_signed: bool) -> str:
    lines = []
    for what, names in (("new", found.added), ("missing", found.removed), ("changed", found.changed)):
        lines += [f"  {what} column  {_shown(name)}" for name in names]
    lines += [_line(one) for one in found.found[:_SHOWN]]
    if len(found.found) > _SHOWN:
        lines.append(f"  and {len(found.found) - _SHOWN:,} more; --json has all")
    head = (
        f"{'drift' if found.is_drift else 'no drift'}  {len(found.found):,} of {len(found.compared):,} comparisons "
        f"over limit and beyond chance ({found.alpha:.1e} each)"
    )
    if found.skipped:
        lines.append(f"  {len(found.skipped):,} not compared: fewer than 100 rows on one side")
    if not is_signed:
        lines.append("  the reference was believed as it is; --gate-key lets only a signed one count")
    if not found.is_drift and found.compared:
        lines.append(f"  nearest:{_line(found.compared[0]).replace('  ', ' ', 1)}")
    next_line = "next: look at the rows of these sources and columns; --ignore COLUMN for what always differs"
    if found.found and found.found[0].subject.part == "tokens":
        subject = found.found[0].subject
        next_line = (
            f"next: millcert profile tokens {current} DATASET --column {_shown(subject.column)} "
            f"--token {subject.detail.split()[1]} names the token"
        )
    return "\n".join(
        [head, *lines, next_line if found.is_drift else f"next: millcert vet, or keep {current} as reference"]
    )


def _line(one: "Compared") -> str:
    subject, drift = one.subject, one.drift
    where = (
        f"source {_shown(subject.source or '(none)')}" if subject.source or subject.part == "presence" else "all rows"
    )
    what = (
        f" {_shown(subject.column)}" if subject.column else (" is new" if one.figures.get("is_new") else " fell silent")
    )
    detail = f" {_shown(subject.detail)}" if subject.detail else ""
    return (
        f"  {where}{what}  {subject.part}{detail}: {drift.measure} {drift.value:.4g}, limit {drift.limit:g}, "
        f"null quantile {drift.null_quantile:.4g}, n {drift.reference_rows:,} and {drift.current_rows:,}"
    )


def _shown(name: str) -> str:
    """Return a name of the data as one harmless line."""
    return name if name.isprintable() else repr(name)
