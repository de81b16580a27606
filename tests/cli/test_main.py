"""The root of the command line: exit codes, texts, JSON, and that a mistake never shows a traceback."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from millcert import __version__
from millcert.cli import main as main_module
from millcert.cli.main import COMMANDS, LazyCommand, LazyGroup, main, root, translate
from millcert.cli.output import emit
from millcert.errors import DigestMismatchError, InternalError, MillcertError, PolicyError, StoreError, UsageError
from millcert.policy_faults import PolicyFault

REPOSITORY = Path(main_module.__file__).parents[2]

Run = Callable[..., int]


@pytest.fixture
def failing() -> Iterator[Callable[[BaseException], None]]:
    """Add a command `fail` to the root that raises what the test says."""
    raised: list[BaseException] = []

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.argument("rest", nargs=-1)
    def fail(*, as_json: bool, rest: tuple[str, ...]) -> None:
        raise raised[0]

    root.add_command(fail, "fail")
    yield raised.append
    del root.commands["fail"]


def error_of(out: str) -> dict[str, object]:
    answer = json.loads(out)
    assert list(answer) == ["error"]
    error: dict[str, object] = answer["error"]
    return error


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"millcert {__version__}\n"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command_with_its_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0

    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_can_be_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: millcert {name}")


def test_no_command_prints_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: millcert")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vett"], "Did you mean 'vet'?"),
        (["zzzzzz"], "Known are vet, "),
        (["--zz"], "No such option"),
        (["policy", "--zz"], "No such option"),
        (["policy", "check"], "Missing argument 'FILE'"),
        (["policy", "init", "a", "b"], "unexpected extra argument"),
    ],
)
def test_a_wrong_call_is_a_usage_error_in_a_few_lines(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert "  code: usage.error\n" in captured.err
    assert "Traceback" not in captured.err


def test_a_wrong_call_with_json_answers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", "--json"]) == 2

    captured = capsys.readouterr()
    assert captured.err == ""
    assert error_of(captured.out)["code"] == "usage.error"


@pytest.mark.parametrize(
    "error",
    [
        kind("what was found", hint="what to do")
        for kind in (UsageError, DigestMismatchError, StoreError, InternalError)
    ],
)
def test_an_error_of_ours_has_its_own_exit_code(
    error: MillcertError, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)

    assert main(["fail"]) == error.exit_code
    assert capsys.readouterr().err == f"error: what was found\n  hint: what to do\n  code: {error.code}\n"


def test_an_error_without_a_hint_has_no_hint_line(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(UsageError("what was found"))

    assert main(["fail"]) == 2
    assert capsys.readouterr().err == "error: what was found\n  code: usage.error\n"


def test_json_carries_the_values_behind_an_error(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    details = {
        "path": Path("a/b"),
        "digest": b"\x01\xff",
        "fault": PolicyFault("p.yaml", 1, 2, "k", "m"),
        "names": {"b", "a"},
        "nested": {1: (1.5, float("nan"), None, True)},
    }
    failing(DigestMismatchError("message", hint="hint", **details))

    assert main(["fail", "--json"]) == 3

    captured = capsys.readouterr()
    assert captured.err == ""
    assert error_of(captured.out) == {
        "code": "integrity.digest_mismatch",
        "message": "message",
        "hint": "hint",
        "exit_code": 3,
        "details": {
            "path": "a/b",
            "digest": "01ff",
            "fault": {"path": "p.yaml", "line": 1, "column": 2, "key": "k", "message": "m"},
            "names": ["a", "b"],
            "nested": {"1": [1.5, "nan", None, True]},
        },
    }


def test_an_argument_behind_two_dashes_is_no_option(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(UsageError("m"))

    assert main(["fail", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_a_bug_says_that_it_is_one_and_shows_no_traceback(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyError("x"))

    assert main(["fail"]) == 70

    err = capsys.readouterr().err
    assert "KeyError: 'x'. This is a bug of millcert; nothing was admitted." in err
    assert "millcert -v" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["-v", "--verbose"])
@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), 70), (UsageError("m"), 2)])
def test_verbose_shows_the_traceback_and_keeps_the_exit_code(
    option: str,
    error: Exception,
    code: int,
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(error)

    assert main([option, "fail"]) == code

    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert "in fail" in err


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, 2),
        (errno.EACCES, 2),
        (errno.EISDIR, 2),
        (errno.ENOTDIR, 2),
        (errno.EEXIST, 2),
        (errno.ENAMETOOLONG, 2),
        (errno.ENOSPC, 5),
        (errno.EDQUOT, 5),
        (errno.EIO, 5),
        (errno.EROFS, 5),
        (errno.ECONNREFUSED, 5),
    ],
)
def test_a_fault_of_the_system_is_the_user_s_path_or_the_store(
    number: int, code: int, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError(number, os.strerror(number), "some/path"))

    assert main(["fail"]) == code

    err = capsys.readouterr().err
    assert "some/path" in err
    assert "Traceback" not in err


def test_a_fault_of_the_system_without_a_path_is_the_store_s() -> None:
    assert isinstance(translate(TimeoutError("timed out")), StoreError)


def test_no_memory_is_no_bug(failing: Callable[[BaseException], None]) -> None:
    failing(MemoryError())

    assert main(["fail"]) == 5


def test_an_interrupt_ends_quietly(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyboardInterrupt())

    assert main(["fail"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted; nothing was admitted"


@pytest.mark.parametrize(("error", "code"), [(SystemExit(4), 4), (SystemExit(0), 0), (click.exceptions.Exit(1), 1)])
def test_a_command_s_own_exit_code_is_kept(
    error: BaseException, code: int, failing: Callable[[BaseException], None]
) -> None:
    failing(error)

    assert main(["fail"]) == code


@pytest.mark.parametrize("error", [SystemExit("text"), SystemExit(None)])
def test_an_exit_without_a_number_is_never_taken_for_admitted(
    error: SystemExit, failing: Callable[[BaseException], None]
) -> None:
    failing(error)

    assert main(["fail"]) != 0


def test_a_plain_fault_of_click_is_not_rejected(failing: Callable[[BaseException], None]) -> None:
    """Rule 2: exit code 1 means "rejected" and nothing else."""
    failing(click.ClickException("m"))

    assert main(["fail"]) == 2


def test_every_fault_of_a_policy_stands_on_its_own_line(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(PolicyError("p.yaml is no valid policy, 2 faults:\n  p.yaml:1:2: a: m\n  p.yaml:3:4: b: n"))

    assert main(["fail"]) == 2
    assert capsys.readouterr().err.splitlines()[1:3] == ["  p.yaml:1:2: a: m", "  p.yaml:3:4: b: n"]


def test_a_file_name_cannot_command_the_terminal(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(UsageError("no file \x1b]0;owned\x07\r\x9b2J"))

    assert main(["fail"]) == 2
    assert "no file \\x1b]0;owned\\x07\\x0d\\x9b2J\n" in capsys.readouterr().err


def test_a_file_name_cannot_turn_the_line_around(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(UsageError("no file \u202efdp.exe\u2066\u2028\ufeff"))

    assert main(["fail"]) == 2
    assert "no file \\x202efdp.exe\\x2066\\x2028\\xfeff\n" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_terminal_that_cannot_show_a_name_is_no_failure(monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    emit({"name": "caf\u00e9 \udcff"}, "caf\u00e9 \udcff", as_json=as_json)
    shown.flush()
    assert b"\\xe9 \\udcff" in shown.buffer.getvalue().replace(b"u00e9", b"xe9")


@pytest.mark.parametrize(
    "target", ["millcert.cli.not_there:x", "millcert.cli.output:not_there", "millcert.errors:UsageError"]
)
def test_a_command_that_cannot_be_loaded_is_our_fault(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    group = LazyGroup("g", lazy={"broken": LazyCommand(target, "Broken.")})
    context = click.Context(group)

    with pytest.raises(InternalError):
        group.get_command(context, "broken")

    click.echo(group.get_help(context))
    assert "Broken." in capsys.readouterr().out


def millcert(*arguments: str, stdout: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "millcert", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=stdout, stderr=subprocess.PIPE)


def test_a_reader_that_goes_away_is_no_rejection() -> None:
    """Rule 2: click's own exit for a closed pipe is 1, which would read as "rejected"."""
    reading, writing = os.pipe()
    os.close(reading)
    process = millcert("policy", "schema", stdout=writing)
    os.close(writing)

    _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written_is_a_failed_store() -> None:
    with Path("/dev/full").open("w") as full:
        process = millcert("policy", "schema", stdout=full.fileno())
        _, err = process.communicate(timeout=60)

    assert process.returncode == 5
    assert b"code: store.error" in err
    assert b"Traceback" not in err


def test_the_module_can_be_run() -> None:
    process = millcert("--version", stdout=subprocess.PIPE)

    out, _ = process.communicate(timeout=60)

    assert (process.returncode, out.decode()) == (0, f"millcert {__version__}\n")
