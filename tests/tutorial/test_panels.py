"""The chat box against a real HTTP server, without a browser: the tests set and read ipywidgets' traits."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import clients
from helpers.tutorial.panels.chat_box import ChatBox

NOBODY = "http://127.0.0.1:9/v1"  # port 9 (discard): no server listens there


class Parrot(BaseHTTPRequestHandler):
    """Answers every question with <b>yes</b>, streamed in two pieces."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece, reason in (("<b>yes", None), ("</b>", "stop")):
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": reason}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            self.wfile.write(f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        """Writes nothing."""


@pytest.fixture
def url():
    """The address of a server that repeats itself."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def ask(box, question):
    """Types a question and waits for the end of the answer."""
    box.field.value = question
    box.answering.join(10)


def test_conversation_is_shown_without_its_markup(url):
    box = ChatBox(clients.make_openai_client(url))
    ask(box, "Is <i>it</i>?")
    question = {"role": "user", "content": "Is <i>it</i>?"}
    assert box.messages == [question, {"role": "assistant", "content": "<b>yes</b>"}]
    assert "&lt;i&gt;it&lt;/i&gt;" in box.shown.value and "&lt;b&gt;yes&lt;/b&gt;" in box.shown.value
    assert "<i>" not in box.shown.value
    assert box.field.value == "" and not box.field.disabled


def test_conversation_can_be_forgotten(url):
    box = ChatBox(clients.make_openai_client(url))
    ask(box, "Is it?")
    box.forget.click()
    assert box.messages == [] and box.shown.value == ""


def test_question_is_taken_back_if_no_server_answers():
    box = ChatBox(clients.make_openai_client(NOBODY))
    ask(box, "Hello?")
    assert "127.0.0.1:9" in box.shown.value and "Hello?" not in box.shown.value
    assert box.messages == [] and not box.field.disabled and not box.forget.disabled


def test_empty_question_asks_nothing(url):
    box = ChatBox(clients.make_openai_client(url))
    box.field.value = "   "
    assert box.answering is None
