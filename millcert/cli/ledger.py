"""`millcert ledger`: look up, prove and audit what the ledger says. What is defined here needs no private key."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.access import access
from millcert.cli.acting import judged_line, judged_payload
from millcert.cli.acts import acts, declare_use, submit
from millcert.cli.files import read_bounded, write_new
from millcert.cli.ledger_admin import init
from millcert.cli.ledger_anchor import anchor, anchored_line, read_anchor
from millcert.cli.ledger_copies import backup, compact, restore
from millcert.cli.ledger_cosign import cosign
from millcert.cli.ledger_questions import as_of, changes, impact, unsigned
from millcert.cli.ledger_samples import erased, sample
from millcert.cli.ledger_tiles import compare, export, import_, verify_tiles
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.cli.revocations import revocations
from millcert.cli.roles import roles
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.anchor import Anchor
    from millcert.provenance.ledger import LoggedEntry


@click.group()
def ledger() -> None:
    """Look up, prove and audit what the ledger says."""


for command in (init, backup, restore, compact):
    ledger.add_command(command)
ledger.add_command(impact)
ledger.add_command(as_of)
ledger.add_command(changes)
ledger.add_command(unsigned)
ledger.add_command(sample)
ledger.add_command(erased)
for command in (access, acts, declare_use, submit, roles, revocations, export, import_, compare, cosign, anchor):
    ledger.add_command(command)


@ledger.command()
@click.option(
    "--kind",
    default=None,
    help="Exactly this kind: manifest, check_summary, verdict, shard_roots, certificate, erasure.",
)
@click.option("--subject", default=None, help="Exactly this subject: a manifest root in hex.")
@click.option("--text", default=None, help="Anywhere in the entry, letter case ignored.")
@click.option(
    "--sample", default=None, help="Instead: in which runs the sample with this digest was, and in which not."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many entries.")
@state_option
@json_option
def find(
    kind: str | None,
    subject: str | None,
    text: str | None,
    sample: str | None,
    limit: int,
    state: Path | None,
    as_json: bool,
) -> None:
    """List the entries that match all that is given, or what each run says of a sample; oldest first."""
    if sample is not None:
        if (kind, subject, text) != (None, None, None):
            raise UsageError("--sample goes with no other filter.", hint="Ask for entries or for a sample.")
        _find_sample(sample, limit, state, as_json=as_json)
        return
    with opened(state)[1] as held:
        found = held.find(kind=kind, subject=subject, text=text, limit=limit)
        origin = held.origin
    rows = [f"{one.index:>8}  {one.entry.recorded_at}  {one.entry.kind:<14} {one.entry.subject}" for one in found]
    more = f"; there may be more, see --limit {limit}" if len(found) == limit else ""
    hint = f"millcert ledger show {found[0].index}" if found else "millcert ledger find --text WORD"
    text_answer = "\n".join((*rows, f"{len(found)} entries of {origin}{more}", f"next: {hint}"))
    emit({"version": 1, "origin": origin, "entries": [_entry(one) for one in found]}, text_answer, as_json=as_json)


@ledger.command()
@click.argument("index", type=click.IntRange(min=0))
@state_option
@json_option
def show(index: int, state: Path | None, as_json: bool) -> None:
    """Print the entry at INDEX, checked against the tree."""
    import json

    with opened(state)[1] as held:
        logged = held.get(index)
        origin = held.origin
    entry = logged.entry
    lines = (
        f"{origin} #{index}",
        f"  kind: {entry.kind}",
        f"  subject: {entry.subject}",
        f"  recorded at: {entry.recorded_at}",
        f"  leaf hash: {logged.leaf_hash.hex()}",
        json.dumps(dict(entry.body), indent=2, sort_keys=True),
        f"next: millcert ledger prove {index} --out {index}.tlog-proof",
    )
    emit({"version": 1, "origin": origin, **_entry(logged)}, "\n".join(lines), as_json=as_json)


@ledger.command()
@click.argument("index", type=click.IntRange(min=0))
@click.option("--size", type=click.IntRange(min=1), default=None, help="Under the checkpoint of this size.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write the proof to a new file.")
@state_option
@json_option
def prove(index: int, size: int | None, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Print the proof (C2SP tlog-proof) that the entry at INDEX is in the ledger.

    The proof is verified before it is given out.
    """
    from millcert.provenance.ledger import verify_tlog_proof

    with opened(state)[1] as held:
        logged = held.get(index)
        proof = held.prove(index, size)
        checkpoint = verify_tlog_proof(proof, logged.entry.leaf(), held.vkeys)
    text = proof.decode()
    if out is not None:
        write_new(out, proof)
        text = (
            f"proof of {checkpoint.origin} #{index} under {checkpoint.size} entries: {out}\nnext: keep it with the data"
        )
    payload = {
        "version": 1,
        "origin": checkpoint.origin,
        "index": index,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "leaf": logged.entry.leaf().decode(),
        "proof": proof.decode(),
    }
    emit(payload, text, as_json=as_json)


