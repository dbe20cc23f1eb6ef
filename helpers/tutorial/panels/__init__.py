"""ipywidgets for the lessons: what a user clicks, wired to the calls that the lessons teach."""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.tutorial.panels.chat_box import ChatBox as ChatBox
    from helpers.tutorial.panels.lora import LoraPanel as LoraPanel
    from helpers.tutorial.panels.model import ModelPanel as ModelPanel
    from helpers.tutorial.panels.session import SessionPanel as SessionPanel
    from helpers.tutorial.panels.training import TrainingPanel as TrainingPanel

__getattr__, __dir__, __all__ = export_lazily(__name__)
