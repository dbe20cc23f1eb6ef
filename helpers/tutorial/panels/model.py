"""The Model panel: fetch weights, choose folder and loader, load, ask, unload; what the WebUI's Model tab does."""

import html

import ipywidgets

from helpers.common import machine
from helpers.common.errors import KitError
from helpers.loading import model
from helpers.loading.loaders import LOADERS, detect_loader
from helpers.tutorial.panels.asking import AskingPanel
from helpers.tutorial.panels.base import make_field
from helpers.weights import catalogue, folders, sizes
from helpers.weights.fetching import fetch
from helpers.weights.names import EMBEDDED_NAME


class ModelPanel(AskingPanel):
    """Source and branch to download, the folders in models/, their loader, and the model that is loaded (`loaded`)."""

    title, picture = "Model", "panel-model.png"
    alt = "The Model panel: source, branch, Download; model, loader, Load and Unload; a question and the model's answer; what happened, in words"

    def __init__(self, source: str = EMBEDDED_NAME, branch: str = "main"):
        known = [each.name for each in catalogue.CATALOGUE]
        self.source = make_field(
            ipywidgets.Combobox, "Source", value=source, options=known, placeholder="OWNER/REPO"
        )
        self.branch = make_field(ipywidgets.Combobox, "Branch", value=branch, options=["main"])
        self.folder = make_field(ipywidgets.Dropdown, "Model", options=[])
        self.loader = make_field(ipywidgets.Dropdown, "Loader", options=LOADERS, value=None)
        self.detected: str | None = None
        fetching = self.make_buttons(
            Download=("Downloading", self.download), List_branches=("Asking for branches", self.list_branches)
        )
        using = self.make_buttons(
            Load=("Loading", self.load),
            Unload=("Unloading", self.unload),
            Reload_list=self.reload,
            Stop=self.stop,
        )
        self.table = ipywidgets.HTML()
        parts = (self.source, self.branch, fetching, self.table, self.folder, self.loader, using)
        super().__init__(*parts, messages=[{"role": "user", "content": "What color is the sky?"}])
        self.folder.observe(lambda _: self.choose_folder(), "value")
        self.reload()

    def download(self) -> str:
        """weights.fetch, with its progress."""
        folder = fetch(self.source.value.strip(), self.branch.value.strip() or "main", self.tell)
        self.reload(folder.name)
        return f"{folder.name} is in models/."

    def list_branches(self) -> str:
        """weights.describe_branches as a table, and as proposals for the branch."""
        branches = sizes.describe_branches(self.source.value.strip())
        self.branch.options = [branch.name for branch in branches]
        cells = [
            (b.name, f"{b.disk_bytes / 1e9:.2f}", f"{b.memory_bytes / 1e9:.2f}", "yes" if b.fits else "no")
            for b in branches
        ]
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells
        )
        self.table.value = f"<table><tr><th>branch<th>GB on disk<th>GB to run<th>fits here</tr>{rows}</table>"
        return f"{len(branches)} branches."

    def reload(self, name: str | None = None) -> None:
        """weights.list_models into the list; `name`, or what was chosen, is chosen."""
        names, wanted = folders.list_models(), name or self.folder.value
        self.folder.options = names
        self.folder.value = wanted if wanted in names else names[0] if names else None
        if name is None:
            self.say(
                f"{len(names)} folders are in models/." if names else "models/ is empty: press Download."
            )

    def choose_folder(self) -> None:
        """Detects the loader of the folder that was chosen; it can be switched afterwards."""
        if self.folder.value is None:
            return
        try:
            self.detected, reason = detect_loader(folders.find_model(self.folder.value))
            self.loader.value = self.detected
            self.say(f"{self.folder.value}: its loader is {self.detected} ({reason}).")
        except KitError as error:
            self.say(f"Error: {error}", "alert")

    def load(self) -> str:
        """loading.load_model; a model that was loaded before goes first."""
        if self.folder.value is None:
            raise KitError(
                "No model is chosen.", "Press Download, or put a folder into models/ and press Reload list."
            )
        self.let_go()
        loader = None if self.loader.value == self.detected else self.loader.value
        self.put_model(model.load_model(self.folder.value, loader))
        one, (free, total) = self.loaded, machine.measure_memory().value
        where = f"{str(one.dtype.value).removeprefix('torch.')} on {one.device.value}, {one.bytes / 1e9:.2f} GB of weights, in {one.seconds:.1f} s"
        return f"{one.name} is loaded by {one.loader.value}: {where}; {free / 1e9:.1f} of {total / 1e9:.1f} GB are free."

    def unload(self) -> str:
        """loading.free."""
        if self.loaded is None:
            raise KitError("No model is loaded.", "There is nothing to unload.")
        name = self.loaded.name
        return f"{name} is unloaded; {max(self.let_go(), 0):.2f} GB came back."
