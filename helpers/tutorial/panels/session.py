"""The Session panel: a server with the APIs and ports that are chosen; what the WebUI's Session tab does."""

import ipywidgets

from helpers.adapters.folders import list_adapters
from helpers.clients import process
from helpers.clients.process import RunningServer, read_last_line
from helpers.common.errors import KitError
from helpers.server.ports import PORTS
from helpers.tutorial.panels.base import NONE, Panel, make_field
from helpers.weights.folders import list_models


class SessionPanel(Panel):
    """The model and the APIs to serve, Start and Stop, and the addresses to copy; `server` is None while none was started."""

    title, picture = "Session", "panel-session.png"
    alt = "The Session panel: model, LoRA, both APIs ticked with their ports, Start and Stop, the addresses of the server that runs"

    def __init__(self, model: str | None = None):
        names, loras = list_models(), list_adapters()
        self.model = make_field(
            ipywidgets.Dropdown, "Model", options=names, value=model if model in names else None
        )
        self.lora = make_field(ipywidgets.Dropdown, "LoRA", options=[NONE, *((name, name) for name in loras)])
        self.raw = make_field(ipywidgets.Checkbox, "Raw API of 2023", value=True)
        self.openai = make_field(ipywidgets.Checkbox, "OpenAI-style API", value=True)
        labels = {"raw": "Port, raw", "streaming": "Port, streaming", "openai": "Port, OpenAI"}
        self.ports = {
            name: make_field(ipywidgets.BoundedIntText, label, value=PORTS[name], min=1024, max=65535)
            for name, label in labels.items()
        }
        shown = {"raw": "Raw address", "streaming": "Streaming address", "openai": "OpenAI address"}
        self.addresses = {
            name: make_field(ipywidgets.Text, label, placeholder="no server runs")
            for name, label in shown.items()
        }
        self.server: RunningServer | None = None
        buttons = self.make_buttons(Start=("Starting the server", self.serve), Stop=self.stop)
        super().__init__(
            self.model,
            self.lora,
            self.raw,
            self.openai,
            *self.ports.values(),
            buttons,
            *self.addresses.values(),
        )
        self.say("No server runs: choose, then press Start.")

    def choose_ports(self) -> dict[str, int]:
        """The ports of the APIs that are ticked."""
        ticked = {"raw": self.raw.value, "streaming": self.raw.value, "openai": self.openai.value}
        return {name: field.value for name, field in self.ports.items() if ticked[name]}

    def serve(self) -> str:
        """clients.launch_server, and the wait until it answers."""
        if self.server is not None and self.server.process.poll() is None:
            raise KitError("The server runs already.", "Press Stop before you start it in another way.")
        if self.model.value is None:
            raise KitError("No model is chosen.", "Choose one; the Model panel of lesson 2 brings models.")
        ports, loras = self.choose_ports(), [self.lora.value] if self.lora.value else []
        server = self.server = process.launch_server(self.model.value, ports, loras)
        try:
            server.wait_until_ready()
        except KitError:
            self.server = None
            self.check_stop()
            raise
        found = {"raw": server.raw_url, "streaming": server.streaming_url, "openai": server.openai_url}
        for name in ports:
            self.addresses[name].value = found[name]
        return f"the server runs. In a terminal: {server.command}"

    def stop(self) -> None:
        """Ends the server, also one that is still starting."""
        if self.doing or self.server is None:
            super().stop()
            if self.server is not None:
                self.server.process.terminate()  # the wait for it ends then
        else:
            self.start("Stopping the server", self.end)

    def end(self) -> str:
        """RunningServer.stop."""
        server, self.server = self.server, None
        for field in self.addresses.values():
            field.value = ""
        if server.process.poll() is not None:
            raise KitError(
                f"The server had ended by itself: {read_last_line(server.log)}",
                "Press Start to start it again.",
            )
        server.stop()
        return "the server is gone, and its memory with it."
