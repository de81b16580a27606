"""The README's commands run as they stand there, and print what stands there."""

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def console_blocks(text: str) -> list[tuple[str, list[str]]]:
    """Return (command, expected lines) of every ```console block."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def as_pattern(line: str) -> str:
    """In the README `...` stands for anything; all else is literal."""
    return "*".join(re.sub(r"([\[\]?*])", r"[\1]", part) for part in line.split("..."))


def matches(expected: list[str], actual: list[str]) -> bool:
    """Say whether `actual` is `expected`, where a line of `...` alone stands for any lines."""
    if not expected:
        return not actual
    if expected[0] == "...":
        return any(matches(expected[1:], actual[skipped:]) for skipped in range(len(actual) + 1))
    return (
        bool(actual) and fnmatch.fnmatchcase(actual[0], as_pattern(expected[0])) and matches(expected[1:], actual[1:])
    )


def test_the_comparison_knows_a_difference() -> None:
    assert matches(["a", "...", "d ... f"], ["a", "b", "c", "d e f"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a", "..."], ["b"])


@pytest.mark.slow
def test_the_commands_of_the_readme_print_what_it_says(tmp_path: Path) -> None:
    commands = console_blocks((ROOT / "README.md").read_text())
    assert len(commands) >= 4
    prepare = f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); from pathlib import Path; import demo; "
    subprocess.run([sys.executable, "-c", prepare + "demo.prepare(Path('.'), planted=True)"], check=True, cwd=tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    for command, expected in commands:
        ran = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert matches(expected, ran.stdout.splitlines()), f"{command} printed:\n{ran.stdout}"


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]

    assert broken == []
