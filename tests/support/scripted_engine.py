"""An engine with a script, for tests of what the server makes of requests and answers."""

import threading
import time
from concurrent.futures import Future

from helpers.generation.engine import Engine
from helpers.generation.request import OPTIONAL_FIELDS, Generation, Piece


class ScriptedEngine(Engine):
    """Answers every request with `pieces`, `pause_s` seconds apart, until cancelled; a word is a token."""

    def __init__(self, pieces=("Hello", "!"), pause_s=0.0, context=4096, honoured=OPTIONAL_FIELDS):
        super().__init__()
        self.name = "scripted"
        self.context = context
        self.adapters = []
        self.honoured = frozenset(honoured)
        self.pieces = pieces
        self.pause_s = pause_s
        self.requests = []  # in the order in which they came
        self.sent = 0  # pieces of the last answer
        self.ended = threading.Event()  # set when the last answer is over

    def render(self, messages, continue_last=False, tools=None):
        text = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return text if continue_last else f"{text}<assistant>"

    def encode(self, text, add_special):
        return text.split()

    def decode(self, ids):
        return " ".join(map(str, ids))

    def check(self, request):
        return self.read_prompt(request)

    def read_advice(self, name, neutral):
        return neutral

    def submit(self, request, prompt, emit):
        self.requests.append(request)
        self.ended.clear()
        job = Future()
        threading.Thread(target=self.run, args=(request, emit, job), daemon=True).start()
        return job

    def run(self, request, emit, job):
        self.sent = 0
        for piece in self.pieces:
            time.sleep(self.pause_s)
            if self.must_end(request):
                break
            emit(Piece(piece))
            self.sent += 1
        self.ended.set()
        job.set_result(Generation("", 1, self.sent, "stop"))
