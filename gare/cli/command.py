"""Features of all commands: ``--json``, ``--debug`` and one clear sentence for every error."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from gare.api import refuse_namesakes
from gare.common.addresses import refuse_address
from gare.common.console import notes
from gare.common.errors import GareError, InputError
from gare.common.redact import printable_json, sentence
from gare.common.signals import Stopped, stopping
from gare.jobs.places import refuse_foreign_paths

Result = Mapping[str, Any] | None
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

CONTEXT = {"max_content_width": 120, "show_default": True}
JSON = "--json"
DEBUG_HINT = " (--debug shows where)."
JSON_OPTION = click.Option(
    [JSON, "json_output"],
    is_flag=True,
    help='Print exactly one JSON object on standard output: the result, or {"error": ...}.',
)
DEBUG_OPTION = click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.")

PLACE = click.Path(path_type=Path)
CHECKPOINT = click.argument("checkpoint")
SHARDS = click.option("--shards", required=True, help="Folder or address of gare prepare.")
SPLIT = click.option("--split", default="test", help="Split to use.")
config_options = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set one dotted configuration key, such as train.epochs=3; repeatable. gare config --schema lists them.",
)

ASK = "choose another place, or ask its owner for access"
TOO_MANY_FILES = os.strerror(errno.EMFILE)
"""A message that torch and pyarrow put in the middle of their own text."""
WHAT_TO_DO = {
    TOO_MANY_FILES: "raise the limit of open files (ulimit -n 65536)",
    os.strerror(errno.EACCES): ASK,
    os.strerror(errno.EPERM): ASK,
    "is not readable": ASK,  # click's wording
    "is not writable": ASK,
    os.strerror(errno.EROFS): "choose a place that is not mounted read-only",
    os.strerror(errno.ENOSPC): "free space there, and run the same command again",
    os.strerror(errno.EDQUOT): "free space there or raise your quota, and run the same command again",
}
"""Advice to append to a message that ends with the system's own text."""

EMBEDDED = object()
"""Value of the root context's ``obj`` if another command calls this one: return the result and let errors pass."""


def gare_command(name: str, **settings: Any) -> Callable[[Callable[..., Result]], click.Command]:
    """Make a click command from a function that returns its result as a plain mapping.

    The function prints for people. With ``--json``, only the mapping goes to standard output; everything else that
    is printed, even by other processes, goes to standard error.
    """

    def wrap(function: Callable[..., Result]) -> click.Command:
        @functools.wraps(function)
        def run(*, json_output: bool, debug: bool, **arguments: Any) -> Result:
            if click.get_current_context().find_root().obj is EMBEDDED:
                return function(**arguments)
            sys.exit(_run(function, arguments, json_output=json_output, debug=debug))

        settings["context_settings"] = {**CONTEXT, **settings.get("context_settings", {})}
        command = click.Command(name, callback=run, help=function.__doc__, **settings)
        command.params = [*reversed(getattr(function, "__click_params__", [])), JSON_OPTION, DEBUG_OPTION]
        return command

    return wrap


def with_options(*options: Option) -> Option:
    """Add click's options and arguments, in this order."""
    return lambda function: functools.reduce(lambda made, option: option(made), reversed(options), function)


def call(group: click.Group, arguments: Sequence[str], name: str) -> int:
    """Run a command line and return its exit code. A mistake in it gives one sentence and code 2."""
    try:
        return int(group.main(args=list(arguments), prog_name=name, standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.exceptions.Abort:  # click raises it for Ctrl-C before a command runs
        with _results(json_output=JSON in arguments) as emit:
            return _fail(*_explain(KeyboardInterrupt()), emit)
    except click.ClickException as error:
        message = error.format_message()
        context = getattr(error, "ctx", None)
        if context is not None and not message.rstrip(".").endswith(tuple(WHAT_TO_DO)):
            message += f"{'' if message.endswith(('.', '?')) else '.'} {context.command_path} --help says more."
        with _results(json_output=JSON in arguments) as emit:
            return _fail(error.exit_code, message, emit)


def _run(function: Callable[..., Result], arguments: Mapping[str, Any], *, json_output: bool, debug: bool) -> int:
    """Call a command and return its exit code; a Path is on this machine, and what may be an address is text."""
    with _results(json_output=json_output) as emit, warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")  # libraries' warnings to programmers
        try:
            with stopping():
                refuse_foreign_paths()
                refuse_namesakes()
                for name, value in arguments.items():
                    for path in value if isinstance(value, tuple) else (value,):
                        if isinstance(path, Path):
                            refuse_address(name.removesuffix("_folder"), path)
                result = dict(function(**arguments) or {})
            emit(result)
        except BrokenPipeError:
            raise  # Nobody reads the output any more; click ends quietly.
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - show a traceback only on request
            if debug:
                notes().print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
            return _fail(*_explain(error), emit, error.result if isinstance(error, GareError) else {})
        return 0


def _fail(
    code: int, message: str, emit: Callable[[Mapping[str, Any]], None], result: Mapping[str, Any] | None = None
) -> int:
    ending = message.removesuffix(DEBUG_HINT).rstrip(".")
    said = TOO_MANY_FILES if TOO_MANY_FILES in ending else next(filter(ending.endswith, WHAT_TO_DO), None)
    advice = None if said is None else WHAT_TO_DO[said]
    message = message if advice is None else f"{ending}: {advice}."
    message = sentence(" ".join(click.unstyle(message).split()))
    notes().print(f"[red]error:[/red] {escape(message)}")
    with suppress(OSError):  # standard output may be what failed
        emit({**(result or {}), "error": message})
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and sentence for an error."""
    if isinstance(error, GareError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        how = "Interrupted" if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}"
        return 128 + number, f"{how}; the same command continues where it can."
    if isinstance(error, OSError) and error.filename is not None:
        return InputError.exit_code, f"Cannot use {os.fsdecode(error.filename)}: {error.strerror}{DEBUG_HINT}"
    first = (str(error).strip() or "no message").splitlines()[0]
    return 1, f"Unexpected {type(error).__name__}: {first}{DEBUG_HINT}"


@contextmanager
def _results(*, json_output: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield the function that prints the result object, if one is wanted."""
    if not json_output:
        yield lambda _: None
        return
    sys.stdout.flush()
    # Redirect file descriptor 1 itself to standard error: Ray's processes and C libraries write to it too.
    saved = os.dup(1)
    os.dup2(2, 1)

    def emit(result: Mapping[str, Any]) -> None:
        with os.fdopen(os.dup(saved), "w", encoding="utf-8") as stream:
            stream.write(printable_json(json.dumps(result, allow_nan=False, ensure_ascii=False, default=str)) + "\n")

    try:
        with redirect_stdout(sys.stderr):
            yield emit
    finally:
        os.dup2(saved, 1)
        os.close(saved)
