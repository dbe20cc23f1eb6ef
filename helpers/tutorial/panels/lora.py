"""The LoRA panel: one LoRA, or none, on a base; its strength; a question to see the difference. What the WebUI's Model tab does for LoRAs."""

import ipywidgets

from helpers.adapters import attaching
from helpers.adapters.folders import describe_adapter, list_folders
from helpers.common.errors import KitError
from helpers.loading.model import load_model
from helpers.tutorial.panels.asking import AskingPanel
from helpers.tutorial.panels.base import NONE, make_field
from helpers.weights.folders import list_models


class LoraPanel(AskingPanel):
    """Base and LoRA, Apply, strength, Remove, and a question box. The base is loaded when it is first needed."""

    title, picture = "LoRA", "panel-lora.png"
    alt = "The LoRA panel: base, LoRA, strength, Apply and Remove; one question with two answers, of the base alone and with the LoRA"

    def __init__(self, model: str | None = None, messages: list[dict[str, str]] | None = None):
        names = list_models()
        self.base = make_field(
            ipywidgets.Dropdown, "Base model", options=names, value=model if model in names else None
        )
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
        super().__init__(
            self.base,
            self.lora,
            self.strength,
            buttons,
            messages=messages or [{"role": "user", "content": "What color is the sky?"}],
        )
        self.lora.observe(lambda change: self.describe(change["new"]), "value")
        self.reload()

    def reload(self) -> None:
        """adapters.list_folders into the list; what was chosen stays chosen."""
        names, wanted = list_folders(), self.lora.value
        self.lora.options = [NONE, *((name, name) for name in names)]
        self.lora.value = wanted if wanted in names else ""
        self.say(
            f"{len(names)} folders are in loras/."
            if names
            else "loras/ is empty: train a LoRA first (lesson 4)."
        )

    def describe(self, name: str) -> None:
        """What is known of the LoRA that was chosen."""
        if not name:
            return
        facts = describe_adapter(name)
        if facts.problem:
            return self.say(f"Error: {name} cannot be applied: {facts.problem}.", "alert")
        self.say(
            f"{name}: rank {facts.rank}, {facts.bytes / 1e6:.1f} MB, trained on the base {facts.base or 'that is not recorded'}."
        )

    def name_answerer(self) -> str:
        """The base alone, or the LoRA with its strength."""
        return (
            f"With {self.applied}, strength {self.strength.value:g}"
            if self.applied
            else f"{self.loaded.name} alone"
        )

    def bring_base(self) -> None:
        """Loads the base that is chosen, unless it is there."""
        if self.base.value is None:
            raise KitError(
                "No base model is chosen.", "Choose one; the Model panel of lesson 2 brings models."
            )
        if self.loaded is None or self.loaded.name != self.base.value:
            self.let_go()
            self.applied = None
            self.put_model(load_model(self.base.value))

    def apply(self) -> str:
        """attaching.attach_adapter, or attaching.switch_adapter to none."""
        self.bring_base()
        name = self.lora.value or None
        try:
            if name:
                attaching.attach_adapter(self.loaded, name)
            self.applied = name
        finally:
            attaching.switch_adapter(self.loaded, self.applied)  # the one before, where attaching failed
        return f"{name} is on {self.loaded.name}." if name else f"{self.loaded.name} answers alone."

    def remove(self) -> str:
        """attaching.detach_adapter."""
        there = attaching.list_attached(self.loaded) if self.loaded else []
        if not there:
            raise KitError("No LoRA is applied.", "There is nothing to remove.")
        attaching.detach_adapter(self.loaded)
        self.applied = None
        return f"{', '.join(there)} taken off; {self.loaded.name} is as it was."

    def reply(self, messages: list[dict[str, str]]) -> str:
        """The answer, with the LoRA at its strength inside attaching.set_strength."""
        with attaching.set_strength(self.loaded, self.strength.value):
            return super().reply(messages)

    def answer(self) -> str:
        """Asks; the base alone where nothing was applied yet."""
        self.bring_base()
        return super().answer()
