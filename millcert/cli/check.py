"""`millcert check`: list the checks, describe one, and hold one to the rules that every check keeps."""

import json
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.checks.base import Check

#: The schema of this group's JSON answers; changes with any field.
SCHEMA = "millcert.check/1"


@click.group()
def check() -> None:
    """List, describe and try single checks."""


@check.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """List every check: ours and installed plug-ins."""
    from millcert.checks.registry import check_class, list_checks

    facts = [_facts(name, check_class(name)) for name in list_checks()]
    width = max((len(item["name"]) for item in facts), default=0)
    lines = [f"{item['name']:<{width}}  {item['severity']:<6}  {item['summary']}" for item in facts]
    text = "\n".join([*lines, "next: millcert check describe NAME"])
    emit({"schema": SCHEMA, "checks": facts}, text, as_json=as_json)


@check.command()
@click.argument("name")
@json_option
def describe(name: str, as_json: bool) -> None:
    """Say what the check NAME needs, finds and does not find, and list its configuration."""
    from millcert.checks.registry import check_class, describe_fields

    kind = check_class(name)
    facts = _facts(name, kind)
    options = describe_fields(kind)
    payload = {"schema": SCHEMA, **facts, "description": _documentation(kind), "config": options}
    lines = [
        f"{name} {facts['version']}  ({facts['severity']})",
        "",
        _documentation(kind),
        "",
        f"columns: {', '.join(facts['columns'])}",
        f"covers:  {', '.join(facts['covers'])}",
        "config:  " + (", ".join(_option_text(option) for option in options) or "none"),
        f"next: millcert check conform {name}",
    ]
    emit(payload, "\n".join(lines), as_json=as_json)


@check.command()
@click.argument("name")
@click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field of its configuration; repeatable."
)
@json_option
@click.pass_context
def conform(context: click.Context, name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance suite on the check NAME; exit code 1 if it breaks a rule."""
    from millcert.checks.conformance import ConformanceError, conformance_cases
    from millcert.checks.registry import get_check

    subject = get_check(name, dict(_setting(text) for text in settings))
    results: list[dict[str, str]] = []
    for case in conformance_cases(subject):
        fault = ""
        try:
            case.run()
        except ConformanceError as error:
            fault = error.message
        results.append({"case": case.name, "rule": case.rule, "fault": fault})
    broken = sum(1 for result in results if result["fault"])
    emit(
        {"schema": SCHEMA, "name": name, "conforms": not broken, "cases": results},
        _conformance_text(name, results, broken),
        as_json=as_json,
    )
    if broken:
        context.exit(ConformanceError.exit_code)


def _conformance_text(name: str, results: list[dict[str, str]], broken: int) -> str:
    lines = [
        f"{'BROKEN' if result['fault'] else 'kept  '}  {result['case']}"
        + (f"\n        {result['fault']}" if result["fault"] else "")
        for result in results
    ]
    end = (
        f"{name} breaks {broken} of {len(results)} rules\nnext: repair it; the rules stand in millcert.checks.base"
        if broken
        else f"{name} keeps all {len(results)} rules\nnext: name it in a policy, then millcert policy check policy.yaml"
    )
    return "\n".join([*lines, end])


def _facts(name: str, kind: "type[Check]") -> dict[str, Any]:
    return {
        "name": name,
        "version": kind.version,
        "severity": kind.severity,
        "columns": sorted(kind.columns),
        "covers": sorted(kind.covers),
        "summary": _documentation(kind).split("\n", maxsplit=1)[0],
    }


def _documentation(kind: type) -> str:
    import inspect

    return inspect.getdoc(kind) or ""


def _option_text(option: dict[str, Any]) -> str:
    end = "required" if option["required"] else f"default {json.dumps(option['default'])}"
    return f"{option['name']} ({option['type']}, {end})"


def _setting(text: str) -> tuple[str, object]:
    """Return field and value of FIELD=VALUE; a value is JSON where it can be read so, else text."""
    field, separator, value = text.partition("=")
    if not separator or not field:
        raise UsageError(f"Expected FIELD=VALUE, got {text!r}.", hint="For example --set epsilon=0.01.")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value
