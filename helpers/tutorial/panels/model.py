"""The Model panel: fetch weights, choose a folder and a loader, load, ask, unload.

It does what the WebUI's Model tab does.
"""

import html

import ipywidgets

from helpers.common import machine
from helpers.common.errors import KitError, UsageError
from helpers.loading import model
from helpers.loading.loaders import LOADERS, detect_loader
from helpers.tutorial.panels.asking import AskingPanel
from helpers.tutorial.panels.base import make_field
from helpers.weights import catalogue, folders, sizes
from helpers.weights.fetching import fetch
from helpers.weights.names import EMBEDDED_NAME


class ModelPanel(AskingPanel):
    """Source and branch to download, the folders in models/ with their loaders, and a loaded model to ask."""

    title = "Model"
    picture = "panel-model.png"
    alt = (
        "The Model panel: source, branch, Download; model, loader, Load and Unload; "
        "a question and the model's answer; what happened, in words"
    )

    def __init__(self, source: str = EMBEDDED_NAME, branch: str = "main"):
        known = [entry.name for entry in catalogue.CATALOGUE]
        self.source = make_field(
            ipywidgets.Combobox, "Source", value=source, options=known, placeholder="OWNER/REPO"
        )
        self.branch = make_field(ipywidgets.Combobox, "Branch", value=branch, options=["main"])
        self.table = ipywidgets.HTML()  # the branches
        self.folder = make_field(ipywidgets.Dropdown, "Model", options=[])
        self.loader = make_field(ipywidgets.Dropdown, "Loader", options=LOADERS, value=None)
        self.detected: str | None = None  # the loader that the folder's files point to
        fetching = self.make_buttons(
            Download=("Downloading", self.download),
            List_branches=("Asking for branches", self.list_branches),
        )
        using = self.make_buttons(
            Load=("Loading", self.load),
            Unload=("Unloading", self.unload),
            Reload_list=self.reload,
            Stop=self.stop,
        )
        parts = (self.source, self.branch, fetching, self.table, self.folder, self.loader, using)
        super().__init__(*parts, messages=[{"role": "user", "content": "What color is the sky?"}])
        self.folder.observe(lambda _: self.choose_folder(), "value")
        self.reload()

    def download(self) -> str:
        """Runs weights.fetch and shows its progress."""
        revision = self.branch.value.strip() or "main"
        folder = fetch(self.source.value.strip(), revision, self.show_progress)
        self.fill_list(folder.name)
        return f"{folder.name} is in models/."

    def list_branches(self) -> str:
        """Shows weights.describe_branches as a table, and offers the names in the branch field."""
        branches = sizes.describe_branches(self.source.value.strip())
        self.branch.options = [branch.name for branch in branches]
        self.table.value = make_table(branches)
        return f"{len(branches)} branches found."

    def reload(self) -> None:
        """Reads models/ again; what was chosen stays chosen."""
        names = self.fill_list(self.folder.value)
        self.say(f"Folders in models/: {len(names)}." if names else "models/ is empty. Press Download.")

    def fill_list(self, wanted: str | None) -> list[str]:
        """Lists weights.list_models and chooses `wanted`, or else the first. Returns the names."""
        names = folders.list_models()
        self.folder.options = names
        if wanted in names:
            self.folder.value = wanted
        else:
            self.folder.value = names[0] if names else None
        return names

    def choose_folder(self) -> None:
        """Detects the loader of the chosen folder; the user can switch it afterwards."""
        if self.folder.value is None:
            return
        try:
            self.detected, reason = detect_loader(folders.find_model(self.folder.value))
        except KitError as error:
            self.say(f"Error: {error}", "alert")
            return
        self.loader.value = self.detected
        self.say(f"{self.folder.value}: Load will use {self.detected} ({reason}).")

    def load(self) -> str:
        """Runs loading.load_model, after freeing a model that was loaded before."""
        if self.folder.value is None:
            raise UsageError(
                "No model is chosen.", "Press Download, or put a folder into models/ and press Reload list."
            )
        self.free_model()
        switched = self.loader.value if self.loader.value != self.detected else None
        loaded = model.load_model(self.folder.value, switched)
        self.keep_model(loaded)
        return describe_loaded(loaded)

    def unload(self) -> str:
        """Runs loading.free."""
        name = self.get_model().name
        return f"{name} was unloaded, which freed {max(self.free_model(), 0):.2f} GB."


def make_table(branches: list[sizes.Branch]) -> str:
    """An HTML table of a repository's branches: name, gigabytes on disk and to run, whether it fits here."""
    lines = []
    for branch in branches:
        cells = [
            html.escape(branch.name),
            f"{branch.disk_bytes / 1e9:.2f}",
            f"{branch.memory_bytes / 1e9:.2f}",
            "yes" if branch.fits else "no",
        ]
        lines.append(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>")
    head = "<tr><th>branch<th>GB on disk<th>GB to run<th>fits here</tr>"
    return f"<table>{head}{''.join(lines)}</table>"


def describe_loaded(loaded: model.LoadedModel) -> str:
    """A model that was just loaded, in words: loader, dtype, device, size, time, and free memory."""
    free, total = machine.measure_memory().value
    dtype = machine.name_dtype(loaded.dtype.value)
    weights = f"{loaded.bytes / 1e9:.2f} GB of weights, {dtype}, on {loaded.device.value}"
    memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are still free"
    return (
        f"{loaded.name} was loaded by {loaded.loader.value} in {loaded.seconds:.1f} s: {weights}. {memory}."
    )
