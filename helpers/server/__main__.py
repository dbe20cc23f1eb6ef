"""`python -m helpers.server`: loads a model and serves it in one or both dialects, with the WebUI's flags.

torch and the libraries on top of it take some seconds to import. They are imported only after the command
line has passed every check that needs none of them.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from dataclasses import replace
from urllib.parse import urlsplit

from fastapi import FastAPI

from helpers.common import arguments as types
from helpers.common.addresses import is_address, is_local
from helpers.common.choices import say_choices
from helpers.common.command import CommandParser, run_command
from helpers.common.errors import UsageError
from helpers.generation.upstream_engine import UpstreamEngine
from helpers.generation.upstream_errors import KEY_VARIABLE as UPSTREAM_VARIABLE
from helpers.generation.upstream_http import Upstream
from helpers.loading.chat_templates import CHAT_TEMPLATE_HELP, say_template
from helpers.loading.loaders import LOADERS
from helpers.server.guards import HostGate
from helpers.server.keys import KEY_VARIABLE, find_key
from helpers.server.ports import FLAGS, OPENAI_PORT, PORTS, RAW_PORT, open_port
from helpers.server.service import ModelChoice, Service
from helpers.server.serving import serve
from helpers.server.watchdog import start_watchdog

# What each port is for, in the help of its flag.
PORT_HELP = {"raw": "of the raw API", "streaming": "of its websockets", "openai": "of the OpenAI-style API"}

# What is printed for each port when the server is about to start.
ADDRESSES = {
    "raw": "raw API:    http://{host}:{port}/api/v1/chat",
    "streaming": "websockets: ws://{host}:{port}/api/v1/chat-stream",
    "openai": "OpenAI API: http://{host}:{port}/v1\nchat page:  http://127.0.0.1:{port}/",
}


def make_parser() -> CommandParser:
    """The command line: the WebUI's flags as far as they mean something here, and a few more."""
    parser = CommandParser(
        prog="python -m helpers.server", description="Serve a model, and LoRAs on it, over two APIs."
    )
    add_model_flags(parser)
    add_upstream_flags(parser)
    add_api_flags(parser)
    add_access_flags(parser)
    # For programs that start the server: it ends when its standard input closes.
    parser.add_argument("--stop-with-parent", action="store_true", help=argparse.SUPPRESS)
    return parser


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose what is loaded."""
    parser.add_argument("--model", metavar="NAME", help="folder below models/; with --upstream a model there")
    parser.add_argument(
        "--lora",
        nargs="+",
        default=[],
        metavar="NAME",
        help="LoRAs below loras/; the first one answers by default",
    )
    parser.add_argument("--loader", choices=LOADERS, help="default: detected from the folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: what the hardware computes fastest",
    )
    parser.add_argument("--chat-template", metavar="NAME|FILE", help=CHAT_TEMPLATE_HELP)
    parser.add_argument("--model-dir", type=types.path, metavar="D", help="default: models/")
    parser.add_argument("--lora-dir", type=types.path, metavar="D", help="default: loras/")


def add_upstream_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that put this server in front of another one."""
    words = "ask this server (vLLM, llama.cpp, Ollama ...) in place of a model of this computer"
    parser.add_argument("--upstream", type=types.text, metavar="URL", help=words)
    keys = parser.add_mutually_exclusive_group()
    words = f"the upstream's key; {UPSTREAM_VARIABLE} in the environment and a file hide it from other users"
    keys.add_argument("--upstream-key", type=types.text, metavar="K", help=words)
    keys.add_argument(
        "--upstream-key-file", type=types.path, metavar="FILE", help="the file has the key and no more"
    )


def add_api_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose the APIs and their ports (options raw_port, streaming_port and openai_port)."""
    parser.add_argument("--api", action="store_true", help="the raw API of 2023")
    parser.add_argument(
        "--extensions",
        nargs="+",
        default=[],
        choices=("openai", "api"),
        help="openai: the OpenAI-style API; api: the raw one",
    )
    for name, flag in FLAGS.items():
        parser.add_argument(
            flag,
            dest=f"{name}_port",
            type=types.port,
            default=PORTS[name],
            metavar="PORT",
            help=f"{PORT_HELP[name]} (default: {PORTS[name]})",
        )


def add_access_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say who may ask."""
    parser.add_argument(
        "--listen",
        action="store_true",
        help="be reachable from other machines; requires a key or --no-api-key",
    )
    add_key_flags(parser)
    parser.add_argument(
        "--strict-model",
        action="store_true",
        help="answer an unknown model name with 404, not with the default model",
    )


