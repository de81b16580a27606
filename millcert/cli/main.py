"""The command line's root: which commands there are, and what becomes of an error.

Rules this module keeps:
  1. A command's module is imported when that command is called, never for the list of commands.
  2. Exit code 1 means "rejected" and nothing else; a mistake of the user is 2, a bug of ours 70 (design: exit codes).
  3. A mistake of the user never shows a traceback, except with --verbose.
  4. With --json, standard output holds one JSON object, whether the command answered or failed.
"""

import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, NamedTuple

import click

from millcert import __version__
from millcert.cli.output import emit
from millcert.errors import InternalError, MillcertError, StoreError, UsageError

#: What a shell reports for a process that SIGINT or SIGPIPE ended (POSIX, 128 + signal number).
EXIT_INTERRUPTED = 130
EXIT_OUTPUT_CLOSED = 141

#: Faults of the path that the user gave; any other OSError is one of the machine or the store.
_USER_ERRNOS = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)

#: Control and direction-changing characters that a file name or a message of a library could smuggle into a terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class LazyCommand(NamedTuple):
    """Where a command lives, and its line in the list of commands.

    target: "module:attribute" of a click command or group.
    """

    target: str
    summary: str


COMMANDS: Mapping[str, LazyCommand] = {
    "vet": LazyCommand("millcert.cli.vet:vet", "Run the gate over a data set and issue its certificate."),
    "work": LazyCommand("millcert.cli.work:work", "Show and shrink what is kept of earlier runs' work."),
    "embed": LazyCommand("millcert.cli.embed:embed", "Make the views that poison checks look at, without downloads."),
    "selftest": LazyCommand("millcert.cli.selftest:selftest", "Plant attacks in a copy of the data; say what is seen."),
    "admit": LazyCommand("millcert.cli.admit:admit", "Refuse to train on data without a valid certificate."),
    "override": LazyCommand("millcert.cli.override:override", "Let through what was refused: two people, for a time."),
    "revoke": LazyCommand("millcert.cli.revoke:revoke", "Take back a source, signer, file, sample or data set."),
    "reject-list": LazyCommand("millcert.cli.reject_list:reject_list", "List what has to be taken out of the data."),
    "source": LazyCommand("millcert.cli.source:source", "Write, sign and verify a source's manifest."),
    "check": LazyCommand("millcert.cli.check:check", "List, describe and try single checks."),
    "schema": LazyCommand("millcert.cli.schema:schema", "Propose a schema and a suite from data; compare schemas."),
    "expectations": LazyCommand("millcert.cli.expectations:expectations", "Answer GX suites; hand results to GX."),
    "profile": LazyCommand("millcert.cli.profile:profile", "Summarise distributions, merge and compare them."),
    "label": LazyCommand("millcert.cli.label:label", "Compare the labels of two versions; score other label tasks."),
    "ledger": LazyCommand("millcert.cli.ledger:ledger", "Look up, prove and audit what the ledger says."),
    "witness": LazyCommand("millcert.cli.witness:witness", "Watch ledgers of others; cosign what only grows."),
    "evidence": LazyCommand("millcert.cli.evidence:evidence", "Prove what the gate said of a sample, offline."),
    "policy": LazyCommand("millcert.cli.policy:policy", "Write, check and explain a policy file."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is called."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command.

        Raises:
            InternalError: the command's module is missing or holds no command.
        """
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = lazy.target.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError) as error:
            raise InternalError(
                f"The command {cmd_name!r} cannot be loaded from {lazy.target}: {error}.",
                hint="This installation of millcert is not whole; install it again.",
                command=cmd_name,
            ) from error
        if not isinstance(command, click.Command):
            raise InternalError(f"{lazy.target} is no command.", command=cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` name; for an unknown name, say which one may be meant."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            also = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(self.list_commands(ctx))}."
            raise click.UsageError(f"No such command {args[0]!r}. {also}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing any of them."""
        del ctx
        if self._lazy:
            with formatter.section("Commands"):
                formatter.write_dl([(name, lazy.summary) for name, lazy in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed standard output is not click's exit 1, which means "rejected" here."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosedError from error


class OutputClosedError(Exception):
    """Whoever read standard output went away."""


@dataclass
class Session:
    """What the root's options say about this call, and whether only the end of the process ends it (see `main`)."""

    is_verbose: bool = False
    must_exit: bool = False


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 admitted, 1 rejected, 2 usage or policy, 3 integrity, 4 inconclusive, 5 a store failed "
    "(retry is safe), 70 a bug of millcert. Everything that is not 0 must block training.",
)
@click.version_option(__version__, "--version", prog_name="millcert", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error. Stands before the command.")
@click.pass_context
def root(ctx: click.Context, verbose: bool) -> None:
    """A gate in front of training: verify where data is from, test what is in it, certify the outcome."""
    ctx.ensure_object(Session).is_verbose = verbose


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        args: the arguments after the program's name; those of the process where None.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    session = Session()
    try:
        code = _run(arguments, session)
        sys.stdout.flush()
        if session.must_exit:
            # A worker died and its runner waits for it in a thread that nothing can end but the end of the process.
            sys.stderr.flush()
            os._exit(code)
    except (BrokenPipeError, OutputClosedError):
        _forget_output()
        return EXIT_OUTPUT_CLOSED
    except OSError as error:
        return _report(translate(error), error, arguments, session)
    return code


def _run(arguments: list[str], session: Session) -> int:
    try:
        answer = root.main(arguments, prog_name="millcert", standalone_mode=False, obj=session)
    except OutputClosedError:
        raise
    except SystemExit as error:
        # A command's own exit: vet ends with the verdict's code.
        return error.code if isinstance(error.code, int) else InternalError.exit_code
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted; nothing was admitted\n")
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return UsageError.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost border: everything becomes an exit code and a message
        return _report(translate(error), error, arguments, session)
    # click hands back the code of ctx.exit(); a command's own answer is printed, not returned.
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else 0


def translate(error: Exception) -> MillcertError:
    """Return the error of ours that stands for any exception that reached the command line."""
    if isinstance(error, MillcertError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "millcert"
        return UsageError(error.format_message(), hint=f"`{name} --help` lists the arguments.")
    if isinstance(error, OSError):
        return _translate_os_error(error)
    if isinstance(error, MemoryError):
        return StoreError("The machine ran out of memory.", hint="Give the job more memory; nothing was admitted.")
    return InternalError(
        f"{type(error).__name__}: {error}. This is a bug of millcert; nothing was admitted.",
        hint="Run it again as `millcert -v ...` and report the traceback.",
    )


def _translate_os_error(error: OSError) -> MillcertError:
    where = f" {error.filename}" if error.filename is not None else ""
    reason = error.strerror or str(error)
    if error.errno in _USER_ERRNOS:
        return UsageError(
            f"Cannot use the path{where}: {reason}.",
            hint="Check that it exists, is of the expected kind, and may be read or written.",
            path=str(error.filename),
        )
    return StoreError(
        f"The system failed on{where or ' an operation'}: {reason}.",
        hint="Nothing was half-written; mend the cause (a full disk, a lost mount, a network fault) and run it again.",
        path=str(error.filename),
    )


def _report(error: MillcertError, cause: BaseException, arguments: Sequence[str], session: Session) -> int:
    """Print an error where it belongs and return its exit code."""
    session.must_exit = bool(error.details.get("must_exit"))
    if session.is_verbose:
        sys.stderr.write("".join(traceback.format_exception(cause)))
    if _wants_json(arguments):
        answer = {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "details": {name: _plain(value) for name, value in error.details.items()},
            "exit_code": error.exit_code,
        }
        emit({"error": answer}, "", as_json=True)
        return error.exit_code
    lines = [f"error: {error.message}", f"  hint: {error.hint}" if error.hint else "", f"  code: {error.code}"]
    sys.stderr.write(_harmless("\n".join(line for line in lines if line)) + "\n")
    return error.exit_code


def _wants_json(arguments: Sequence[str]) -> bool:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _harmless(text: str) -> str:
    """Show control characters by their number: a file name must not command the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def _plain(value: object) -> object:
    """Return a detail of an error as JSON values."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    is_json = value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and isfinite(value))
    return value if is_json else str(value)


def _forget_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush has nowhere to fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
