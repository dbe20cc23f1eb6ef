"""Stand-ins for the WebUI of October 2023 and of today: their replies and quirks, with a model that echoes.

`serve_reply` is a server that gives one and the same reply.
"""

import contextlib
import html
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from websockets.sync.server import serve

MODELS = ["llama", "mistral", "broken"]
LORAS = ["colleges", "pirate", "torn"]  # torn cannot be loaded


@contextlib.contextmanager
def serve_reply(status: int, body: bytes) -> Iterator[tuple[str, list]]:
    """A server that gives every request the same reply: its address, and the list of bodies that it got."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with serve_http(Handler) as (url, _):
        yield url, received


@contextlib.contextmanager
def serve_http(handler: type) -> Iterator[tuple[str, http.server.HTTPServer]]:
    """The address of Python's own HTTP server with this handler, and the server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server
        server.shutdown()


@contextlib.contextmanager
def serve_websockets(answer, **options) -> Iterator[str]:
    """The address of a websocket server that calls `answer` with each connection."""
    with serve(answer, "127.0.0.1", 0, **options) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


class Webui2023:
    """What the raw API of 2023 holds and answers. An exception empties the reply or closes the websocket."""

    def __init__(self):
        self.model: str | None = "llama"
        self.loras: list[str] = []  # what it reports
        self.active: list[str] = []  # what it answers with
        self.args: dict[str, Any] = {"loader": "Transformers", "lora": None, "model_dir": "models/"}

    def answer(self, path: str, body: dict) -> dict:
        """The reply to a POST."""
        if path == "/api/v1/model":
            return self.answer_model(body)
        if path == "/api/v1/token-count":
            return {"results": [{"tokens": len(body["prompt"]) // self.has_tokenizer()}]}
        return {"results": [{"history": self.grow_history(body)[-1]}]}

    def answer_model(self, body: dict) -> dict:
        """The reply to an action on the model; an unknown action reads its name."""
        action = body.get("action", "")
        if action == "list":
            return {"result": ["None", *sorted(MODELS)]}
        if action == "load":
            return self.load(body["model_name"], body.get("args", {}))
        if action == "unload":
            self.model, self.loras, self.active = None, [], []
        elif action != "info":
            return {"result": self.model}
        return {"result": self.describe()}

    def describe(self) -> dict:
        """The info object."""
        return {
            "model_name": self.model,
            "lora_names": self.loras,
            "shared.settings": {},
            "shared.args": self.args,
        }

    def load(self, name: str, args: dict) -> dict:
        """Reports an unknown name without a loader; what the loader raises becomes an error object."""
        self.args |= {**args, "loader": "Transformers" if name in MODELS else None}
        self.model, self.loras, self.active = name, [], []
        if name == "broken":
            return {"error": {"message": "KeyError('nonsense')"}}
        for lora in self.args["lora"] or [] if name in MODELS else []:
            if lora not in LORAS:
                message = f"ValueError(\"Can't find 'adapter_config.json' at 'loras/{lora}'\")"
                return {"error": {"message": message}}
            self.active = self.active or [lora]  # the first of several
        if len(self.args["lora"] or []) > 1:
            return {"error": {"message": "ValueError('max() arg is an empty sequence')"}}
        self.loras = self.active
        return {"result": self.describe()}

    def has_tokenizer(self) -> bool:
        """Whether a model is loaded."""
        return self.model in MODELS and self.model != "broken"

    def grow_history(self, body: dict) -> list[dict]:
        """The histories of a chat answer, longer each time; without a model, the one that was sent."""
        asked = body["user_input"]
        history = body.get("history", {"internal": [], "visible": []})
        if self.args["loader"] is None or self.model is None:
            return [history]
        replies = [f"{asked}!"[:end] for end in range(1, len(asked) + 2)]
        return [
            {
                "internal": [*history["internal"], [asked, reply]],
                "visible": [*history["visible"], [html.escape(asked), html.escape(reply)]],
            }
            for reply in replies
        ]

    def write_pieces(self, prompt: str) -> list[str]:
        """The pieces of an answer to a prompt, at least two; without a model only the empty first one."""
        return ["", *(prompt.split() or [""])] if self.has_tokenizer() else [""]

    def talk(self, connection) -> None:
        """The websocket, for many requests: a failure closes it with 1011, an unknown path with 1000."""
        if connection.request.path not in ("/api/v1/stream", "/api/v1/chat-stream"):
            return
        for text in connection:
            body = json.loads(text)
            if connection.request.path == "/api/v1/stream":
                parts = [{"text": piece} for piece in self.write_pieces(body["prompt"])]
            else:
                parts = [{"history": history} for history in self.grow_history(body)]
            for number, part in enumerate(parts):
                connection.send(json.dumps({"event": "text_stream", "message_num": number, **part}))
            if body.get("stopping_strings") == ["crash"]:
                raise RuntimeError
            connection.send(json.dumps({"event": "stream_end", "message_num": len(parts)}))


class Handler2023(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0 without Content-Length, as Python's server speaks it; paths are compared as they are."""

    def do_GET(self):
        self.reply(lambda: {"result": self.server.webui.model}, ("/api/v1/model",))

    def do_POST(self):
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        except (TypeError, ValueError):
            return  # the connection closes without a byte
        paths = ("/api/v1/model", "/api/v1/chat", "/api/v1/token-count")
        self.reply(lambda: self.server.webui.answer(self.path, body), paths)

    def reply(self, answer, paths):
        if self.path not in paths:
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        # the status has been sent: what fails now leaves the body empty
        with contextlib.suppress(LookupError, TypeError, AttributeError, ArithmeticError):
            self.wfile.write(json.dumps(answer()).encode())

    def log_message(self, *_):
        pass


class Running2023(NamedTuple):
    """A stand-in of 2023 that is running."""

    url: str  # of the raw API
    stream_url: str  # of its websockets
    webui: Webui2023  # its state


@contextlib.contextmanager
def run_webui_2023() -> Iterator[Running2023]:
    """The WebUI of 2023 with its raw API."""
    webui = Webui2023()
    with serve_http(Handler2023) as (url, server), serve_websockets(webui.talk) as stream_url:
        server.webui = webui
        yield Running2023(url, stream_url, webui)


@contextlib.contextmanager
def run_webui_today(api_key: str | None = None, admin_key: str | None = None) -> Iterator[str]:
    """The address of today's WebUI."""
    server = uvicorn.Server(uvicorn.Config(make_webui_today(api_key, admin_key), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def make_webui_today(api_key: str | None, admin_key: str | None) -> FastAPI:
    """Today's server: FastAPI's errors, an admin key that opens nothing else, streams that break off."""
    app = FastAPI()
    state = {"model_name": "llama", "lora_names": [], "loader": "Transformers"}
    app.state.active = []  # the LoRAs that it answers with; it may report others
    add_key_check(app, api_key, admin_key)
    add_model_routes(app, state)
    add_lora_routes(app, state)
    add_chat_route(app)
    return app


def add_key_check(app: FastAPI, api_key: str | None, admin_key: str | None) -> None:
    @app.middleware("http")
    async def check_key(request: Request, call_next):
        path = request.url.path
        admin = "/lora/" in path or path.endswith(("model/load", "model/unload", "model/list"))
        wanted = admin_key if admin else api_key
        if wanted and request.headers.get("authorization") != f"Bearer {wanted}":
            return StreamingResponse(iter(['{"detail":"Unauthorized"}']), 401, media_type="application/json")
        return await call_next(request)


def add_model_routes(app: FastAPI, state: dict) -> None:
    @app.get("/v1/internal/model/info")
    async def show():
        return state

    @app.get("/v1/internal/model/list")
    async def list_models():
        return {"model_names": sorted(MODELS)}

    @app.post("/v1/internal/model/load")
    async def load(model_name: Annotated[str, Body()], args: Annotated[dict | None, Body()] = None):
        found = model_name in MODELS and model_name != "broken"
        state.update(model_name=model_name, lora_names=[], loader="Transformers" if found else None)
        app.state.active = []
        if not found:
            raise HTTPException(500, "Failed to load the model.")
        return "OK"

    @app.post("/v1/internal/model/unload")
    async def unload():
        state.update(model_name="None", lora_names=[], loader=None)
        app.state.active = []
        return "OK"


def add_lora_routes(app: FastAPI, state: dict) -> None:
    @app.get("/v1/internal/lora/list")
    async def list_loras():
        return {"lora_names": LORAS}

    @app.post("/v1/internal/lora/load")
    async def load_loras(lora_names: Annotated[list[str], Body(embed=True)]):
        if set(lora_names) == set(state["lora_names"]):
            return "OK"  # it believes its own report
        app.state.active = []
        if not set(lora_names) <= set(LORAS) - {"torn"}:
            raise HTTPException(400, "Failed to apply the LoRA(s).")
        app.state.active = state["lora_names"] = lora_names
        return "OK"

    @app.post("/v1/internal/lora/unload")
    async def unload_loras():
        app.state.active = state["lora_names"] = []
        return "OK"


def add_chat_route(app: FastAPI) -> None:
    @app.post("/v1/chat/completions")
    async def chat(body: dict):
        last = body["messages"][-1].get("content")
        if body.get("stream"):
            return StreamingResponse(stream_words(last), media_type="text/event-stream")
        message = {"role": "assistant", "content": last}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"object": "chat.completion", "choices": [choice]}


def stream_words(text: str | None) -> Iterator[str]:
    """The events of a chat stream, with one for the usage as if asked for; none if there is no text."""
    if text is None:
        return
    first = {"role": "assistant", "refusal": None, "content": ""}
    deltas = [first, *({"content": word} for word in text.split())]
    for delta in deltas:
        yield write_event(choices=[{"index": 0, "finish_reason": None, "delta": delta, "logprobs": None}])
    yield write_event(choices=[{"index": 0, "finish_reason": "stop", "delta": {}, "logprobs": None}])
    yield write_event(choices=[], usage={})
    yield "data: [DONE]\n\n"


def write_event(**fields: object) -> str:
    """One event of a chat stream."""
    return f"data: {json.dumps({'object': 'chat.completion.chunk', **fields})}\n\n"
