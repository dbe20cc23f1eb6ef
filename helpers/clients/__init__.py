"""The calls that a user makes to a server.

The raw API of 2023 (`raw`, `raw_stream`), the OpenAI client (`openai_chat`), a tutorial server in a process
of its own (`process`), and the real WebUI: its command lines (`webui`), training data (`webui_data`) and
loaded models (`webui_control`).
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.clients.openai_chat import ask_openai as ask_openai
    from helpers.clients.openai_chat import ask_openai_async as ask_openai_async
    from helpers.clients.openai_chat import make_async_openai_client as make_async_openai_client
    from helpers.clients.openai_chat import make_openai_client as make_openai_client
    from helpers.clients.openai_chat import stream_openai as stream_openai
    from helpers.clients.process import RunningServer as RunningServer
    from helpers.clients.process import launch_server as launch_server
    from helpers.clients.process import start_server as start_server
    from helpers.clients.process import wait_until_ready as wait_until_ready
    from helpers.clients.raw import DEFAULT_CHAT_PARAMS as DEFAULT_CHAT_PARAMS
    from helpers.clients.raw import chat_raw as chat_raw
    from helpers.clients.raw import last_reply as last_reply
    from helpers.clients.raw import stream_chat_raw as stream_chat_raw
    from helpers.clients.raw import stream_raw as stream_raw
    from helpers.clients.webui import WebUIOptions as WebUIOptions
    from helpers.clients.webui import build_command as build_command
    from helpers.clients.webui import find_folder as find_folder
    from helpers.clients.webui import list_install_lines as list_install_lines
    from helpers.clients.webui import use_kit_folders as use_kit_folders
    from helpers.clients.webui_control import Loaded as Loaded
    from helpers.clients.webui_control import make_control as make_control
    from helpers.clients.webui_data import read_dataset as read_dataset
    from helpers.clients.webui_data import write_dataset as write_dataset

__getattr__, __dir__, __all__ = export_lazily(__name__)
