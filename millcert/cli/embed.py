"""`millcert embed`: make views of a data set, without a download: what the poison checks look at."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.dataset import read_bounded
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.pipelines.view_manifest import ViewSet

_MAX_MODEL_BYTES = 512 << 20


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", metavar="DATASET... [BEAM OPTIONS]", nargs=-1, type=click.UNPROCESSED, required=True)
@click.option(
    "--policy", "policy_path", required=True, type=click.Path(path_type=Path), help="Names the label and the content."
)
@click.option("--out", required=True, help="Folder of the views, beside the data; it must not exist, or see --replace.")
@click.option("--self/--no-self", "makes_self", default=True, help="Make a view by a probe trained on these very data.")
@click.option(
    "--probe",
    type=click.Choice(["auto", "sklearn", "torch"]),
    default="auto",
    show_default=True,
    help="Of the self view: a network by torch for images and texts where torch is installed, else scikit-learn's.",
)
@click.option(
    "--layer",
    type=click.Choice(["hidden", "penultimate"]),
    default="hidden",
    show_default=True,
    help="Which layer of a network by torch is the view.",
)
@click.option(
    "--external",
    type=click.Choice(["none", "patches", "grams", "onnx"]),
    default="none",
    show_default=True,
    help="Make a view that never saw these data: random patches, hashed words, or a model.",
)
@click.option("--onnx", "model", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An ONNX model.")
@click.option("--onnx-sha256", "model_sha256", default="", help="Its SHA-256, hex: another model is refused.")
@click.option(
    "--onnx-layout",
    "layout",
    type=click.Choice(["nchw", "nhwc", "flat"]),
    default="nchw",
    show_default=True,
    help="How the model wants images.",
)
@click.option("--seed", default=0, show_default=True, help="Of the probe, the patches and the hash of words.")
@click.option("--max-train", default=100_000, show_default=True, help="Train the probe on at most so many samples.")
@click.option("--replace", is_flag=True, help="Replace earlier views at --out.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Local worker processes.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@json_option
def embed(
    arguments: tuple[str, ...],
    policy_path: Path,
    out: str,
    *,
    makes_self: bool,
    probe: str,
    layer: str,
    external: str,
    model: Path | None,
    model_sha256: str,
    layout: str,
    seed: int,
    max_train: int,
    replace: bool,
    workers: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make views of DATASET (files, folders or globs) for `millcert vet --views`.

    The policy maps a role to a view as `embedding_self: view:embedding_self`. Options that millcert does not know go to
    Apache Beam.
    """
    logging.basicConfig(level=logging.CRITICAL)
    from millcert.checks.self_view import ProbeChoice
    from millcert.policy import load_policy

    loaded = load_policy(policy_path)
    from millcert.pipelines.embed import EmbedOptions, embed_dataset
    from millcert.pipelines.runner import split_arguments

    datasets, beam_arguments = split_arguments(arguments)
    if not datasets:
        raise UsageError("No data set was named.", hint="Name files, folders or globs: millcert embed data/ ...")
    options = EmbedOptions(
        datasets=datasets,
        out=out,
        makes_self=makes_self,
        probe=ProbeChoice(probe, layer),  # type: ignore[arg-type]  # click holds the choices
        external=external,  # type: ignore[arg-type]  # click holds the choices
        model=b"" if model is None else read_bounded(model, _MAX_MODEL_BYTES),
        model_sha256=model_sha256,
        layout=layout,  # type: ignore[arg-type]  # click holds the choices
        seed=seed,
        max_train=max_train,
        replace=replace,
        workers=workers,
        beam_arguments=beam_arguments,
    )
    views = embed_dataset(loaded, options, progress=_silent if quiet else _say)
    emit(_payload(views), _text(views), as_json=as_json)


def _say(step: str) -> None:
    sys.stderr.write(f"embed: {step}\n")


def _silent(_: str) -> None:
    pass


def _payload(views: "ViewSet") -> dict[str, Any]:
    return {
        "schema": "millcert.embed/1",
        "out": views.folder,
        "manifest_sha256": views.sha256,
        "input_root": views.input_root,
        "seed": views.seed,
        "views": [view._asdict() for view in views.views],
        "files": len(views.files),
        "rows": sum(file.rows for file in views.files.values()),
    }


def _text(views: "ViewSet") -> str:
    rows = sum(file.rows for file in views.files.values())
    lines = [f"embedded  {rows:,} samples of {len(views.files):,} files"]
    for view in views.views:
        lines.append(f"  view:{view.name}  {view.width} wide, by {view.kind}  {view.model_sha256}".rstrip())  # noqa: PERF401
    lines.append(f"  manifest: {views.sha256}")
    lines.append(f"  next: map view:{views.views[0].name} in the policy, then millcert vet ... --views {views.folder}")
    return "\n".join(lines)
