"""The chat box of lesson 3: a field to type in, and the conversation above it."""

import html
import threading
from typing import Any

import ipywidgets
import openai

from helpers.clients.openai_chat import stream_openai
from helpers.common.errors import KitError

NAMES = {"user": "You", "assistant": "Model"}  # how the conversation names its two sides


class ChatBox(ipywidgets.VBox):
    """A conversation with a server's model. An answer grows while it is written; the notebook stays usable.

    `client` is an OpenAI client of any server. `settings` go with each request (temperature, max_tokens). An
    error is shown as a sentence, and the question that it belongs to is taken back.
    """

    def __init__(self, client: openai.OpenAI, model: str = "x", **settings: Any):
        self.client, self.model, self.settings = client, model, settings
        self.messages: list[dict[str, str]] = []
        self.shown = ipywidgets.HTML()
        self.field = ipywidgets.Text(
            description="You:",
            placeholder="Type a question and press Enter",
            layout={"width": "auto"},  # 100% and the margins would be wider than the cell
            continuous_update=False,
        )
        self.forget = ipywidgets.Button(description="Forget all", tooltip="Start a new conversation")
        self.answering: threading.Thread | None = None
        self.field.observe(self._ask, "value")
        self.forget.on_click(self._start_again)
        super().__init__([self.shown, self.field, self.forget])

    def _ask(self, change: dict[str, Any]) -> None:
        """Sends what was typed. While an answer is being written, the field is closed."""
        question = change["new"].strip()
        if not question:
            return
        self.messages.append({"role": "user", "content": question})
        self._enable(False)
        self.answering = threading.Thread(target=self._answer, daemon=True)
        self.answering.start()

    def _answer(self) -> None:
        answer, problem = "", ""
        try:
            for piece in stream_openai(self.client, self.messages, self.model, **self.settings):
                answer += piece
                self._show(answer)
            self.messages.append({"role": "assistant", "content": answer})
        except KitError as error:
            problem = f"{error} Your question was taken back."
            self.messages.pop()
        finally:
            self._show(problem=problem)
            self.field.value = ""
            self._enable(True)

    def _enable(self, enabled: bool) -> None:
        self.field.disabled = self.forget.disabled = not enabled

    def _start_again(self, _: ipywidgets.Button) -> None:
        self.messages.clear()
        self._show()

    def _show(self, unfinished: str = "", problem: str = "") -> None:
        """Shows the conversation, then an answer that is still being written, then a problem."""
        shown = list(self.messages)
        if unfinished:
            shown.append({"role": "assistant", "content": unfinished})
        paragraphs = [(NAMES[message["role"]], message["content"]) for message in shown]
        if problem:
            paragraphs.append(("Not answered", problem))
        self.shown.value = "".join(f"<p><b>{name}:</b> {html.escape(text)}</p>" for name, text in paragraphs)
