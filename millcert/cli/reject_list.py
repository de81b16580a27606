"""`millcert reject-list`: which files and samples the revocations in force ask to take out of the data."""

import json
from pathlib import Path
from typing import Any

import click

from millcert.cli.files import write_new
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option


@click.group(name="reject-list")
def reject_list() -> None:
    """List what has to be taken out of the data."""


@reject_list.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The list's new file, JSON Lines.")
@click.option("--dataset", default=None, help="Only what is in runs of this data set.")
@state_option
@json_option
def export(out: Path, dataset: str | None, state: Path | None, as_json: bool) -> None:
    """Write each file and sample that a revocation in force touches, with its place in every run.

    One JSON object a line: of type file (whole file, SHA-256) or sample (row, digest). Sample digests are in it, so
    keep it like the data.
    """
    from millcert.provenance.reject_list import list_rejects
    from millcert.provenance.standing import read_standing

    folder, ledger = opened(state)
    with ledger:
        standing = read_standing(ledger)
        rejects = list_rejects(ledger, folder, standing, dataset=dataset)
        origin = ledger.origin
    lines: list[dict[str, Any]] = [reject.to_mapping() for reject in rejects]
    data = "".join(json.dumps(line, sort_keys=True, ensure_ascii=True) + "\n" for line in lines)
    write_new(out, data.encode())
    files = len({line["sha256"] for line in lines if line["type"] == "file"})
    samples = len({line["sample_digest"] for line in lines if line["type"] == "sample"})
    payload = {
        "version": 1,
        "origin": origin,
        "path": str(out),
        "files": files,
        "samples": samples,
        "places": len(lines),
    }
    text = (
        f"reject list  {origin}  {files} files and {samples} samples in {len(lines)} places: {out}\n"
        "next: take them out of the data, have the source sign it again, then millcert vet"
    )
    emit(payload, text, as_json=as_json)
