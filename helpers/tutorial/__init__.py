"""What only the lessons use.

The first cell (`setup`), the task and its LoRA (`task`), the task played by the learner (`game`), checkpoints
and guesses (`checks`), figures (`plots`, `live_loss`), number formats side by side (`formats`), panels to
click (`panels`), the server that a lesson asks (`lesson_server`), questions over an API (`asking`), and the
run of all lessons with its report (`execution`, `report`). `python -m helpers.tutorial` is its command line.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.tutorial.asking import ask_both as ask_both
    from helpers.tutorial.asking import fit_row as fit_row
    from helpers.tutorial.asking import list_orders as list_orders
    from helpers.tutorial.asking import run_curl as run_curl
    from helpers.tutorial.asking import show_answers as show_answers
    from helpers.tutorial.formats import compare_formats as compare_formats
    from helpers.tutorial.lesson_server import SharedServer as SharedServer
    from helpers.tutorial.lesson_server import reach_server as reach_server
    from helpers.tutorial.live_loss import LiveLoss as LiveLoss
    from helpers.tutorial.setup import set_up as set_up
    from helpers.tutorial.task import Task as Task
    from helpers.tutorial.task import ensure_adapter as ensure_adapter
    from helpers.tutorial.task import find_ready as find_ready
    from helpers.tutorial.task import name_board as name_board
    from helpers.tutorial.task import pick_task as pick_task

__getattr__, __dir__, __all__ = export_lazily(__name__)
