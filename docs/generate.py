"""Write what is made of the code: the command line's reference, a page for each check, the list of expectations.

`python docs/generate.py` writes them, `--check` fails if one differs from what the code says now.
"""

import argparse
import inspect
import sys
from importlib.metadata import version
from pathlib import Path

import click
from click.testing import CliRunner

from millcert.checks.coverage import ATTACK_FAMILIES
from millcert.checks.expectations_catalog import ExpectationFacts, catalog, own_expectations
from millcert.checks.registry import check_class, describe_fields, list_checks
from millcert.cli.main import COMMANDS, root

DOCS = Path(__file__).parent
WIDTH = 100
BEGIN, END = "<!-- list: made by docs/generate.py -->", "<!-- end of list -->"


def main() -> int:
    """Write or compare; return 1 if a page differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Fail instead of writing.")
    only_check: bool = parser.parse_args().check
    pages = {DOCS / "cli.md": command_reference(), **check_pages(), DOCS / "expectations.md": expectation_page()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in (DOCS / "checks").glob("*.md") if path not in pages]
    if only_check and stale:
        names = ", ".join(str(path.relative_to(DOCS.parent)) for path in stale)
        sys.stderr.write(f"Out of date: {names}. Run `python docs/generate.py`.\n")
        return 1
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for path in set(stale) - set(pages):
        path.unlink()
    return 0


def command_reference() -> str:
    """Return `docs/cli.md`: the help of every command, as it prints it."""
    parts = ["# Command line\n\nMade of `--help` by docs/generate.py.\n", _help([])]
    for name in COMMANDS:
        parts.append(_help([name]))
        command = root.get_command(click.Context(root), name)
        if isinstance(command, click.Group):
            parts += [_help([name, sub]) for sub in sorted(command.commands)]
    return "\n".join(parts)


def _help(words: list[str]) -> str:
    result = CliRunner().invoke(root, [*words, "--help"], prog_name="millcert", terminal_width=WIDTH)
    if result.exit_code != 0:
        raise SystemExit(f"millcert {' '.join(words)} --help failed: {result.output}")
    title = " ".join(["millcert", *words])
    return f"## {title}\n\n```text\n{result.output.rstrip()}\n```\n"


def check_pages() -> dict[Path, str]:
    """Return a page for each registered check, and the list of them."""
    pages: dict[Path, str] = {}
    rows = []
    for name in list_checks():
        kind = check_class(name)
        fields = [f"| `{field['name']}` | `{field['type']}` | {_default(field)} |" for field in describe_fields(kind)]
        covers = "".join(f"- {ATTACK_FAMILIES.get(family, family)}\n" for family in sorted(kind.covers))
        module = inspect.getdoc(inspect.getmodule(kind)) or ""
        pages[DOCS / "checks" / f"{kind.name}.md"] = (
            f"# {kind.name}\n\nMade of the docstrings by docs/generate.py.\n\n"
            f"Version {kind.version}. A flag means: {kind.severity}.\n\n## What it does\n\n```text\n{module}\n```\n\n"
            f"## Details\n\n```text\n{inspect.getdoc(kind)}\n```\n\n## Attacks it can see\n\n{covers}\n"
            f"## Configuration\n\n| field | type | default |\n|---|---|---|\n" + "\n".join(fields) + "\n"
        )
        summary = (inspect.getdoc(kind) or "").split("\n", 1)[0]
        rows.append(f"| [{kind.name}]({kind.name}.md) | {kind.severity} | {summary} |")
    pages[DOCS / "checks" / "README.md"] = (
        "# Checks\n\nMade of the docstrings by docs/generate.py.\n\n"
        "| check | a flag means | what it flags |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    return pages


def expectation_page() -> str:
    """Return `docs/expectations.md` with its list of expectations as the planner answers them now."""
    path = DOCS / "expectations.md"
    text = path.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} lacks the lines {BEGIN!r} and {END!r}, between which the list stands.")
    facts = list(catalog())
    answered = sum(one.is_supported for one in facts)
    rows = [
        f"| `{one.name.removeprefix('expect_')}` | {', '.join(one.families) or 'the table'} | {_measured(one)} | "
        f"{one.reads} | {one.exactness} | {'each' if one.per_row else ''} |"
        for one in facts
        if one.is_supported
    ]
    refused = [f"| `{one.name.removeprefix('expect_')}` | {one.refusal} |" for one in facts if not one.is_supported]
    table = "\n".join(
        [
            "",
            f"{answered} of the {len(facts)} expectations of GX {version('great-expectations')}, each planned on a",
            "column of each family by docs/generate.py. *Reads*: at most. *Rows*: whether each failing row is listed.",
            "",
            "| expect_... | columns | measured | reads | exact | rows |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "| refused: expect_... | why |",
            "|---|---|",
            *refused,
            "",
            "| millcert's own: expect_... | what ([drift](drift.md)) |",
            "|---|---|",
            *(f"| `{name.removeprefix('expect_')}` | {words} |" for name, words in own_expectations().items()),
            "",
        ]
    )
    return head + BEGIN + table + END + tail


def _measured(one: ExpectationFacts) -> str:
    every = ("How many rows there are", "The rows in which a column is null or NaN")
    words = [each for each in one.measures if each not in every] or list(one.measures) or ["the schema"]
    return "; ".join(each[0].lower() + each[1:] for each in words)


def _default(field: dict[str, object]) -> str:
    return "required" if field["required"] else f"`{field['default']!r}`"


if __name__ == "__main__":
    sys.exit(main())
