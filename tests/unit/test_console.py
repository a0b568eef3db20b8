"""Text from data stays text on a terminal: nothing in a caption or a name is obeyed."""

import io
import sys

import click
import pyte
import pytest

from gare.cli.command import _run
from gare.cli.jobs import _print_line
from gare.common import console
from gare.common.console import note, print_table, say, warn
from gare.common.errors import InputError
from gare.common.redact import printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[5;5H\x1b[31m\x9b31m\u202efdp.exe\u2066 [red]x[/red] :smile: \udcff\rover\x08\x00"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x1b[5;5H\x1b[31m\x9b31m\u202efdp.exe\u2066 [red]x[/red] :smile: \udcff\rover\x08\x00"
COLUMNS, LINES = 400, 60


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show_note():
    note(HOSTILE)


def show_warning():
    warn(HOSTILE)


def show_result():
    say(HOSTILE)


def show_table():
    print_table(HOSTILE, [HOSTILE], [[HOSTILE]])


def show_progress():
    with console.meter(HOSTILE, 1) as meter:
        meter.update(1, HOSTILE)


def refuse():
    raise InputError(HOSTILE)


def show_error():
    assert _run(refuse, {}, json_output=False, debug=False) == InputError.exit_code


def show_traceback():
    assert _run(refuse, {}, json_output=False, debug=True) == InputError.exit_code


def show_line_of_a_job():
    _print_line(HOSTILE)


ALL = [show_note, show_warning, show_result, show_table, show_progress, show_error, show_traceback, show_line_of_a_job]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("show", ALL)
def test_a_terminal_shows_hostile_text_and_obeys_nothing_in_it(show, kind, monkeypatch):
    stream = kind()
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    screen = pyte.Screen(COLUMNS, LINES)
    terminal = pyte.Stream(screen)
    terminal.feed("first line\r\n")
    show()
    said = stream.getvalue()
    for raw in ("\x07", "\x9b", "\u202e", "\u2066", "\udcff", "\x00"):
        assert raw not in said
    terminal.feed(said.replace("\n", "\r\n") + "$ ")
    seen = " ".join(" ".join(screen.display).split())
    text = SHOWN
    if show is show_line_of_a_job:  # where colours of other programs are taken out
        text = printable(click.unstyle(HOSTILE))
    assert text in seen
    assert (screen.title, screen.icon_name) == ("", "")
    assert screen.display[0].rstrip() == "first line"
    assert (screen.cursor.x, screen.cursor.attrs.fg, screen.cursor.attrs.reverse) == (2, "default", False)
    line = next(number for number, row in enumerate(screen.display) if text in row)
    at = screen.display[line].index(text)
    assert len({screen.buffer[line][column].fg for column in range(at, at + len(text))}) == 1


def test_what_people_write_is_left_alone():
    written = "Ein Mädchen läuft, 女の子が走る, طفلة تركض\t🙂\n"
    assert printable(written) == written
