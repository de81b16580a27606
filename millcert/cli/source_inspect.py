"""`millcert source inspect`: what a file of evidence says of itself, with no word on whether it is true."""

from pathlib import Path

import click

from millcert.cli.files import read_bounded
from millcert.cli.output import emit, json_option
from millcert.cli.source_places import FILE, quoted

_MAX_BYTES = 256 * 1024 * 1024
_LISTED = 20
#: In JSON more are listed, and all are counted.
_LISTED_JSON = 10_000
_MAX_VALUE = 300
_WARNING = "UNVERIFIED: this is what the file says of itself; anybody can write one that says it"


@click.command("inspect")
@click.argument("path", metavar="FILE", type=FILE)
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what FILE holds: its form, who is said to have signed, when, and over what. Nothing is verified.

    Reads bundles, model signatures, envelopes, statements, manifests, post-quantum signatures, Croissant, lists of
    checksums, BagIt, Git-LFS pointers, DVC files, trusted roots, certificates and public keys.
    """
    from millcert.provenance.inspection import inspect_evidence

    found = inspect_evidence(read_bounded(path, _MAX_BYTES, what="file", hint="Check the path."))
    lines = [f"{_WARNING}.", f"{_shown(str(path))}: {found.form}"]
    lines += [f"  {_shown(label)}: {_shown(value)}" for label, value in found.facts]
    for name, digests in found.subjects[:_LISTED]:
        lines.append(f"  about {_shown(name)}")
        lines += [f"    {_shown(algorithm)} {_shown(digest)}" for algorithm, digest in sorted(digests.items())]
    if len(found.subjects) > _LISTED:
        lines.append(f"  and {len(found.subjects) - _LISTED:,} more")
    lines.append(f"next: millcert source verify {quoted(path.parent)} with the signer whom you trust")
    emit(
        {
            "facts": [{"label": label, "value": value} for label, value in found.facts],
            "form": found.form,
            "subject_count": len(found.subjects),
            "subjects": [{"digests": dict(one.digests), "name": one.name} for one in found.subjects[:_LISTED_JSON]],
            "verified": False,
        },
        "\n".join(lines),
        as_json=as_json,
    )


def _shown(text: str) -> str:
    """Show a value on one line, characters that do not print by their number: it must not command the terminal."""
    cut = text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}... ({len(text)} characters)"
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in cut)