@ledger.command()
@click.option(
    "--checkpoint",
    "checkpoint_path",
    type=click.Path(path_type=Path),
    default=None,
    help="A signed checkpoint that was kept elsewhere, or a certificate, which carries one; the ledger must extend it.",
)
@click.option(
    "--tiles",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Instead of a state folder: a log as a folder of tiles (C2SP), of any origin.",
)
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    help="The public key (name+hash+key) of the log in --tiles; may be repeated.",
)
@click.option(
    "--anchor",
    "anchor_path",
    type=click.Path(path_type=Path),
    default=None,
    help="In place of --checkpoint: an anchor, which also says since when its entries are there.",
)
@click.option(
    "--tsa-chain",
    "chain_path",
    type=click.Path(path_type=Path),
    default=None,
    help="Certificates (PEM) of the anchor's timestamp authority.",
)
@state_option
@json_option
def verify(
    checkpoint_path: Path | None,
    tiles: Path | None,
    keys: tuple[Path, ...],
    anchor_path: Path | None,
    chain_path: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Recompute the whole ledger, and compare it with the checkpoints that were seen before.

    Lists the acts that do not count because nobody with the role signed them; the gate ignores them.
    """
    seen = None if checkpoint_path is None else _read_checkpoint(checkpoint_path)
    anchored = None
    if anchor_path is not None or chain_path is not None:
        anchored = _read_anchor(anchor_path, chain_path, checkpoint_path, keys, state)
        seen = anchored.note
    if tiles is not None:
        if state is not None:
            raise UsageError("--tiles stands in for --state.", hint="Leave one of them out.")
        verify_tiles(tiles, keys, seen, anchored, as_json=as_json)
        return
    if keys:
        raise UsageError("--key goes with --tiles; a state folder has its own key.", hint="Leave --key out.")
    from millcert.provenance.standing import read_standing

    with opened(state)[1] as held:
        report = held.verify(seen)
        standing = read_standing(held)
    compared = ", ".join(str(size) for size in report.compared_sizes)
    lines = (
        f"whole  {report.origin}  {report.size:,} entries, {report.checkpoints:,} signed checkpoints",
        f"  root: {report.root.hex()}",
        f"  extends the checkpoints seen before: {compared}" if compared else "  no checkpoint was seen before",
        *([] if anchored is None else [anchored_line(anchored)]),
        *(f"  {judged_line(one)}" for one in standing.refused),
        "  next: copy ledger.checkpoint out of its keeper's reach; later: millcert ledger verify --checkpoint COPY",
    )
    payload = {
        "version": 1,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "checkpoint": report.checkpoint.decode(),
        "checkpoints": report.checkpoints,
        "compared_sizes": list(report.compared_sizes),
        "anchored_at": None if anchored is None else anchored.anchored_at.isoformat(),
        "ignored_acts": [judged_payload(one) for one in standing.refused],
    }
    emit(payload, "\n".join(lines), as_json=as_json)


def _read_anchor(
    anchor_path: Path | None,
    chain_path: Path | None,
    checkpoint_path: Path | None,
    keys: tuple[Path, ...],
    state: Path | None,
) -> "Anchor":
    """Return the anchor that --anchor and --tsa-chain name, verified with the ledger's key."""
    from millcert.provenance.state import load_ledger_vkeys, state_folder

    if anchor_path is None or chain_path is None or checkpoint_path is not None:
        raise UsageError(
            "--anchor and --tsa-chain go together, and in place of --checkpoint.",
            hint="An anchor holds its checkpoint; the authority's certificates come from you.",
        )
    return read_anchor(anchor_path, chain_path, load_ledger_vkeys(keys or [state_folder(state).ledger_vkey]))


def _find_sample(sample: str, limit: int, state: Path | None, *, as_json: bool) -> None:
    """Print the answer of the newest runs about one sample, oldest first."""
    from millcert.provenance.lookup import list_runs
    from millcert.provenance.sample_query import ask_runs, parse_digest

    digest = parse_digest(sample)
    folder, held = opened(state)
    with held:
        runs = list_runs(held)
        answers = list(ask_runs(folder, runs[-limit:], digest))
        verdicts = [held.get(answer.roots.verdict).entry for answer in answers]
        origin = held.origin
    rows, listed = [], []
    for answer, verdict in zip(answers, verdicts, strict=True):
        status = "present" if answer.found else "absent" if answer.is_absent else "unknown"
        decision = verdict.body.get("decision")
        about = f"#{answer.roots.verdict:<6} {verdict.recorded_at}  {answer.roots.dataset}  {decision}"
        rows.append(f"{status:<8} {about}")
        rows += [
            f"           {found.shard.file} row {found.row}, source {found.shard.source}" for found in answer.found
        ]
        rows += [f"           {answer.unknown}"] if answer.unknown else []
        listed.append(
            {
                "run": answer.roots.run_id,
                "index": answer.logged.index,
                "verdict_index": answer.roots.verdict,
                "dataset": answer.roots.dataset,
                "decision": decision,
                "recorded_at": verdict.recorded_at,
                "status": status,
                "unknown": answer.unknown,
                "places": [
                    {"file": found.shard.file, "row": found.row, "source": found.shard.source} for found in answer.found
                ],
            }
        )
    present = sum(bool(answer.found) for answer in answers)
    more = f"; there are {len(runs)}, see --limit" if len(runs) > limit else ""
    rows.append(f"sample {sample} was in {present} of {len(answers)} runs of {origin}{more}")
    rows.append(f"next: millcert evidence export --digest {sample} --out FILE")
    emit({"version": 1, "origin": origin, "sample": sample, "runs": listed}, "\n".join(rows), as_json=as_json)


def _entry(logged: "LoggedEntry") -> dict[str, Any]:
    entry = logged.entry
    return {
        "index": logged.index,
        "leaf_hash": logged.leaf_hash.hex(),
        "kind": entry.kind,
        "subject": entry.subject,
        "recorded_at": entry.recorded_at,
        "body": dict(entry.body),
    }


def _read_checkpoint(path: Path) -> bytes:
    from millcert.provenance.checkpoint import MAX_NOTE_BYTES

    hint = "Check --checkpoint."
    data = read_bounded(path, MAX_NOTE_BYTES, what="checkpoint", hint=hint)
    if not data.startswith(b"{"):
        return data
    from millcert.provenance.certificate import MAX_CERTIFICATE_BYTES, checkpoint_in

    return checkpoint_in(read_bounded(path, MAX_CERTIFICATE_BYTES, what="certificate", hint=hint))
