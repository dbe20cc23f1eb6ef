"""The chat page as a user meets it: a real Chromium, real servers, mouse and keyboard."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from playwright.sync_api import expect
from support.browser import WAIT, needs_chromium
from support.scripted_engine import ScriptedEngine
from support.server import make_tiny_service, serve_app

from helpers import PROJECT
from helpers.server.guards import HostGate
from helpers.server.openai_api import make_openai_app
from helpers.server.service import ModelChoice, Service

pytestmark = [pytest.mark.long, needs_chromium]

AWKWARD = 'It\'s "quoted" \\n, $HOME `id` !! %s {x}\n\tand a 2nd line\u2028of </script> \u00e4 \U0001f642'
SHELL = {**os.environ, "OPENAI_API_KEY": "secret", "PYTHONIOENCODING": "utf-8"}


class ChatPage:
    """The page in a window, and what a user does with it."""

    def __init__(self, browser, url, width=1280, **settings):
        self.window = browser.new_page(viewport={"width": width, "height": 800}, **settings)
        self.window.set_default_timeout(WAIT)
        self.faults = []  # what the browser complains about: scripts that fail, what the policy forbids
        self.window.on("pageerror", lambda error: self.faults.append(str(error)))
        self.window.on("console", self.note_fault)
        self.window.goto(url)
        self.draft = self.window.get_by_label("Your message")
        self.model = self.window.get_by_label("Model or LoRA")
        self.error = self.window.get_by_role("alert")
        self.texts = self.window.get_by_role("list", name="Conversation").locator(".text")
        self.send = self.window.get_by_role("button", name="Send")
        self.stop = self.window.get_by_role("button", name="Stop")

    def note_fault(self, message):
        if message.type == "error" and "Failed to load resource" not in message.text:  # refusals are meant
            self.faults.append(message.text)

    def set(self, label, value):
        """Writes into a field of the settings."""
        field = self.window.get_by_label(label, exact=True)
        if not field.is_visible():
            self.window.get_by_text("Settings", exact=True).click()
        field.fill(value)

    def ask(self, question):
        """Types the question, presses Enter, and waits for the end; the answer."""
        self.begin(question)
        expect(self.send).to_be_visible(timeout=WAIT)
        return self.texts.last.text_content()

    def begin(self, question):
        """Types the question and presses Enter."""
        self.draft.fill(question)
        self.window.keyboard.press("Enter")

    def expect_error(self, words):
        expect(self.error).to_contain_text(re.compile(words), timeout=WAIT)

    def read_code(self, kind):
        """What is shown as curl or Python."""
        return self.window.locator(f"#{kind}").text_content()


@pytest.fixture
def open_page(browser):
    """A function that opens the page of a server. No page may have made the browser complain."""
    opened = []

    def open_it(url, **settings):
        opened.append(ChatPage(browser, url, **settings))
        return opened[-1]

    yield open_it
    for page in opened:
        assert page.faults == []
        page.window.close()


@pytest.fixture
def serve():
    """A function that serves a service until the end of the test; its address."""
    with ExitStack() as stack:

        def serve_it(service, **settings):
            app = make_openai_app(service, **settings)
            app.add_middleware(HostGate)
            return stack.enter_context(serve_app(app))

        yield serve_it


@pytest.fixture(scope="module")
def tiny_service(tmp_path_factory):
    return make_tiny_service(tmp_path_factory.mktemp("home"))


@pytest.fixture
def scripted(serve, open_page):
    """A function that opens a page whose server answers with these pieces: (page, engine)."""

    def open_scripted(*pieces, adapters=(), **settings):
        engine = ScriptedEngine(pieces or ["Hello", "!"], **settings)
        engine.adapters = list(adapters)
        return open_page(serve(Service(engine=engine))), engine

    return open_scripted


# The request in code


def run_code(page, kind):
    """What the shown curl or Python answers."""
    program = {"curl": ["bash", "-c"], "python": [sys.executable, "-c"]}[kind]
    done = subprocess.run([*program, page.read_code(kind)], env=SHELL, capture_output=True, check=True)
    if kind == "python":
        return done.stdout.decode().removesuffix("\n")
    return json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("key", [None, "secret"])
def test_shown_code_answers_what_the_page_answers(open_page, serve, tiny_service, key):
    page = open_page(serve(tiny_service, api_key=key).replace("127.0.0.1", "localhost"))
    if key:
        page.window.get_by_label("API key").fill(key)
        page.window.keyboard.press("Enter")
        assert "secret" not in page.read_code("curl") + page.read_code("python")
    expect(page.model).to_have_value("shift", timeout=WAIT)
    page.set("Temperature", "0")
    page.set("Longest answer", "24")
    page.set("Instruction", 'Don\'t say "no".\nNever.')
    answers = [page.ask(AWKWARD), page.ask("And then?")]
    assert len(set(answers)) == 2
    assert [run_code(page, "curl"), run_code(page, "python")] == [answers[1]] * 2


def test_shown_code_follows_what_is_typed_and_chosen(scripted):
    page, _ = scripted(adapters=["one"])
    page.draft.fill("Typed, not sent")
    page.model.select_option("scripted")
    for kind in ("curl", "python"):
        assert "Typed, not sent" in page.read_code(kind) and "scripted" in page.read_code(kind)
        page.set("Temperature", "0.5")
        assert "0.5" in page.read_code(kind)
        page.set("Temperature", "")
        assert "temperature" not in page.read_code(kind)


def test_code_is_copied_or_at_least_selected(scripted):
    page, _ = scripted()
    page.window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.window.get_by_role("button", name="Copy Python").click()
    expect(page.window.get_by_role("status")).to_have_text("Copied")
    assert page.window.evaluate("navigator.clipboard.readText()") == page.read_code("python")
    page.window.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.window.get_by_role("button", name="Copy curl").click()
    expect(page.window.get_by_role("status")).to_contain_text("Selected")
    assert page.window.evaluate("getSelection().toString()") == page.read_code("curl")


def test_page_works_behind_a_prefix(open_page, tiny_service):
    outer = FastAPI()
    outer.mount("/user/me/proxy/5001", make_openai_app(tiny_service))
    with serve_app(outer) as url:
        page = open_page(f"{url}/user/me/proxy/5001/")
        page.set("Temperature", "0")
        page.set("Longest answer", "8")
        assert page.ask("Hi") == run_code(page, "python")
        assert "/user/me/proxy/5001/v1/chat" in page.read_code("curl")


# Answers


def test_answer_is_text_whatever_is_in_it(scripted):
    wild = ["<b>bold</b>", "<img src=x onerror=alert(1)>", "<script>alert(1)</scr", "ipt>", "&lt;", "\n**x**"]
    page, _ = scripted(*wild)
    question = "<i>me</i> <svg onload=alert(1)>"
    assert page.ask(question) == "".join(wild)
    assert page.texts.first.text_content() == question
    assert page.window.locator("#messages :is(b, i, img, script, svg)").count() == 0


@pytest.mark.parametrize(
    "deed",
    [
        "document.createElement('p').innerHTML = 'x'",
        "document.createElement('script').text = 'x'",
        "await fetch('ELSEWHERE/v1/models')",  # which would answer a page of this computer
    ],
)
def test_browser_would_not_let_the_page_be_misused(scripted, serve, deed):
    page, _ = scripted()
    deed = deed.replace("ELSEWHERE", serve(Service(engine=ScriptedEngine())))
    attempt = f"async () => {{ try {{ {deed}; return 'done'; }} catch (error) {{ return error.name; }} }}"
    assert page.window.evaluate(attempt) == "TypeError"
    page.faults.clear()  # the browser has complained, as it should


def test_stopped_answer_is_kept_and_the_conversation_goes_on(scripted):
    page, engine = scripted(*["word "] * 10_000, pause_s=0.02)
    page.begin("Go")
    expect(page.texts.last).to_contain_text("word word", timeout=WAIT)
    page.stop.click()
    expect(page.send).to_be_visible(timeout=WAIT)
    assert engine.ended.wait(60)
    expect(page.draft).to_be_focused()
    expect(page.window.get_by_text("Stopped.").first).to_be_visible()
    kept = page.texts.last.text_content()
    page.begin("More")
    expect(page.texts).to_have_count(4)
    page.window.keyboard.press("Escape")
    expect(page.send).to_be_visible(timeout=WAIT)
    sent = [(message["role"], message["content"]) for message in engine.requests[-1].messages]
    assert sent == [("user", "Go"), ("assistant", kept), ("user", "More")]


def test_new_chat_forgets_even_what_is_being_answered(scripted):
    page, engine = scripted(*["word "] * 10_000, pause_s=0.02)
    page.begin("Secret")
    expect(page.texts.last).to_contain_text("word", timeout=WAIT)
    page.window.get_by_role("button", name="New chat").click()
    assert engine.ended.wait(60)
    expect(page.texts).to_have_count(0)
    expect(page.draft).to_be_focused()
    page.begin("Anything")
    expect(page.texts.last).to_contain_text("word", timeout=WAIT)
    assert [message["content"] for message in engine.requests[-1].messages] == ["Anything"]


def test_every_lora_of_many_can_be_chosen_and_is_asked(scripted):
    names = [f"lora-{number}" for number in range(32)]
    page, engine = scripted(adapters=names)
    expect(page.model).to_have_value("lora-0", timeout=WAIT)
    assert page.model.locator("option").all_text_contents() == ["scripted", *names]
    page.model.focus()
    page.window.keyboard.type("lora-27")
    page.ask("Hi")
    assert engine.requests[-1].adapter == "lora-27"
    expect(page.window.get_by_role("heading", name="lora-27")).to_be_visible()


# What goes wrong


class FailingEngine(ScriptedEngine):
    """Fails after its pieces."""

    def run(self, request, emit, job):
        super().run(request, emit, _Job())
        job.set_exception(RuntimeError("broken"))


class _Job:
    """Takes a result and forgets it."""

    def set_result(self, result):
        pass


def test_error_in_the_middle_of_a_stream_is_shown_beside_what_came(open_page, serve):
    page = open_page(serve(Service(engine=FailingEngine(["Half ", "an "]))))
    assert page.ask("Hi") == "Half an "
    page.expect_error("The server failed")


def test_question_of_a_refused_request_can_be_changed_and_sent_again(open_page, serve, tiny_service):
    page = open_page(serve(tiny_service))
    page.set("Longest answer", "4")
    long = "x" * 3000  # bytes, which are tokens here; the context has 2048
    page.begin(long)
    page.expect_error("tokens")
    expect(page.draft).to_have_value(long)
    expect(page.texts).to_have_count(0)
    assert page.ask("Hi")
    expect(page.error).to_be_empty()
    page.set("Longest answer", "5000")
    page.begin("Hi")
    page.expect_error("max_tokens")


def test_answer_that_was_cut_says_so(open_page, serve, tiny_service):
    page = open_page(serve(tiny_service))
    page.set("Temperature", "0")
    page.set("Longest answer", "3")
    page.ask("Hi")
    expect(page.window.get_by_text("Cut off here").first).to_be_visible()


def test_key_is_asked_for_when_the_server_wants_one(open_page, serve):
    page = open_page(serve(Service(engine=ScriptedEngine()), api_key="secret"))
    page.expect_error("Bearer")
    key = page.window.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("wrong")
    page.window.keyboard.press("Enter")
    page.expect_error("Bearer")
    key.fill("secret")
    page.window.get_by_role("button", name="Use key").click()
    expect(page.model).to_have_value("scripted", timeout=WAIT)
    expect(page.error).to_be_empty()
    assert page.ask("Hi") == "Hello!"


@pytest.mark.parametrize("strict", [False, True])
def test_lora_that_is_gone_is_missed(open_page, serve, tmp_path, strict):
    service = make_tiny_service(tmp_path)
    page = open_page(serve(service, strict_model=strict))
    page.model.select_option("twist")
    page.set("Longest answer", "4")
    service.load(ModelChoice("tiny", ("shift",), dtype="float32"))
    page.begin("Hi")
    if strict:
        page.expect_error("twist.* does not exist")
    else:
        expect(page.window.get_by_text("no longer has twist; shift answered").first).to_be_visible()
    expect(page.model.locator("option")).to_have_text(["tiny", "shift"], timeout=WAIT)
    expect(page.model).to_have_value("shift")
    assert page.ask("Hi again")


def test_server_without_a_model_says_what_to_do(open_page, serve):
    page = open_page(serve(Service()))
    page.begin("Hi")
    page.expect_error("No model is loaded")


ENDLESS_SERVER = """
import socket
from helpers.server.openai_api import make_openai_app
from helpers.server.service import Service
from helpers.server.serving import make_server
from support.scripted_engine import ScriptedEngine
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
engine = ScriptedEngine(["word "] * 10_000, pause_s=0.02)
make_server(make_openai_app(Service(engine=engine))).run([listener])
"""


@pytest.fixture
def killable():
    """(address, process) of a server whose answers have no end."""
    paths = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    command = [sys.executable, "-c", ENDLESS_SERVER]
    with subprocess.Popen(command, env=paths, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip(), process
        process.kill()


def test_server_that_is_killed_meanwhile_is_missed(open_page, killable):
    url, process = killable
    page = open_page(url)
    page.begin("Go")
    expect(page.texts.last).to_contain_text("word word", timeout=WAIT)
    process.kill()
    page.expect_error("no connection")
    kept = page.texts.last.text_content()
    page.begin("Still there?")
    expect(page.draft).to_have_value("Still there?", timeout=WAIT)
    page.expect_error("no connection")
    assert page.texts.last.text_content() == kept


# Everybody


def test_keyboard_reaches_everything_in_order(scripted):
    page, engine = scripted()
    expect(page.draft).to_be_focused()
    page.window.keyboard.type("One")
    page.window.keyboard.press("Shift+Enter")
    page.window.keyboard.type("Two")
    page.window.keyboard.press("Enter")
    expect(page.texts.last).to_have_text("Hello!", timeout=WAIT)
    assert engine.requests[-1].messages[-1]["content"] == "One\nTwo"
    expect(page.draft).to_be_focused()
    page.model.focus()
    names = []
    for _ in range(10):
        page.window.keyboard.press("Tab")
        focused = "document.activeElement.labels?.[0]?.textContent ?? document.activeElement.textContent"
        names.append(page.window.evaluate(focused).strip()[:25])
    first = ["New chat", "Settings", "Your message", "Send", "The same request in code", "Copy curl"]
    assert names[:6] == first and names[7] == "Copy Python"


def test_screen_reader_is_given_sentences_and_not_tokens(scripted):
    words = "This is a sentence of some words that is long enough to be worth saying. ".split(" ")
    page, _ = scripted(*[f"{word} " for word in words if word] * 4, pause_s=0.005)
    page.ask("Hi")
    log = page.window.get_by_role("log").locator("p")
    spoken = log.all_text_contents()
    assert "".join(spoken) == page.texts.last.text_content()
    assert 2 <= len(spoken) <= 5
    assert page.window.get_by_role("log").get_attribute("aria-live") in (None, "polite")


def test_every_control_has_a_name(scripted):
    page, _ = scripted()
    page.window.get_by_text("Settings", exact=True).click()
    for role in ("button", "textbox", "combobox", "spinbutton", "region", "complementary"):
        controls = page.window.get_by_role(role)
        assert controls.count() == page.window.get_by_role(role, name=re.compile(r"\w")).count() > 0


def test_nothing_is_wider_than_the_window(scripted):
    page, _ = scripted("w" * 500, adapters=["a-lora-with-a-name-that-is-far-longer-than-any-phone-is-wide"])
    page.ask("x" * 500)
    page.window.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for width in (320, 600, 1280):
        page.window.set_viewport_size({"width": width, "height": 640})
        assert page.window.evaluate("document.documentElement.scrollWidth") <= width


def test_long_answer_is_followed_unless_the_user_scrolls_up(scripted):
    page, _ = scripted(*["line\n"] * 150, pause_s=0.01)
    page.begin("Go")
    expect(page.texts.last).to_contain_text(re.compile(r"(line\s+){60}"), timeout=WAIT)
    assert page.window.evaluate("scrollY") > 0
    page.window.evaluate("scrollTo(0, 0)")
    expect(page.send).to_be_visible(timeout=WAIT)
    assert page.window.evaluate("scrollY") == 0


def test_nothing_moves_for_who_wants_less_motion(browser, serve):
    url = serve(Service(engine=ScriptedEngine(["word "] * 1000, pause_s=0.05)))
    for motion, expected in (("reduce", "none"), ("no-preference", "blink")):
        page = ChatPage(browser, url, reduced_motion=motion)
        page.begin("Hi")
        expect(page.stop).to_be_visible(timeout=WAIT)
        style = "getComputedStyle(document.querySelector('.running .text'), '::after').animationName"
        assert page.window.evaluate(style) == expected
        page.window.close()
