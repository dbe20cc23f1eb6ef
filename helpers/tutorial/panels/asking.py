"""A panel that holds a model and has a question box for it."""

import html
import threading
from typing import Any, cast

import ipywidgets
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from helpers.common.errors import UsageError
from helpers.loading import model
from helpers.loading.messages import chat
from helpers.tutorial.panels.base import Panel, make_field

ANSWER_TOKENS = 80  # at most, in one answer
LETTERS_A_LINE = 50  # of a text area, about


class StopWhenAsked(StoppingCriteria):
    """Ends an answer after the token in which an event is set."""

    def __init__(self, asked: threading.Event):
        self.asked = asked

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """For each answer of the batch, whether it ends here. `input_ids` has the shape (answers, tokens)."""
        ends = torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)
        return cast(torch.BoolTensor, ends)


class AskingPanel(Panel):
    """A panel for a model in this kernel (`loaded`, None at first), with a question box below its own parts.

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

    def get_model(self) -> model.LoadedModel:
        """The model in memory. Raises UsageError if there is none."""
        if self.loaded is None:
            raise UsageError("No model is loaded.", "Load one first.")
        return self.loaded

    def name_answerer(self) -> str:
        """The name that is shown before an answer."""
        return self.get_model().name

    def reply(self, messages: list[dict[str, str]]) -> str:
        """The model's most likely answer; Stop cuts it off after the current token."""
        criteria = StoppingCriteriaList([StopWhenAsked(self.asked_to_stop)])
        return chat(self.get_model(), messages, max_new_tokens=ANSWER_TOKENS, stopping_criteria=criteria)

    def answer(self) -> str:
        """Asks the question in the box and adds the answer to the earlier ones."""
        name = self.name_answerer()
        if not self.question.value.strip():
            raise UsageError("The question is empty.", "Type one.")
        messages = [{"role": "user", "content": self.question.value}]
        if self.instruction.value.strip():
            messages.insert(0, {"role": "system", "content": self.instruction.value})
        words = self.reply(messages)
        self.answers.value += f"<p><b>{html.escape(name)}:</b> {html.escape(words)}</p>"
        return f"{name} has answered."

    def forget(self) -> None:
        """Removes the answers."""
        self.answers.value = ""
        self.say("All answers were removed.")

    def free_model(self) -> float:
        """Frees the model's memory; returns how many gigabytes (1e9 bytes) became free, 0.0 without one."""
        loaded, self.loaded = self.loaded, None
        return model.free(loaded) / 1e9 if loaded else 0.0

    def keep_model(self, loaded: model.LoadedModel) -> None:
        """Keeps a model that was just loaded, or frees it if Stop was pressed in the meantime.

        Loading itself cannot be interrupted.
        """
        self.loaded = loaded
        if self.asked_to_stop.is_set():
            self.free_model()
        self.check_stop()


def make_text_area(label: str, text: str) -> ipywidgets.Textarea:
    """A field of several lines, high enough for its text."""
    lines = sum(1 + len(line) // LETTERS_A_LINE for line in text.splitlines())
    return make_field(ipywidgets.Textarea, label, value=text, rows=min(1 + lines, 8))
