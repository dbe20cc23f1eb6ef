"""The Session panel: a server with the chosen APIs and ports. It does what the WebUI's Session tab does."""

import ipywidgets

from helpers.adapters.folders import list_adapters, list_shipped
from helpers.clients import process
from helpers.clients.process import RunningServer, read_last_line
from helpers.common.errors import AlreadyThereError, KitError, ServerError, UsageError
from helpers.server.ports import PORTS
from helpers.tutorial.panels.base import NONE, Panel, make_field
from helpers.weights.folders import list_models

PORT_LABELS = {"raw": "Port, raw", "streaming": "Port, streaming", "openai": "Port, OpenAI"}
ADDRESS_LABELS = {"raw": "Raw address", "streaming": "Streaming address", "openai": "OpenAI address"}


class SessionPanel(Panel):
    """The model and the APIs to serve, Start and Stop, and the addresses to copy.

    `server` is the running server, None if none was started.
    """

    title = "Session"
    picture = "panel-session.png"
    alt = (
        "The Session panel: model, LoRA, both APIs ticked with their ports, Start and Stop, "
        "the addresses of the server that runs"
    )

    def __init__(self, model: str | None = None):
        names = list_models()
        chosen = model if model in names else None
        loras = [(name, name) for name in dict.fromkeys([*list_adapters(), *list_shipped()])]
        self.server: RunningServer | None = None
        self.model = make_field(ipywidgets.Dropdown, "Model", options=names, value=chosen)
        self.lora = make_field(ipywidgets.Dropdown, "LoRA", options=[NONE, *loras])
        self.raw = make_field(ipywidgets.Checkbox, "Raw API of 2023", value=True)
        self.openai = make_field(ipywidgets.Checkbox, "OpenAI-style API", value=True)
        self.ports = {
            name: make_field(ipywidgets.BoundedIntText, label, value=PORTS[name], min=1024, max=65535)
            for name, label in PORT_LABELS.items()
        }
        self.addresses = {
            name: make_field(ipywidgets.Text, label, placeholder="no server is running")
            for name, label in ADDRESS_LABELS.items()
        }
        buttons = self.make_buttons(Start=("Starting the server", self.serve), Stop=self.stop)
        choices = (self.model, self.lora, self.raw, self.openai, *self.ports.values())
        super().__init__(*choices, buttons, *self.addresses.values())
        self.say("No server is running. Choose a model, then press Start.")

    def choose_ports(self) -> dict[str, int]:
        """The ports of the APIs that are ticked: raw and streaming, openai."""
        ticked = {"raw": self.raw.value, "streaming": self.raw.value, "openai": self.openai.value}
        return {name: field.value for name, field in self.ports.items() if ticked[name]}

    def serve(self) -> str:
        """Runs clients.launch_server, and waits until the server answers."""
        if self.server is not None and self.server.runs_here():
            raise AlreadyThereError(
                "The server is already running.", "Press Stop before you start it with other settings."
            )
        if self.model.value is None:
            raise UsageError("No model is chosen.", "Choose one; the Model panel of lesson 2 fetches models.")
        ports = self.choose_ports()
        loras = [self.lora.value] if self.lora.value else []
        server = self.server = process.launch_server(self.model.value, ports, loras)
        try:
            server.wait_until_ready()
        except KitError:
            self.server = None
            self.check_stop()  # if Stop was pressed, the server's end is not an error
            raise
        self.show_addresses(server, ports)
        return f"the server is running. In a terminal you would type: {server.command}"

    def show_addresses(self, server: RunningServer, ports: dict[str, int]) -> None:
        """Shows the addresses of the APIs that were started."""
        urls = {"raw": server.raw_url, "streaming": server.streaming_url, "openai": server.openai_url}
        for name in ports:
            self.addresses[name].value = urls[name]

    def stop(self) -> None:
        """Ends the server, even if it is still starting."""
        if self.server is not None and not self.doing:
            self.start("Stopping the server", self.end)
            return
        super().stop()
        if self.server is not None:
            self.server.process.terminate()  # which ends the wait for it, too

    def end(self) -> str:
        """Runs RunningServer.stop. Raises ServerError if the server had already ended by itself."""
        server, self.server = self.server, None
        for field in self.addresses.values():
            field.value = ""
        if server is None:
            raise UsageError("No server is running.", "There is nothing to stop.")
        if not server.runs_here():
            raise ServerError(
                f"The server had ended by itself: {read_last_line(server.log)}",
                "Press Start to start it again.",
            )
        server.stop()
        return "the server has stopped and freed its memory."
