"""`millcert source fetch` and `recheck`: lists of web addresses with digests, fetched once and watched later."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from millcert.cli.files import read_bounded
from millcert.cli.output import emit, json_option
from millcert.cli.source_places import bundle_of, pq_of, quoted
from millcert.errors import PolicyError, SignatureError, UntrustedSourceError, UsageError

if TYPE_CHECKING:
    from millcert.provenance.trust import Signer, SourceRule, TrustRoot, VerifiedSignature
    from millcert.provenance.url_list import UrlRow
    from millcert.provenance.url_results import ListIdentity, UrlResult
    from millcert.provenance.url_transport import Reach, UrlLimits

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_COUNT = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)
_DROPPABLE = click.Choice(["split_view", "no_hash", "refused", "unreachable", "gone"])
_SHOWN = 20
_PROGRESS_SECONDS = 10.0

_OPTIONS = (
    click.argument("list_path", metavar="LIST", type=_FILE),
    click.option("--policy", "policy_path", type=_FILE, help="The policy that says who may sign LIST."),
    click.option("--source", "source_name", help="Which of its sources; its signed_by counts for LIST."),
    click.option("--bundle", type=_FILE, help="The Sigstore bundle over LIST.  [default: LIST.sigstore.json]"),
    click.option(
        "--unsafe-unsigned-list", "is_unsigned", is_flag=True, help="Take LIST though nobody vouches for its digests."
    ),
    click.option("--url-column", default="url", show_default=True, help="The column of addresses."),
    click.option("--sha256-column", default="sha256", show_default=True, help="The column of digests."),
    click.option("--max-bytes", type=_COUNT, default=4 << 30, show_default=True, help="Of one body."),
    click.option("--max-seconds", type=_SECONDS, default=600.0, show_default=True, help="For one address."),
    click.option("--max-total-bytes", type=_COUNT, default=1 << 40, show_default=True, help="Of all bodies."),
    click.option("--max-total-seconds", type=_SECONDS, default=86400.0, show_default=True, help="For all addresses."),
    click.option("--workers", type=click.IntRange(1, 256), default=16, show_default=True, help="Addresses at once."),
    click.option("--retries", type=click.IntRange(0, 10), default=3, show_default=True, help="After a first attempt."),
    click.option("--redirect-host", multiple=True, help="Another host that redirects may lead to. Repeatable."),
    click.option("--ca-file", type=_FILE, help="Certificate authorities, PEM.  [default: those of certifi]"),
    click.option(
        "--unsafe-private-addresses",
        "is_private_allowed",
        is_flag=True,
        help="Connect to private and loopback addresses too: whoever wrote LIST then reaches this network.",
    ),
)


def _list_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("fetch")
@_list_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the files.")
@click.option("--replace", "is_replaced", is_flag=True, help="Replace what an earlier fetch put there.")
@click.option("--results", type=_FILE, help="What came of each row, JSONL.  [default: DIR.results.jsonl]")
@click.option("--name", help="Of the manifest.  [default: that of DIR]")
@click.option("--drop", multiple=True, type=_DROPPABLE, help="Leave rows of this outcome out. Repeatable.")
@click.option(
    "--max-dropped-fraction", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Of all rows."
)
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@json_option
def fetch(
    list_path: Path,
    out: Path,
    results: Path | None,
    name: str | None,
    drop: tuple[str, ...],
    max_dropped_fraction: float,
    is_replaced: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fetch the addresses of LIST (CSV, JSONL, Parquet) whose bytes have the digest that LIST says.

    LIST's signature is verified first. Nothing appears at DIR unless every row came out well or is left out by --drop.
    """
    from millcert.provenance.url_fetch import FetchPlan, fetch_rows
    from millcert.provenance.url_results import write_results
    from millcert.provenance.url_store import fetch_store
    from millcert.provenance.url_transport import Transport

    if not out.name or out.name == "..":
        raise UsageError(f"--out {out} has no name of its own.", hint="Name a folder that is not there yet.")
    about, rows = _opened(list_path, options)
    limits, reach = _bounds(options)
    plan = FetchPlan(
        frozenset(drop),
        max_dropped_fraction,
        options["max_total_bytes"],
        options["max_total_seconds"],
        options["workers"],
    )
    results_path = results if results is not None else out.with_name(f"{out.name}.results.jsonl")
    with fetch_store(out) as store:
        old = store.published()
        fetched = fetch_rows(
            rows,
            name=name or out.resolve().name,
            store=store,
            transport=lambda: Transport(limits, reach),
            plan=plan,
            max_bytes=limits.max_bytes,
            progress=(lambda _done, _all: None) if quiet else _progress(),
            is_complete_expected=old is not None and not is_replaced,
        )
        write_results(results_path, about, fetched.results)
        if fetched.error is not None:
            fetched.error.details["results"] = str(results_path)
            fetched.error.hint = f"{fetched.error.hint} Every row: {results_path}."
            raise fetched.error
        manifest = fetched.manifest
        if manifest is None:
            raise AssertionError("A fetch without an error has a manifest.")
        if old is None or old.root != manifest.root or not store.is_whole(manifest):
            if old is not None and not is_replaced:
                raise UsageError(f"{out} holds an earlier fetch that differs.", hint="Use --replace to replace it.")
            store.promote(manifest)
        else:
            store.discard()
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    dropped = _dropped(fetched.results)
    emit(
        {
            "version": 1,
            "files": len(manifest.files),
            "size_bytes": size_bytes,
            "root": manifest.root,
            "rows": len(rows),
            "fetched": fetched.fetched,
            "reused": fetched.reused,
            "dropped": dropped,
            "signer": about.identity,
            "out": str(out),
            "results": str(results_path),
        },
        _fetch_text(
            out,
            manifest.name,
            results_path,
            about,
            rows,
            fetched.results,
            len(manifest.files),
            size_bytes,
            fetched.reused,
        ),
        as_json=as_json,
    )


