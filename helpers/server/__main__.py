"""`python -m helpers.server`: loads a model once and serves it in one or both dialects, with the WebUI's flags.

torch and what stands on it are imported (some seconds) only after the command line has passed every check that needs none of it.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from helpers.common.command import CommandParser, run_command
from helpers.common.errors import KitError
from helpers.loading.loaders import LOADERS
from helpers.server.guards import BODY_LIMIT, HostGate
from helpers.server.ports import open_port
from helpers.server.service import ModelChoice, Service

GRACE_S = 3  # seconds that a running answer gets when the server ends; who presses Ctrl-C waits no longer


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The WebUI's flags as far as they mean something here; KitError when nothing would be served."""
    parser = CommandParser(
        prog="python -m helpers.server", description="Serve a model, and LoRAs on it, over two APIs."
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="folder below models/")
    parser.add_argument(
        "--lora",
        nargs="+",
        default=[],
        metavar="NAME",
        help="adapters below loras/; the first one answers by default",
    )
    parser.add_argument("--api", action="store_true", help="the raw API of 2023")
    parser.add_argument(
        "--extensions",
        nargs="+",
        default=[],
        choices=("openai", "api"),
        help="openai: the OpenAI-style API; api: the raw one",
    )
    parser.add_argument("--loader", choices=LOADERS, help="default: detected from the folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: what the hardware computes fastest",
    )
    parser.add_argument(
        "--api-blocking-port", type=int, default=5000, metavar="PORT", help="of the raw API (default: 5000)"
    )
    parser.add_argument(
        "--api-streaming-port",
        type=int,
        default=5005,
        metavar="PORT",
        help="of its websockets (default: 5005)",
    )
    parser.add_argument(
        "--openai-port",
        type=int,
        default=5001,
        metavar="PORT",
        help="of the OpenAI-style API (default: 5001)",
    )
    parser.add_argument("--model-dir", type=Path, metavar="D", help="default: models/")
    parser.add_argument("--lora-dir", type=Path, metavar="D", help="default: loras/")
    parser.add_argument(
        "--listen",
        action="store_true",
        help="be reachable from other machines; wants --api-key or --no-api-key",
    )
    parser.add_argument("--api-key", metavar="K", help="clients must send it as a bearer token")
    parser.add_argument("--no-api-key", action="store_true", help="with --listen: anyone may use it")
    parser.add_argument(
        "--strict-model", action="store_true", help="an unknown model name is a 404, not the default"
    )
    parser.add_argument(
        "--stop-with-parent", action="store_true", help=argparse.SUPPRESS
    )  # ends when standard input closes
    options = parser.parse_args(arguments)
    options.api = options.api or "api" in options.extensions
    if not options.api and "openai" not in options.extensions:
        raise KitError(
            "No API was asked for.", "Add --api (raw, port 5000), --extensions openai (port 5001), or both."
        )
    if options.listen and not options.api_key and not options.no_api_key:
        raise KitError(
            "--listen opens the server to other machines.",
            "Add --api-key KEY, or --no-api-key if anyone may use it.",
        )
    return options


class QuietServer(uvicorn.Server):
    """A uvicorn server that leaves the signals to `serve`, which stops all of them together."""

    @contextlib.contextmanager
    def capture_signals(self):
        """Captures none."""
        yield


async def serve(apps: list[tuple[FastAPI, socket.socket]], service: Service) -> None:
    """Serves every application on its socket until SIGINT or SIGTERM.

    Running answers get GRACE_S to end, then they are sent as far as they have come; a second signal sends them at once.
    """
    # uvicorn's own limit lies higher: it would cut connections off. No pings, as then: a client that waits in a notebook answers none.
    settings = {
        "log_level": "warning",
        "access_log": False,
        "timeout_graceful_shutdown": GRACE_S + 4,
        "ws_ping_interval": None,
        "ws_max_size": BODY_LIMIT,
    }
    servers = [QuietServer(uvicorn.Config(app, **settings)) for app, _ in apps]
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        delay = 0 if servers[0].should_exit else GRACE_S
        for server in servers:
            server.should_exit = True
        loop.call_soon_threadsafe(loop.call_later, delay, service.unload)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    await asyncio.gather(
        *(server.serve(sockets=[listener]) for server, (_, listener) in zip(servers, apps, strict=True))
    )


def stop_with_parent() -> None:
    """Ends this process when its standard input closes, as it does when the program that started it goes."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python ends
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """Takes the ports, loads the model, serves."""
    options = parse_arguments(arguments)
    if options.stop_with_parent:
        stop_with_parent()
    host = "0.0.0.0" if options.listen else "127.0.0.1"
    raw = open_port(host, options.api_blocking_port, "--api-blocking-port") if options.api else None
    streaming = open_port(host, options.api_streaming_port, "--api-streaming-port") if options.api else None
    openai = open_port(host, options.openai_port, "--openai-port") if "openai" in options.extensions else None
    service = Service(options.model_dir, options.lora_dir)
    service.load(ModelChoice(options.model, tuple(options.lora), options.loader, options.dtype))
    from helpers.server.openai_api import make_openai_app
    from helpers.server.raw_answers import Running
    from helpers.server.raw_api import make_raw_app
    from helpers.server.raw_stream import make_streaming_app

    apps = []
    if raw:
        running = Running()
        apps += [
            (make_raw_app(service, options.api_key, running), raw),
            (make_streaming_app(service, options.api_key, running), streaming),
        ]
        print(f"raw API:    http://{host}:{raw.getsockname()[1]}/api/v1/chat", flush=True)
        print(f"websockets: ws://{host}:{streaming.getsockname()[1]}/api/v1/chat-stream", flush=True)
    if openai:
        apps.append((make_openai_app(service, options.api_key, options.strict_model), openai))
        print(f"OpenAI API: http://{host}:{openai.getsockname()[1]}/v1", flush=True)
    if not options.listen:
        for app, _ in apps:
            app.add_middleware(HostGate)
    try:
        asyncio.run(serve(apps, service))
    finally:
        service.unload()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
