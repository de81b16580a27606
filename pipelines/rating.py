"""The rates that checks keep of a version, and what rose since the last admitted one.

Rules this module keeps:
  1. The file of rates has one form, so its digest names it; a reference is believed only under the digest that the
     ledger gives it.
  2. Rates are compared where the check and its configuration are the same; else they are counted as new.
  3. A comparison that cannot be made leaves the run refused, never a rise unseen.

Format: docs/formats/rates.md.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from apache_beam.io.filesystems import FileSystems

from millcert.checks.rate_history import (
    FAMILY_ALPHA,
    KeepsRates,
    Rate,
    RateChanges,
    Rates,
    Rise,
    compare_rates,
    count_comparisons,
)
from millcert.errors import IntegrityError, MillcertError, StoreError
from millcert.pipelines.models import Models
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.publish import write_file
from millcert.pipelines.records import CheckFailure, Fault, fault_from
from millcert.provenance.strict_json import canonical_json, parse_json_object
from millcert.verdict import RateSummary, Reason

#: What a run publishes, and where the reference stands in the staging folder.
RATES_FILE = "rates.json"
RATES_REFERENCE_FILE = "reference-rates.json"
#: 4,096 rates of a few checks, with long names.
MAX_RATES_BYTES = 64 << 20
#: Rises that a verdict lists; all are counted.
MAX_LISTED = 100


class KeptRates(NamedTuple):
    """What a version keeps of one check."""

    version: str
    config_digest: str
    rates: Rates


class Rated(NamedTuple):
    """What the ruling learns of the rates: their digest, the comparison, and what speaks against the data."""

    digest: str
    summary: RateSummary | None
    rejects: tuple[Reason, ...]
    faults: tuple[Fault, ...] = ()


NOT_RATED = Rated("", None, ())


def rate_run(plan: VetPlan, models: Models) -> Rated:
    """Return what the rates say, after they were written to the staging folder beside what is published."""
    found = {
        planned.name: KeptRates(planned.check.version, planned.config_digest, planned.check.rates(models[planned.name]))
        for planned in plan.checks
        if isinstance(planned.check, KeepsRates)
        and planned.name in models
        and not isinstance(models[planned.name], CheckFailure)
    }
    if not found:
        return NOT_RATED
    try:
        data = rates_bytes(found)
        write_file(f"{plan.staging}/publish/{RATES_FILE}", data)
        asked = {planned.name for planned in plan.checks if planned.on_rise}
        if not asked:  # the verdict then depends on the data alone, and not on what was admitted before
            return Rated(rates_digest(data), None, ())
        before = load_rates(_read(plan.rates_uri)) if plan.rates_uri else {}
        compared = {name: kept for name, kept in found.items() if name in asked}
        return _judge(plan, before, compared, rates_digest(data))
    except MillcertError as error:
        return Rated("", None, (), (fault_from(error),))


def compares_rates(plan: VetPlan) -> bool:
    """Return whether any check of a plan has its rates compared with those of the last admitted version."""
    return any(planned.on_rise for planned in plan.checks)


def rates_digest(data: bytes) -> str:
    """Return the name of a file of rates: SHA-256 of its bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def rates_bytes(found: Mapping[str, KeptRates]) -> bytes:
    """Return the file of rates, in its one form."""
    checks = {
        name: {
            "version": kept.version,
            "config_digest": kept.config_digest,
            "left_out": kept.rates.left_out,
            "rates": [[list(rate.name), rate.rows, rate.seen] for rate in kept.rates.rates],
            "rows": [[list(group), rows] for group, rows in kept.rates.rows],
        }
        for name, kept in found.items()
    }
    return canonical_json({"checks": checks, "version": 1}, what="rates")


def load_rates(data: bytes) -> dict[str, KeptRates]:
    """Return what `rates_bytes` wrote.

    Raises:
        IntegrityError: it is not such a file.
    """
    raw = parse_json_object(data, what="rates", max_bytes=MAX_RATES_BYTES, error=IntegrityError)
    try:
        if raw["version"] != 1:
            raise IntegrityError(f"Rates have the version 1, got {raw['version']!r}.", hint="Use a newer millcert.")
        found = {name: _kept(item) for name, item in raw["checks"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(
            f"The file of rates is damaged: {error}", hint="Restore it from the version's rates.json."
        ) from error
    if rates_bytes(found) != data:
        raise IntegrityError("The file of rates is not in its one form.", hint="Restore it from the version's.")
    return found


def _kept(item: Mapping[str, Any]) -> KeptRates:
    rates = tuple(Rate(tuple(map(str, name)), int(rows), int(seen)) for name, rows, seen in item["rates"])
    groups = tuple((tuple(map(str, name)), int(rows)) for name, rows in item["rows"])
    return KeptRates(str(item["version"]), str(item["config_digest"]), Rates(rates, int(item["left_out"]), groups))


def _judge(plan: VetPlan, before: Mapping[str, KeptRates], found: Mapping[str, KeptRates], digest: str) -> Rated:
    known = {
        name: before[name].rates if name in before and before[name][:2] == kept[:2] else Rates((), 0, ())
        for name, kept in found.items()
    }
    comparisons = max(1, sum(count_comparisons(known[name], kept.rates) for name, kept in found.items()))
    planned = {one.name: one for one in plan.checks}
    changes = {
        name: compare_rates(
            known[name], kept.rates, comparisons=comparisons, tolerated_rise=planned[name].tolerated_rise
        )
        for name, kept in found.items()
    }
    rejects = [_reason(planned[name], change) for name, change in sorted(changes.items()) if change.rises]
    listed = sorted(
        ((name, rise) for name, change in changes.items() for rise in change.rises),
        key=lambda item: (item[1].p_value, item[0], item[1].name),
    )
    summary = RateSummary(
        reference=plan.rates_digest,
        alpha=FAMILY_ALPHA,
        compared=sum(change.compared for change in changes.values()),
        new=sum(change.new for change in changes.values()),
        risen=len(listed),
        on_rise={name: planned[name].on_rise for name in sorted(found)},
        rises=tuple({"check": name, **rise._asdict()} for name, rise in listed[:MAX_LISTED]),
    )
    return Rated(digest, summary, tuple(reason for check, reason in rejects if check.on_rise == "reject"))


def _reason(planned: PlannedCheck, change: RateChanges) -> tuple[PlannedCheck, Reason]:
    first = change.rises[0]
    more = f", and {len(change.rises) - 1} more" if len(change.rises) > 1 else ""
    return planned, Reason("rates.risen", f"{planned.name}: {describe_rise(first)}{more}")


def describe_rise(rise: Rise | Mapping[str, Any]) -> str:
    """Return a rise in words."""
    item = rise._asdict() if isinstance(rise, Rise) else rise
    what = " -> ".join(item["name"]) or "all labels"
    return (
        f"{what}: {item['seen']:,} of {item['rows']:,} are doubted, {item['seen_before']:,} of "
        f"{item['rows_before']:,} were in the last admitted version (p {float(item['p_value']):.2g})"
    )


def rises_in_words(rated: Rated, check: str) -> list[str]:
    """Return the rises of one check in words, the surest three."""
    rises = () if rated.summary is None else rated.summary.rises
    mine = [describe_rise(rise) for rise in rises if rise["check"] == check]
    return mine[:3] + ([f"and {len(mine) - 3} more rates rose"] if len(mine) > 3 else [])


def _read(uri: str) -> bytes:
    try:
        with FileSystems.open(uri, compression_type="uncompressed") as stream:
            return bytes(stream.read())
    except OSError as error:
        raise StoreError(f"The reference rates cannot be read: {error}", hint="Run again.") from error
