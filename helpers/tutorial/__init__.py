"""What only the lessons use.

The first cell (`setup`), the task and its LoRA (`task`), checkpoints and guesses (`checks`), figures
(`plots`, `live_loss`), number formats side by side (`formats`), panels to click (`panels`), the server that a
lesson asks (`lesson_server`), a learner's own task (`own_task`, `hand_in`), and the run of all five lessons
with its report (`execution`, `report`). `python -m helpers.tutorial` is its command line.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.tutorial.formats import compare_formats as compare_formats
    from helpers.tutorial.lesson_server import SharedServer as SharedServer
    from helpers.tutorial.lesson_server import reach_server as reach_server
    from helpers.tutorial.live_loss import LiveLoss as LiveLoss
    from helpers.tutorial.setup import set_up as set_up
    from helpers.tutorial.task import Task as Task
    from helpers.tutorial.task import ensure_adapter as ensure_adapter
    from helpers.tutorial.task import pick_task as pick_task

__getattr__, __dir__, __all__ = export_lazily(__name__)
