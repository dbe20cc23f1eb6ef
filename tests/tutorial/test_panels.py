"""The chat box against a real HTTP server, without a browser: ipywidgets' traits are what a front end sets and reads."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import clients
from helpers.tutorial.panels.chat_box import ChatBox


class Parrot(BaseHTTPRequestHandler):
    """Streams <b>yes</b> in two pieces to whoever asks."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece, reason in (("<b>yes", None), ("</b>", "stop")):
            choices = [{"index": 0, "delta": {"content": piece}, "finish_reason": reason}]
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": choices,
            }
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def ask(box, question):
    box.field.value = question
    box.answering.join(10)


def test_chat_box_shows_the_conversation_and_lets_no_markup_through(url):
    box = ChatBox(clients.make_openai_client(url))
    ask(box, "Is <i>it</i>?")
    assert box.messages == [
        {"role": "user", "content": "Is <i>it</i>?"},
        {"role": "assistant", "content": "<b>yes</b>"},
    ]
    assert (
        "&lt;i&gt;it&lt;/i&gt;" in box.shown.value
        and "&lt;b&gt;yes&lt;/b&gt;" in box.shown.value
        and "<i>" not in box.shown.value
    )
    assert box.field.value == "" and not box.field.disabled
    box.forget.click()
    assert box.messages == [] and box.shown.value == ""


def test_chat_box_says_in_words_that_no_server_is_there_and_can_be_used_again():
    box = ChatBox(clients.make_openai_client("http://127.0.0.1:9/v1"))
    ask(box, "Hello?")
    assert "No server answers" in box.shown.value and box.messages == [] and not box.field.disabled


def test_empty_question_asks_nothing(url):
    box = ChatBox(clients.make_openai_client(url))
    box.field.value = "   "
    assert box.answering is None
