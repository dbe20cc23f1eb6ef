"""A panel that holds a model and has a question box for it."""

import html

import ipywidgets
import torch
from transformers import StoppingCriteriaList

from helpers.common.errors import KitError
from helpers.loading import model
from helpers.loading.messages import chat
from helpers.tutorial.panels.base import Panel, make_field


class AskingPanel(Panel):
    """A panel for a model that is loaded into this kernel (`loaded`, None at first), with a box to ask it below the panel's own parts.

    `messages` fill the box: [system, user] or [user], each {"role", "content"}.
    """

    def __init__(self, *parts: ipywidgets.Widget, messages: list[dict[str, str]]):
        self.loaded: model.LoadedModel | None = None
        texts = {message["role"]: message["content"] for message in messages}
        self.instruction = make_text_area("Instruction", texts.get("system", ""))
        self.question = make_text_area("Question", texts["user"])
        self.answers = ipywidgets.HTML()
        buttons = self.make_buttons(Ask=("Answering", self.answer), Forget_answers=self.forget)
        super().__init__(*parts, self.instruction, self.question, buttons, self.answers)

    def name_answerer(self) -> str:
        """What stands before an answer."""
        return self.loaded.name

    def reply(self, messages: list[dict[str, str]]) -> str:
        """The model's answer, the likeliest one; Stop cuts it off after the token at hand."""
        cut = lambda ids, scores, **_: torch.full((len(ids),), self.asked_to_stop.is_set(), device=ids.device)  # noqa: E731
        return chat(self.loaded, messages, max_new_tokens=80, stopping_criteria=StoppingCriteriaList([cut]))

    def answer(self) -> str:
        """Asks what stands in the box and adds the answer to those before."""
        if self.loaded is None:
            raise KitError("No model is loaded.", "Load one first.")
        if not self.question.value.strip():
            raise KitError("The question is empty.", "Type one.")
        system = (
            [{"role": "system", "content": self.instruction.value}] if self.instruction.value.strip() else []
        )
        words = self.reply([*system, {"role": "user", "content": self.question.value}])
        self.answers.value += f"<p><b>{html.escape(self.name_answerer())}:</b> {html.escape(words)}</p>"
        return f"{self.name_answerer()} has answered."

    def forget(self) -> None:
        """Takes the answers away."""
        self.answers.value = ""
        self.say("The answers are gone.")

    def let_go(self) -> float:
        """Frees the model's memory; the gigabytes that came back."""
        loaded, self.loaded = self.loaded, None
        return model.free(loaded) / 1e9 if loaded else 0.0

    def put_model(self, loaded: model.LoadedModel) -> None:
        """Keeps a model that was just loaded, unless the end was asked for meanwhile: loading itself cannot be cut."""
        self.loaded = loaded
        if self.asked_to_stop.is_set():
            self.let_go()
        self.check_stop()


def make_text_area(label: str, text: str) -> ipywidgets.Textarea:
    """A field of several lines, high enough for its text."""
    lines = sum(1 + len(line) // 50 for line in text.splitlines())
    return make_field(ipywidgets.Textarea, label, value=text, rows=min(1 + lines, 8))