def add_key_flags(parser: argparse.ArgumentParser) -> None:
    """The ways to give a key, of which a command line has one at most."""
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--api-key",
        type=types.text,
        metavar="K",
        help="clients must send it as a bearer token. Other users of this computer can see it in the list of "
        f"processes (ps); the environment variable {KEY_VARIABLE} and a file keep it from them",
    )
    keys.add_argument(
        "--api-key-file", type=types.path, metavar="FILE", help="the file has the key and no more"
    )
    keys.add_argument("--no-api-key", action="store_true", help="with --listen: anyone may use it")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The parsed command line.

    Its `api_key` may be from a file or from the environment. Raises a UsageError if it is wrong, asks for no
    API, or opens the server to others without a key, and what `find_key` raises.
    """
    options = make_parser().parse_args(arguments)
    if (options.upstream_key or options.upstream_key_file) and not options.upstream:
        raise UsageError("A key of an upstream was given, and no upstream.", "Add --upstream URL.")
    options.upstream_key = find_key(
        options.upstream_key, options.upstream_key_file, "--upstream-key", UPSTREAM_VARIABLE
    )
    if not (options.model or options.upstream):
        raise UsageError("No model was named.", "Add --model NAME, or --upstream URL.")
    if not options.no_api_key:
        options.api_key = find_key(options.api_key, options.api_key_file)
    if not list_apis(options):
        remedy = f"Add --api (raw, port {RAW_PORT}), --extensions openai (port {OPENAI_PORT}), or both."
        raise UsageError("No API was asked for.", remedy)
    if options.listen and not options.api_key and not options.no_api_key:
        raise UsageError(
            "--listen opens the server to other machines.",
            f"Set {KEY_VARIABLE}, or add --api-key-file FILE, or --no-api-key if anyone may use it.",
        )
    return options


def list_apis(options: argparse.Namespace) -> list[str]:
    """The names, as in PORTS, of the APIs that were asked for."""
    names = []
    if options.api or "api" in options.extensions:
        names += ["raw", "streaming"]
    if "openai" in options.extensions:
        names.append("openai")
    return names


def open_ports(options: argparse.Namespace, host: str) -> dict[str, socket.socket]:
    """{name of the API: its listening socket}. Raises a ResourceError with the flag if a port is in use."""
    wanted = {name: getattr(options, f"{name}_port") for name in list_apis(options)}
    flags: dict[int, str] = {}  # by the port; 0 is any free one
    for name, port in wanted.items():
        if port and port in flags:
            problem = f"{flags[port]} and {FLAGS[name]} are both {port}."
            raise UsageError(problem, "Give each API a port of its own.")
        flags[port] = FLAGS[name]
    return {name: open_port(host, port, FLAGS[name]) for name, port in wanted.items()}


def refuse_own_address(upstream: str | None, listeners: dict[str, socket.socket]) -> None:
    """A UsageError for an upstream that is one of the ports of this server: it would wait for itself."""
    own = {listener.getsockname()[1] for listener in listeners.values()}
    if upstream and is_address(upstream) and is_local(upstream) and urlsplit(upstream).port in own:
        problem = f"{types.shorten(upstream)} is the address of this server itself."
        raise UsageError(problem, "Name the other server, or give this one another port.")


def make_apps(options: argparse.Namespace, service: Service) -> dict[str, FastAPI]:
    """{name of the API: its application}."""
    from helpers.server.openai_api import make_openai_app
    from helpers.server.raw_answers import RunningRequests
    from helpers.server.raw_api import make_raw_app
    from helpers.server.raw_stream import make_streaming_app

    running = RunningRequests()  # shared: /stop-stream of the raw API ends streams, too
    apps = {}
    for name in list_apis(options):
        if name == "raw":
            apps[name] = make_raw_app(service, options.api_key, running)
        elif name == "streaming":
            apps[name] = make_streaming_app(service, options.api_key, running)
        else:
            apps[name] = make_openai_app(service, options.api_key, options.strict_model)
        if not options.listen:
            apps[name].add_middleware(HostGate)
    return apps


def stop_with_parent() -> None:
    """Ends this process when its standard input closes, as it does when the program that started it ends."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python ends
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """Takes the ports, loads the model, serves until a signal comes."""
    options = parse_arguments(arguments)
    if options.stop_with_parent:
        stop_with_parent()
    host = "0.0.0.0" if options.listen else "127.0.0.1"
    listeners = open_ports(options, host)
    refuse_own_address(options.upstream, listeners)
    upstream = Upstream(options.upstream, options.upstream_key) if options.upstream else None
    service = Service(options.model_dir, options.lora_dir, upstream)
    choice = ModelChoice(options.model or "", tuple(options.lora), options.loader, options.dtype)
    engine = service.load(replace(choice, chat_template=options.chat_template))
    say_template(engine.template)
    say_choices(engine.choices)
    if isinstance(engine, UpstreamEngine):
        print(types.escape(engine.describe()), flush=True)
    try:
        apps = make_apps(options, service)
        for name, listener in listeners.items():
            print(ADDRESSES[name].format(host=host, port=listener.getsockname()[1]), flush=True)
        serve(list(apps.values()), list(listeners.values()), service)
    finally:
        service.unload()


if __name__ == "__main__":
    start_watchdog()
    exit_code = run_command(main)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None for one that was closed from the start
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(exit_code)  # everything is closed; Python would take seconds more to take torch apart
