"""The LoRA panel: one LoRA, or none, on a base model; its strength; a question to see the difference.

It does what the WebUI's Model tab does for LoRAs.
"""

import ipywidgets

from helpers.adapters import attaching
from helpers.adapters.folders import list_folders, list_shipped
from helpers.adapters.listing import describe_adapter
from helpers.common.errors import UsageError
from helpers.loading.model import LoadedModel, load_model
from helpers.tutorial.panels.asking import AskingPanel
from helpers.tutorial.panels.base import NONE, make_field
from helpers.weights.folders import list_models


class LoraPanel(AskingPanel):
    """Base and LoRA, Apply, strength, Remove, and a question box. The base is loaded when it is needed."""

    title = "LoRA"
    picture = "panel-lora.png"
    alt = (
        "The LoRA panel: base, LoRA, strength, Apply and Remove; one question with two answers, "
        "of the base alone and with the LoRA"
    )

    def __init__(self, model: str | None = None, messages: list[dict[str, str]] | None = None):
        names = list_models()
        chosen = model if model in names else None
        self.base = make_field(ipywidgets.Dropdown, "Base model", options=names, value=chosen)
        self.lora = make_field(ipywidgets.Dropdown, "LoRA", options=[NONE])
        self.strength = make_field(
            ipywidgets.BoundedFloatText, "Strength", value=1.0, min=0, max=4, step=0.25
        )
        self.applied: str | None = None  # the LoRA that answers; None for the base alone
        buttons = self.make_buttons(
            Apply=("Applying", self.apply),
            Remove=("Removing", self.remove),
            Reload_list=self.reload,
            Stop=self.stop,
        )
        parts = (self.base, self.lora, self.strength, buttons)
        super().__init__(*parts, messages=messages or [{"role": "user", "content": "What color is the sky?"}])
        self.lora.observe(lambda change: self.describe(change["new"]), "value")
        self.reload()

    def reload(self) -> None:
        """Lists the folders in loras/ and the LoRAs that come with the kit; what was chosen stays chosen."""
        names = list(dict.fromkeys([*list_folders(), *list_shipped()]))
        wanted = self.lora.value
        self.lora.options = [NONE, *((name, name) for name in names)]
        self.lora.value = wanted if wanted in names else ""
        if names:
            self.say(f"LoRAs to choose from: {len(names)}.")
        else:
            self.say("There is no LoRA in loras/ yet. Train one first (lesson 4).")

    def describe(self, name: str) -> None:
        """Says what is known of the LoRA that was chosen."""
        if not name:
            return
        facts = describe_adapter(name)
        if facts.problem:
            self.say(f"Error: {name} cannot be applied: {facts.problem}.", "alert")
            return
        base = f"trained on the base {facts.base}" if facts.base else "its base is not recorded"
        self.say(f"{name}: rank {facts.rank}, {facts.bytes / 1e6:.1f} MB, {base}.")

    def name_answerer(self) -> str:
        """The base alone, or the LoRA with its strength."""
        if self.applied:
            return f"{self.applied} (strength {self.strength.value:g})"
        return f"{self.get_model().name} alone"

    def load_base(self) -> LoadedModel:
        """The chosen base; it is loaded if it is not in memory. Raises UsageError if none is chosen."""
        if self.base.value is None:
            raise UsageError(
                "No base model is chosen.", "Choose one; the Model panel of lesson 2 fetches models."
            )
        if self.loaded is None or self.loaded.name != self.base.value:
            self.free_model()
            self.applied = None
            self.keep_model(load_model(self.base.value))
        return self.get_model()

    def apply(self) -> str:
        """Runs adapters.attach_adapter, or adapters.switch_adapter with None if no LoRA is chosen."""
        base = self.load_base()
        name = self.lora.value or None
        try:
            if name:
                attaching.attach_adapter(base, name)
            self.applied = name
        finally:
            attaching.switch_adapter(base, self.applied)  # if attaching failed, the earlier one
        return f"{name} is now on {base.name}." if name else f"{base.name} now answers alone."

    def remove(self) -> str:
        """Runs adapters.detach_adapter on all LoRAs that were applied."""
        attached = attaching.list_attached(self.loaded) if self.loaded else []
        if not attached:
            raise UsageError("No LoRA is applied.", "There is nothing to remove.")
        base = self.get_model()
        attaching.detach_adapter(base)
        self.applied = None
        return f"{', '.join(attached)} removed. {base.name} is as it was before."

    def reply(self, messages: list[dict[str, str]]) -> str:
        """The answer, with the LoRA at its strength (adapters.set_strength)."""
        with attaching.set_strength(self.get_model(), self.strength.value):
            return super().reply(messages)

    def answer(self) -> str:
        """Asks; if nothing was applied yet, the base alone answers."""
        self.load_base()
        return super().answer()
