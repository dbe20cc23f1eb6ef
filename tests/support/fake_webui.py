"""Stand-ins for the WebUI of October 2023 and of today: their shapes and their quirks, with a model that says what it was told."""

import contextlib
import html
import http.server
import json
import threading
import time
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from websockets.sync.server import serve

MODELS, LORAS = ["llama", "mistral", "broken"], ["colleges", "pirate"]


class Webui2023:
    """What the raw API of 2023 holds and answers; an exception in it leaves the reply empty, or the connection closed."""

    def __init__(self):
        self.model, self.loras, self.args = (
            "llama",
            [],
            {"loader": "Transformers", "lora": None, "model_dir": "models/"},
        )

    def answer_model(self, body):
        action = body.get("action", "")
        if action == "list":
            return {"result": ["None", *sorted(MODELS)]}
        if action == "load":
            return self.load(body["model_name"], body.get("args", {}))
        if action == "unload":
            self.model, self.loras = None, []
        elif action != "info":
            return {"result": self.model}
        return {
            "result": {
                "model_name": self.model,
                "lora_names": self.loras,
                "shared.settings": {},
                "shared.args": self.args,
            }
        }

    def load(self, name, args):
        """An unknown name is named like a loaded one, with no loader; what the loader throws is an error object with status 200."""
        self.args |= {**args, "loader": "Transformers" if name in MODELS else None}
        self.model, self.loras = name, []
        if name == "broken":
            return {"error": {"message": "KeyError('nonsense')"}}
        if name in MODELS and self.args["lora"]:
            for lora in self.args["lora"]:
                if lora not in LORAS:
                    return {
                        "error": {
                            "message": f"ValueError(\"Can't find 'adapter_config.json' at 'loras/{lora}'\")"
                        }
                    }
            self.loras = self.args["lora"]
        return self.answer_model({"action": "info"})

    def grow_history(self, body):
        """The histories of a chat answer, longer each time; without a model, the one that was sent."""
        asked, history = body["user_input"], body.get("history", {"internal": [], "visible": []})
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

    def answer(self, path, body):
        if path == "/api/v1/model":
            return self.answer_model(body)
        return {"results": [{"history": self.grow_history(body)[-1]}]}

    def talk(self, connection):
        """The websocket: a failure closes with 1011, an unknown path with 1000; the connection stays open for more requests."""
        if connection.request.path not in ("/api/v1/stream", "/api/v1/chat-stream"):
            return
        for text in connection:
            body = json.loads(text)
            if connection.request.path == "/api/v1/stream":
                parts = [{"text": piece} for piece in ["", *body["prompt"].split()]]
            else:
                parts = [{"history": history} for history in self.grow_history(body)]
            for number, part in enumerate(parts):
                connection.send(json.dumps({"event": "text_stream", "message_num": number, **part}))
            if body.get("stopping_strings") == ["crash"]:
                raise RuntimeError
            connection.send(json.dumps({"event": "stream_end", "message_num": len(parts)}))


class Handler2023(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0 without Content-Length, as Python's server speaks it; exact paths."""

    def do_GET(self):
        self.reply(lambda: {"result": self.server.webui.model}, ("/api/v1/model",))

    def do_POST(self):
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        except (TypeError, ValueError):
            return  # the connection closes without a byte
        self.reply(lambda: self.server.webui.answer(self.path, body), ("/api/v1/model", "/api/v1/chat"))

    def reply(self, answer, paths):
        if self.path not in paths:
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(
            LookupError, TypeError, AttributeError
        ):  # the status is out: what fails now leaves the body empty
            self.wfile.write(json.dumps(answer()).encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def run_webui_2023():
    """The address of its raw API, that of its websockets, and its state."""
    webui = Webui2023()
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler2023) as server,
        serve(webui.talk, "127.0.0.1", 0) as streams,
    ):
        server.webui = webui
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        threading.Thread(target=streams.serve_forever, daemon=True).start()
        yield (
            f"http://127.0.0.1:{server.server_port}",
            f"ws://127.0.0.1:{streams.socket.getsockname()[1]}",
            webui,
        )
        streams.shutdown()
        server.shutdown()


def make_webui_today(api_key, admin_key):
    """Today's server: FastAPI's own errors, an admin key that opens nothing else, a stream that ends early for a late error."""
    app, state = FastAPI(), {"model_name": "llama", "lora_names": [], "loader": "Transformers"}

    @app.middleware("http")
    async def check_key(request: Request, call_next):
        admin = "/lora/" in request.url.path or request.url.path.endswith(
            ("model/load", "model/unload", "model/list")
        )
        wanted = admin_key if admin else api_key
        if wanted and request.headers.get("authorization") != f"Bearer {wanted}":
            return StreamingResponse(iter(['{"detail":"Unauthorized"}']), 401, media_type="application/json")
        return await call_next(request)

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
        if not found:
            raise HTTPException(500, "Failed to load the model.")
        return "OK"

    @app.post("/v1/internal/model/unload")
    async def unload():
        state.update(model_name="None", lora_names=[], loader=None)
        return "OK"

    @app.get("/v1/internal/lora/list")
    async def list_loras():
        return {"lora_names": LORAS}

    @app.post("/v1/internal/lora/load")
    async def load_loras(lora_names: Annotated[list[str], Body(embed=True)]):
        if not set(lora_names) <= set(LORAS):
            raise HTTPException(400, "Failed to apply the LoRA(s).")
        state["lora_names"] = lora_names
        return "OK"

    @app.post("/v1/internal/lora/unload")
    async def unload_loras():
        state["lora_names"] = []
        return "OK"

    @app.post("/v1/chat/completions")
    async def chat(body: dict):
        last = body["messages"][-1].get("content")
        if body.get("stream"):
            return StreamingResponse(stream_words(last), media_type="text/event-stream")
        return {
            "object": "chat.completion",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": last}}
            ],
        }

    return app


def stream_words(text):
    """The events of a chat stream; none at all where the message has no content."""
    if text is None:
        return
    words = [
        {"role": "assistant", "refusal": None, "content": ""},
        *({"content": word} for word in text.split()),
        {},
    ]
    for number, delta in enumerate(words):
        choice = {
            "index": 0,
            "finish_reason": "stop" if number == len(words) - 1 else None,
            "delta": delta,
            "logprobs": None,
        }
        yield f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    yield f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [], 'usage': {}})}\n\n"  # with include_usage
    yield "data: [DONE]\n\n"


@contextlib.contextmanager
def run_webui_today(api_key=None, admin_key=None):
    """The address of its API."""
    server = uvicorn.Server(uvicorn.Config(make_webui_today(api_key, admin_key), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
