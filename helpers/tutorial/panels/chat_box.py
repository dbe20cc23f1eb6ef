"""ipywidgets for the notebooks: what a user clicks, wired to the calls that the notebooks teach.

Here is what the four panels (model_panel, session_panel, training_panel, lora_panel) share, and the chat box of lesson 3. Only widgets that
ipywidgets brings itself are used, so that a panel works wherever ipywidgets does.
"""

import html
import threading

import ipywidgets
import openai

from helpers.clients.openai_chat import stream_openai
from helpers.common.errors import KitError


class ChatBox(ipywidgets.VBox):
    """A field to type in, and the conversation above it; the answer grows while it is written, and the notebook stays usable.

    `client` is an OpenAI client of any server, `settings` go with each request (temperature, max_tokens). Errors are told in words.
    """

    def __init__(self, client: openai.OpenAI, model: str = "x", **settings):
        self.client, self.model, self.settings = client, model, settings
        self.messages: list[dict[str, str]] = []
        self.shown = ipywidgets.HTML()
        self.field = ipywidgets.Text(
            description="You:",
            placeholder="Type a question, press Enter",
            layout={"width": "100%"},
            continuous_update=False,
        )
        self.forget = ipywidgets.Button(description="Forget all", tooltip="Begin a new conversation")
        self.answering: threading.Thread | None = None
        self.field.observe(self._ask, "value")
        self.forget.on_click(self._begin_anew)
        super().__init__([self.shown, self.field, self.forget])

    def _ask(self, change: dict) -> None:
        """Sends what was typed; while an answer is being written, the field is closed."""
        if question := change["new"].strip():
            self.messages.append({"role": "user", "content": question})
            self.field.disabled = self.forget.disabled = True
            self.answering = threading.Thread(target=self._answer, daemon=True)
            self.answering.start()

    def _answer(self) -> None:
        text, trouble = "", ""
        try:
            for piece in stream_openai(self.client, self.messages, self.model, **self.settings):
                text += piece
                self._show(text)
            self.messages.append({"role": "assistant", "content": text})
        except KitError as error:
            trouble = f"{error} Your question was taken back."
            self.messages.pop()
        finally:
            self._show(trouble=trouble)
            self.field.value, self.field.disabled, self.forget.disabled = "", False, False

    def _begin_anew(self, _: ipywidgets.Button) -> None:
        self.messages.clear()
        self._show()

    def _show(self, begun: str = "", trouble: str = "") -> None:
        said = [*self.messages, *([{"role": "assistant", "content": begun}] if begun else [])]
        names = {"user": "You", "assistant": "Model"}
        lines = [f"<p><b>{names[one['role']]}:</b> {html.escape(one['content'])}</p>" for one in said]
        self.shown.value = "".join(lines) + (
            f"<p><b>Not answered:</b> {html.escape(trouble)}</p>" if trouble else ""
        )
