"""`millcert selftest`: plant attacks in a copy of the data, run the gate on it, and say what it saw."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from millcert.cli.dataset import write_whole
from millcert.cli.output import emit, json_option

#: What an exit code of 1 means everywhere: the gate does not let this pass.
_BLIND = 1


@click.command(
    epilog="Exit codes: 0 done, 1 the gate is blind to an attack (with --min-tpr), 2 usage or policy error, 3 the data "
    "is damaged or of no known source, 5 a store failed (retry is safe), 70 a bug of millcert."
)
@click.argument("dataset", nargs=-1, required=True)
@click.option("--policy", "policy_path", required=True, type=click.Path(path_type=Path), help="The policy to test.")
@click.option("--attack", "attacks", multiple=True, metavar="NAME", help="Only this attack; repeatable.")
@click.option("--rate", default=0.01, show_default=True, help="Poisoned samples, of all that are used.")
@click.option("--repeats", default=3, show_default=True, help="How often each attack is planted, with other seeds.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is random.")
@click.option("--max-samples", default=20_000, show_default=True, help="Use at most so many samples of the data.")
@click.option(
    "--probe",
    type=click.Choice(["auto", "sklearn", "torch"]),
    default="auto",
    show_default=True,
    help="What makes the self view, as for `millcert embed`.",
)
@click.option(
    "--layer",
    type=click.Choice(["hidden", "penultimate"]),
    default="hidden",
    show_default=True,
    help="Which layer of a network by torch is the view.",
)
@click.option("--min-tpr", type=float, help="Exit with 1 if less than this share of an attack's samples is flagged.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the result, for `vet --selftest`.")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite --out.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@json_option
def selftest(
    dataset: tuple[str, ...],
    policy_path: Path,
    attacks: tuple[str, ...],
    rate: float,
    repeats: int,
    seed: int,
    max_samples: int,
    probe: str,
    layer: str,
    min_tpr: float | None,
    out: Path | None,
    *,
    is_replaced: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Plant attacks in a copy of DATASET (files, folders or globs) and report what the policy's checks see of them.

    DATASET is only read; the copy stays in memory. Which attacks can be planted depends on the columns.
    """
    logging.basicConfig(level=logging.CRITICAL)
    from millcert.policy import load_policy

    loaded = load_policy(policy_path)
    from millcert.checks.self_view import ProbeChoice
    from millcert.pipelines.selftest import SelftestOptions, run_selftest

    choice = ProbeChoice(probe, layer)  # type: ignore[arg-type]  # click holds the choices
    options = SelftestOptions(attacks, rate, repeats, seed, max_samples, min_tpr, choice)
    result = run_selftest(loaded, dataset, options, progress=_silent if quiet else _say)
    if out is not None:
        from millcert.pipelines.selftest_file import selftest_bytes

        write_whole(out, selftest_bytes(result), is_replaced=is_replaced)
    emit(result, describe(result, out), as_json=as_json)
    if result["blind_to"]:
        raise SystemExit(_BLIND)


def _say(step: str) -> None:
    sys.stderr.write(f"selftest: {step}\n")


def _silent(_: str) -> None:
    pass


def describe(result: dict[str, Any], out: Path | None) -> str:
    """Return the result for a terminal: what was planted, what was found with which certainty, what was not tested."""
    used = f"{result['samples']:,} of {result['samples_seen']:,} samples"
    unplanted = result["unplanted"]
    lines = [
        f"selftest  {result['dataset']}  {used}, {result['classes']} classes, {result['sources']} sources",
        f"  planted: {result['rate']:.2%} of them, {result['repeats']} times each",
        f"  as they are: {unplanted['flagged']['value']:.2%} flagged"
        + (", and the policy rejects them" if unplanted["rejects"] else ""),
        f"  {'attack':<20} {'found':<23} {'false alarms':<25} {'AUROC':<22} {'rejected':<9} by chance",
    ]
    for one in result["attacks"]:
        random = one["controls"]["random_filter"]["tpr"]["value"]
        lines.append(
            f"  {one['attack']:<20} {_percent(one['tpr'], 1):<24} {_percent(one['fpr'], 2):<26} "
            f"{_plain(one['auroc']):<22} {one['rejected']} of {result['repeats']:<4} {random:.1%}"
        )
        best = sorted(one["checks"].items(), key=lambda item: (-item[1]["tpr"]["value"], item[0]))
        seen = [f"{name} {rates['tpr']['value']:.0%}" for name, rates in best if rates["tpr"]["value"] > 0]
        lines.append(f"  {'':<20} by {', '.join(seen) if seen else 'no check'}")
        lines += [f"  {'':<20} {name} could not be fitted: {why}" for name, why in one["inconclusive"].items()]
    lines += [f"  not planted: {reason}" for reason in _joined([one["reason"] for one in result["not_planted"]])]
    lines += [f"  not tested: {one['check']}, because {one['reason']}" for one in result["left_out"]]
    lines += [f"  assumed: {text}" for text in result["assumptions"]]
    if result["blind_to"]:
        lines.append(f"  BLIND to {', '.join(result['blind_to'])}: below {json.dumps(result['min_tpr'])}")
    lines.append(
        "  next: map more columns or add checks (`millcert check list`), and run again"
        if result["blind_to"]
        else f"  next: millcert vet ... --selftest {out}"
        if out is not None
        else "  next: --out FILE writes this for `millcert vet --selftest FILE`"
    )
    return "\n".join(lines)


def _joined(reasons: list[str]) -> list[str]:
    """Return a line for each thing that is lacking, with all attacks that lack it."""
    lacking: dict[str, list[str]] = {}
    for reason in reasons:
        attack, is_need, need = reason.rstrip(".").partition(" needs ")
        lacking.setdefault(need if is_need else reason, []).append(attack if is_need else "")
    return [f"{', '.join(who)}, for want of {need}" if any(who) else need for need, who in lacking.items()]


def _percent(rate: dict[str, float], digits: int) -> str:
    value, low, high = (f"{rate[name]:.{digits}%}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _plain(rate: dict[str, float]) -> str:
    return f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
