"""Text from data stays text on a terminal: nothing in a caption or a name is obeyed."""

import io
import sys

import pytest

from gare.common import console
from gare.common.console import note, print_table, printable, warn

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202efdp.exe\u2066 [red]x[/red] :smile: \ud800\rover"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show_note():
    note(HOSTILE)


def show_warning():
    warn(HOSTILE)


def show_table():
    print_table(HOSTILE, [HOSTILE], [[HOSTILE]])


def show_progress():
    with console.meter(HOSTILE, 1) as meter:
        meter.update(1, HOSTILE)


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("show", [show_note, show_warning, show_table, show_progress])
def test_escapes_directions_markup_and_emoji_names_are_shown_and_not_obeyed(kind, show, monkeypatch):
    stream = kind()
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    show()
    said = stream.getvalue()
    for raw in ("\x1b]0", "\x1b[2J", "\x07", "\x9b", "\u202e", "\u2066", "\ud800"):
        assert raw not in said
    for shown in ("\\x1b]0;owned\\x07", "\\u202efdp.exe", "[red]x[/red]", ":smile:"):
        assert shown in said


def test_what_people_write_is_left_alone():
    written = "Ein Mädchen läuft, 女の子が走る, طفلة تركض\t🙂\n"
    assert printable(written) == written
