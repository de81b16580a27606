"""docs/dataflow.md and the Dockerfile: what a platform engineer copies is parsed here, since no Docker runs it."""

import re
import shlex
from pathlib import Path

import pytest

from millcert.cli.vet import vet
from millcert.pipelines.runner import pipeline_options, split_arguments

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dataflow.md").read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined, comments left out."""
    text = "\n".join(
        line for line in (ROOT / "deploy/dataflow/Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def commands(start: str) -> list[list[str]]:
    """The page's commands that begin with `start`."""
    blocks = re.findall(r"(?m)(?:^    .*\n?)+", PAGE)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def test_the_dockerfile_uses_known_instructions_and_takes_nothing_from_the_network_but_pinned_packages() -> None:
    found = instructions()
    names = [name for name, _ in found]
    (run,) = [rest for name, rest in found if name == "RUN"]

    assert names == ["ARG", "FROM", "COPY", "RUN", "ENV", "ENTRYPOINT"]
    assert dict(found)["FROM"] == "${BASE}"
    assert "--constraint /tmp/millcert/constraints.txt" in run
    assert not re.search(r"https?://|curl|wget|apt", run)


def test_the_image_has_the_beam_that_is_pinned_and_a_python_that_the_package_takes() -> None:
    base = dict(instructions())["ARG"]
    found = re.fullmatch(r"BASE=apache/beam_python(\d\.\d+)_sdk:([\d.]+)", base)

    assert found is not None
    assert f"apache-beam=={found[2]}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert f"Programming Language :: Python :: {found[1]}" in (ROOT / "pyproject.toml").read_text()


def test_the_dockerfile_copies_what_there_is_and_starts_beam_s_worker() -> None:
    *sources, target = dict(instructions())["COPY"].split()

    assert sources == ["constraints.txt", "dist/millcert-*.whl"]
    assert target == "/tmp/millcert/"
    assert dict(instructions())["ENTRYPOINT"] == '["/opt/apache/beam/boot"]'


@pytest.mark.parametrize("command", commands("millcert vet"), ids=["dry run", "run"])
def test_every_option_on_the_page_is_one_that_millcert_or_beam_takes(command: list[str]) -> None:
    context = vet.make_context("vet", list(command[2:]))
    datasets, options = split_arguments(context.params["arguments"])

    assert len(datasets) == 1
    assert pipeline_options(options).get_all_options()["region"] == "REGION"


def test_the_page_has_both_commands() -> None:
    assert len(commands("millcert vet")) == 2
    assert len(commands("docker build")) == 1