@click.command("recheck")
@_list_options
@click.option("--results", type=_FILE, help="The result file of the fetch, to tell who answered then.")
@click.option("--out", "report", type=_FILE, help="Where to write what came of each row, JSONL.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@json_option
def recheck(
    list_path: Path, results: Path | None, report: Path | None, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Ask the addresses of LIST again, and say which serve the same bytes, others, or none. Stores no data.

    Exit codes: 0 all the same, 3 some changed, 5 some cannot be reached now (retry is safe), 4 some are gone.
    """
    from millcert.provenance.url_fetch import Budget
    from millcert.provenance.url_recheck import counts, exit_code, recheck_rows
    from millcert.provenance.url_results import read_results, write_results
    from millcert.provenance.url_transport import Transport

    about, rows = _opened(list_path, options)
    before: Mapping[int, UrlResult] = {}
    if results is not None:
        digest, before = read_results(results)
        if digest != about.sha256:
            raise UsageError(f"{results} is about another list ({digest[:16]}).", hint="Give that of this LIST.")
    limits, reach = _bounds(options)
    with Transport(limits, reach) as transport:
        found = recheck_rows(
            rows,
            transport,
            before=before,
            budget=Budget(options["max_total_bytes"], options["max_total_seconds"]),
            max_bytes=limits.max_bytes,
            workers=options["workers"],
            progress=(lambda _done, _all: None) if quiet else _progress(),
        )
    if report is not None:
        write_results(report, about, found)
    code = exit_code(found)
    tally = counts(found)
    other = [one for one in found if one.outcome != "same"]
    lines = [
        f"rechecked  {list_path.name}  {len(rows):,} rows: " + ", ".join(f"{n:,} {w}" for w, n in tally.items() if n)
    ]
    lines += [_line(one) for one in other[:_SHOWN]]
    lines += [f"  and {len(other) - _SHOWN:,} more; --out FILE lists all"] if len(other) > _SHOWN else []
    lines.append("next: " + _NEXT[code])
    shown = [
        {"row": one.row, "url": one.url, "outcome": one.outcome, "reason": one.reason, "signs": list(one.signs)}
        for one in other
    ]
    emit(
        {"version": 1, "exit_code": code, "rows": len(rows), "counts": tally, "not_same": shown},
        "\n".join(lines),
        as_json=as_json,
    )
    raise SystemExit(code)


_NEXT = {
    0: "nothing to do; run it again before the list is next used",
    3: "keep the bytes that were fetched before, and tell the list's curator; a new fetch would be refused",
    4: "keep the bytes that were fetched before: they cannot be had there any more",
    5: "run it again later; nothing was stored",
}


def _opened(list_path: Path, options: Mapping[str, Any]) -> "tuple[ListIdentity, tuple[UrlRow, ...]]":
    """Return the list, read from the very bytes that its signature covers."""
    import hashlib

    from millcert.pipelines.url_table import read_url_list
    from millcert.provenance.url_list import MAX_LIST_BYTES
    from millcert.provenance.url_results import ListIdentity

    data = read_bounded(list_path, MAX_LIST_BYTES, what="list", hint="Check the path.")
    if len(data) > MAX_LIST_BYTES:
        raise UsageError(f"{list_path} has more than {MAX_LIST_BYTES:,} bytes.", hint="Split it, and fetch the parts.")
    signature = _verified(list_path, data, options)
    columns = {"url": options["url_column"], "sha256": options["sha256_column"]}
    rows = read_url_list(data, name=list_path.name, columns=columns)
    about = ListIdentity(
        list_path.name,
        hashlib.sha256(data).hexdigest(),
        "" if signature is None else signature.identity,
        "" if signature is None else signature.issuer,
    )
    return about, rows


def _verified(list_path: Path, data: bytes, options: Mapping[str, Any]) -> "VerifiedSignature | None":
    """Return who signed the list; None where nobody did and that was asked for."""
    policy, name = options["policy_path"], options["source_name"]
    if options["is_unsigned"]:
        if policy is not None or name is not None or options["bundle"] is not None:
            raise UsageError(
                "--unsafe-unsigned-list verifies nothing, so it goes with no --policy, --source or --bundle."
            )
        sys.stderr.write(f"unsafe: nobody vouches for {list_path}; whoever wrote it chose the digests, too\n")
        return None
    if policy is None or name is None:
        raise UsageError(
            "Nobody was named who may sign the list.",
            hint="Give --policy and --source; or --unsafe-unsigned-list, if you made the list yourself.",
        )
    from millcert.provenance.bundle import MAX_BUNDLE_BYTES, verify_bundle
    from millcert.provenance.pq_signature import MAX_PQ_BYTES, verify_pq
    from millcert.provenance.trust_verify import require_age

    rule, signers, root = _signers(policy, name)
    bundle = options["bundle"] or bundle_of(list_path)
    if not bundle.exists():
        raise UntrustedSourceError(
            f"{list_path} has no signature at {bundle}.",
            hint="Fetch the bundle that its curator signed, or name it with --bundle.",
            reason="unsigned",
        )
    signed = read_bounded(bundle, MAX_BUNDLE_BYTES, what="bundle", hint="Check the path.")
    signature = verify_bundle(data, signed, root=root, identity=signers)
    require_age(rule, signature)
    if rule.pq_keys:
        second = pq_of(list_path)
        read = read_bounded(second, MAX_PQ_BYTES, what="post-quantum signature", hint="") if second.exists() else None
        verify_pq(read, data, rule.pq_keys)
    return signature


def _signers(policy_path: Path, name: str) -> "tuple[SourceRule, tuple[Signer, ...], TrustRoot | None]":
    """Return a source's rule, its signers, and the root to verify them against."""
    from datetime import UTC, datetime

    from millcert.policy import load_policy
    from millcert.provenance.trust import load_trust_root, refuse_expired

    loaded = load_policy(policy_path)
    said = next((rule for rule in loaded.policy.sources if rule.name == name), None)
    if said is None:
        known = ", ".join(rule.name for rule in loaded.policy.sources)
        raise PolicyError(f"The policy has no source {name!r}; it has {known}.")
    now = datetime.now(UTC)
    rule = said.to_trust_rule(now)
    if rule.signed_by is None:
        raise PolicyError(
            f"Source {name!r} is signed by nobody, so nobody can vouch for the list.",
            hint="Name its signer, or give --unsafe-unsigned-list in place of a policy.",
        )
    refuse_expired([rule], now)
    trust = loaded.policy.trust
    root = None if trust is None else load_trust_root(loaded.files["trust.trusted_root"], trust.trusted_root_sha256)
    if root is None and rule.needs_trust_root:
        raise SignatureError(
            f"Source {name!r} must be logged, but the policy pins no trusted root.", reason="no_trusted_root"
        )
    return rule, rule.signed_by, root


def _bounds(options: Mapping[str, Any]) -> "tuple[UrlLimits, Reach]":
    from millcert.provenance.url_transport import Reach, UrlLimits

    limits = UrlLimits(max_bytes=options["max_bytes"], max_seconds=options["max_seconds"], retries=options["retries"])
    hosts = frozenset(host.lower() for host in options["redirect_host"])
    return limits, Reach(options["ca_file"], hosts, options["is_private_allowed"])


def _progress() -> Callable[[int, int], None]:
    import time

    last = time.monotonic()

    def tell(done: int, rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            sys.stderr.write(f"{done:,} of {rows:,} rows\n")

    return tell


def _dropped(results: "Sequence[UrlResult]") -> list[dict[str, Any]]:
    return [
        {"row": one.row, "url": one.url, "outcome": one.outcome, "reason": one.reason}
        for one in results
        if one.is_dropped
    ]


def _fetch_text(
    out: Path,
    name: str,
    results_path: Path,
    about: "ListIdentity",
    rows: "Sequence[UrlRow]",
    results: "Sequence[UrlResult]",
    files: int,
    size_bytes: int,
    reused: int,
) -> str:
    dropped = [one for one in results if one.is_dropped]
    by = f"signed by {_shown(about.identity)}" if about.identity else "UNSIGNED: nobody vouches for its digests"
    lines = [
        f"fetched  {out}  {files:,} files, {size_bytes:,} bytes, of {len(rows):,} rows ({reused:,} were here already)",
        f"  list: {about.name}, {by}",
    ]
    lines += [f"  left out: {len(dropped):,} rows"] if dropped else []
    lines += [_line(one) for one in dropped[:_SHOWN]]
    lines += [
        f"  results: {results_path}",
        f"next: millcert source sign {quoted(out)} --name {quoted(name)} --key KEY (or --keyless), then millcert vet",
    ]
    return "\n".join(lines)


def _line(one: "UrlResult") -> str:
    reason = f" ({one.reason})" if one.reason else ""
    signs = f"; not as before: {', '.join(one.signs)}" if one.signs else ""
    return f"  {one.outcome:<13} row {one.row}: {_shown(one.url[:200])}{reason}{signs}"


def _shown(text: str) -> str:
    """Show characters that do not print by their number: a list must not command the terminal."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)
