"""The files of the chat page: what the server sends with them, and what they may not have. No browser."""

import re
import tomllib
from fnmatch import fnmatch

import pytest
import requests
from support.scripted_engine import ScriptedEngine
from support.server import serve_app

from helpers import PROJECT
from helpers.server.chat_page import FOLDER, PAGE_FILES
from helpers.server.guards import HostGate
from helpers.server.openai_api import make_openai_app
from helpers.server.service import Service

SCHEMES = ("light", "dark")
NORMAL, GRAPHIC = 4.5, 3  # WCAG 2.2, level AA: contrast of texts, and of what shows where a field is
PAIRS = [
    ("text", "ground", NORMAL),
    ("text", "own", NORMAL),
    ("text", "raised", NORMAL),
    ("quiet", "ground", NORMAL),
    ("quiet", "own", NORMAL),
    ("bad", "ground", NORMAL),
    ("on-accent", "accent", NORMAL),
    ("accent", "ground", GRAPHIC),
    ("line", "ground", GRAPHIC),
    ("line", "raised", GRAPHIC),
]


@pytest.fixture(scope="module")
def url():
    app = make_openai_app(Service(engine=ScriptedEngine()), "secret")
    app.add_middleware(HostGate)
    with serve_app(app) as address:
        yield address


@pytest.mark.parametrize("path", PAGE_FILES)
def test_page_is_loaded_without_the_key_and_guarded(url, path):
    reply = requests.get(url + path, timeout=9)
    assert (reply.status_code, reply.content) == (200, PAGE_FILES[path].read_bytes())
    policy = reply.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in " ".join(policy)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("path", ["/v1/models", "/page", "/page/../v1/models", "//", "/page/chat.js/"])
def test_nothing_else_is_loaded_without_the_key(url, path):
    request = requests.Request("GET", url).prepare()
    request.url = url + path  # as it is
    with requests.Session() as session:
        assert session.send(request, timeout=9).status_code == 401


def test_page_answers_to_the_names_of_this_computer_only(url):
    assert requests.get(url, headers={"Host": "evil.example"}, timeout=9).status_code == 400
    assert requests.head(url, headers={"Host": "localhost"}, timeout=9).status_code == 200
    assert requests.post(url, json={}, timeout=9).status_code == 405


def test_page_names_only_files_of_its_own_and_by_relative_addresses():
    html = (FOLDER / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert {f"/{name}" for name in named} == PAGE_FILES.keys() - {"/"}
    assert re.findall(r"\son\w+=|style=|<style|<script>", html) == []
    for name in ("index.html", "chat.css", "chat.js"):
        assert re.findall(r"https?:|\burl\(|@import|innerHTML|\beval\b", (FOLDER / name).read_text()) == []


def test_page_is_small_and_whole_in_the_package():
    files = set(FOLDER.iterdir())
    assert files == set(PAGE_FILES.values())
    assert sum(file.stat().st_size for file in files) < 20_480
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["helpers"]
    for file in files:
        name = file.relative_to(PROJECT / "helpers").as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns)


def read_colours(scheme):
    """{name: [red, green, blue]}, of 0 to 1, as the style sheet has them for a colour scheme."""
    blocks = re.findall(r":root \{(.*?)\}", (FOLDER / "chat.css").read_text(), re.DOTALL)
    found = re.findall(r"--([\w-]+): #(\w{6})", blocks[SCHEMES.index(scheme)])
    return {name: [byte / 255 for byte in bytes.fromhex(digits)] for name, digits in found}


def measure_contrast(first, second):
    """WCAG's ratio of two colours' luminances, 1 to 21."""
    dark, light = sorted(measure_luminance(colour) for colour in (first, second))
    return (light + 0.05) / (dark + 0.05)


def measure_luminance(colour):
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("front", "back", "least"), PAIRS)
def test_colours_have_contrast(scheme, front, back, least):
    colours = read_colours(scheme)
    assert measure_contrast(colours[front], colours[back]) >= least
