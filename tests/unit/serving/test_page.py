"""The page as a browser runs it, and the server as a process: started, asked, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from gare.api.serve import serve
from gare.common.errors import InputError
from gare.serving.app import make_app
from gare.serving.server import bind, serving
from tests.chromium import Chromium
from tests.served import NASTY, SECONDS

CARDS = "document.querySelectorAll('#results:not([aria-busy]) .card').length"
STATUS = "document.querySelector('#status').textContent"
NAMES = "[...document.querySelectorAll('.card .name')].map(e => e.textContent)"
VIDEO = "document.querySelector('#video')"
SHOWN = NASTY.replace("\x00\x1b ", "\\u0000\\u001b ").replace("\u202e", "\\u202e")


@pytest.fixture(scope="module")
def address(index):
    """Where the index is served."""
    with bind("127.0.0.1", 0) as listening, serving(make_app(index), listening):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.fixture
def browser(tmp_path, address):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(address)
        browser.until("document.querySelector('#about').textContent")
        yield browser
        assert browser.errors == []


def searched(browser, text):
    browser.js("document.querySelector('#query').value = ''")
    browser.click("#query")
    browser.type(text)
    browser.enter()
    browser.until(f"{CARDS} > 0 && location.search.includes('q=')")


def play(browser, name):
    number = 1 + browser.js(NAMES).index(name)
    browser.click(f".card:nth-child({number}) .view")
    browser.until("document.querySelector('#player').open")


def test_you_type_filter_go_back_and_ask_for_more_like_one(browser):
    searched(browser, "a red square left")
    assert browser.js(CARDS) == 10
    assert "scored all 12 videos" in browser.js(STATUS)
    assert "long" in browser.js(NAMES)
    options = browser.js("[...document.querySelectorAll('#filters select[name=n] option')].map(o => o.textContent)")
    assert options == ["any", "0 (6)", "1 (5)"]
    browser.js("(s => { s.value = '1'; s.dispatchEvent(new Event('change')); })(document.querySelector('[name=n]'))")
    browser.until(f"{CARDS} === 4")
    assert "where=n%3D1" in browser.js("location.search")
    browser.js("history.back()")
    browser.until(f"{CARDS} === 10")
    number = 1 + browser.js(NAMES).index("train0")
    browser.click(f".card:nth-child({number}) .similar")
    browser.until(f"{CARDS} === 9")
    assert browser.js("document.querySelector('#like-text').textContent") == "Videos like train0"
    assert "train0" not in browser.js(NAMES)
    browser.click("#like-end")
    browser.until(f"{CARDS} === 10")


def test_a_clip_plays_from_its_seconds_and_a_click_seeks(browser):
    searched(browser, "a red square left")
    play(browser, "long")
    browser.until(f"{VIDEO}.readyState >= 2 && !{VIDEO}.seeking")
    facts = browser.js("document.querySelector('#facts').textContent")
    assert "fits best" in facts
    for number in range(1, 1 + browser.js("document.querySelectorAll('#player-moments button').length")):
        button = f"#player-moments button:nth-child({number})"
        at = int(browser.js(f"document.querySelector('{button}').textContent")[2:4])
        browser.click(button)
        browser.until(f"!{VIDEO}.seeking && {VIDEO}.currentTime >= {at} && {VIDEO}.currentTime <= {SECONDS}")
    browser.key("Escape", 27)
    browser.until(f"!document.querySelector('#player').open && !{VIDEO}.hasAttribute('src')")


def test_what_the_browser_cannot_play_flips_through_its_pictures(browser):
    searched(browser, "a red square left")
    play(browser, "train2")
    assert "Browsers do not play avi files. These are" in browser.js("document.querySelector('#why-not').textContent")
    assert browser.js(f"{VIDEO}.hidden")
    first = browser.js("document.querySelector('#flip-picture').src")
    browser.click("#flip-play")
    browser.until(f"document.querySelector('#flip-picture').src !== {json.dumps(first)}")
    browser.click("#strip button:nth-child(3)")
    browser.until("document.querySelector('#flip-time').textContent === '0:02'")
    assert browser.js("document.querySelector('#flip-picture').naturalWidth") == 32


def test_hostile_names_stay_text(browser):
    searched(browser, NASTY)
    assert SHOWN in browser.js(NAMES)
    shape = browser.js("[...document.querySelectorAll('body *')].map(e => e.tagName)")
    assert not {"SCRIPT", "IFRAME", "OBJECT"} & set(shape)
    assert browser.js("[...document.images].every(i => !i.src || new URL(i.src).pathname.startsWith('/api/preview/'))")
    play(browser, SHOWN)
    browser.key("Escape", 27)
    number = 1 + browser.js(NAMES).index(SHOWN)
    browser.click(f".card:nth-child({number}) .similar")
    browser.until(f"{CARDS} === 9")
    assert browser.js("document.querySelector('#like-text').textContent") == f"Videos like {SHOWN}"
    browser.click("#like-end")
    browser.until(f"{CARDS} === 10")
    number = 1 + browser.js(NAMES).index(SHOWN)
    browser.click(f".card:nth-child({number}) .tags button")
    browser.until(f"{CARDS} === 1")


@pytest.mark.parametrize(("phone", "dark"), [(True, True), (False, False)])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(browser, phone, dark):
    browser.resize(*((390, 844) if phone else (1280, 900)), phone=phone, dark=dark)
    searched(browser, "a red square left")
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    columns = browser.js("getComputedStyle(document.querySelector('#results')).gridTemplateColumns.split(' ').length")
    assert columns == (2 if phone else 4)
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    play(browser, "long")
    assert browser.js("document.querySelector('#player').scrollWidth <= innerWidth")


def test_it_is_used_by_keys_and_named_for_a_screen_reader(browser):
    searched(browser, "a red square left")
    browser.js("document.activeElement.blur()")
    browser.key("/", 191, "/")
    assert browser.js("document.activeElement.id") == "query"
    browser.js("document.querySelector('.view').focus()")
    browser.key("ArrowRight", 39)
    assert browser.js("document.activeElement === document.querySelectorAll('.view')[1]")
    browser.enter()
    browser.until("document.querySelector('#player').open")
    browser.key("Escape", 27)
    assert browser.js("document.activeElement === document.querySelectorAll('.view')[1]")
    browser.send("Accessibility.enable")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    assert {"search", "status", "list", "contentinfo", "banner", "main"} <= {role for role, _ in named}
    for role, name in named:
        assert name or role not in ("button", "searchbox", "combobox", "slider", "dialog"), role


def test_the_command_serves_until_a_signal_and_says_where(index):
    command = [sys.executable, "-m", "gare", "serve", str(index.folder), "--port", "0", "--host", "0.0.0.0", "--json"]  # noqa: S104
    word = "word-of-sixteen-or-more"
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GARE_SERVE_TOKEN": word},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        try:
            said = [process.stderr.readline()]
            assert said == [f"Opening {index.folder} ...\n"]
            while "?token=" not in said[-1] and said[-1]:
                said.append(process.stderr.readline())
            port, given = re.fullmatch(r".* at http://.*:(\d+)/\?token=(.*)\n", said[-1]).groups()
            assert given == word
            base = f"http://127.0.0.1:{port}/"
            assert httpx2.get(f"{base}api/about").status_code == 401
            asked = httpx2.get(f"{base}api/search?q=a", headers={"Authorization": f"Bearer {word}"})
            assert len(asked.json()["results"]) == 10
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert err.removeprefix("Ctrl-C stops the server.\n") == "Stopped.\n"
    assert json.loads(out)["videos"] == 12
    assert word not in out


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"port": 70000}, "from 0 to 65,535"),
        ({"host": "no such host"}, "is no address of this machine"),
        ({"token": "short"}, "16 characters or more"),
        ({"checkpoint": "elsewhere"}, "open already"),
    ],
)
def test_an_address_or_token_that_cannot_be_used_is_one_sentence(index, how, says):
    with pytest.raises(InputError, match=says):
        serve(index, **how)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104
def test_answers_are_sent_without_nagles_delay(host):
    with bind(host, 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # what asyncio asks before it sets TCP_NODELAY


def test_a_taken_port_is_one_sentence(index):
    with bind("127.0.0.1", 0) as taken, pytest.raises(InputError, match="is taken; choose another with --port"):
        serve(index, port=taken.getsockname()[1])


def test_without_an_index_nothing_is_served(tmp_path):
    with pytest.raises(InputError, match="is not an index"):
        serve(tmp_path, port=0)
