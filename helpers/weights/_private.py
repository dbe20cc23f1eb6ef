"""Private parts of libraries that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

import contextlib
import importlib
import importlib.util
import io
import logging


def import_gptqmodel() -> None:
    """Imports gptqmodel, if it is installed, without its banner, and limits its log to warnings.

    Private: gptqmodel.utils.logger.setup_logger. The import also sets the root logger to INFO, which would
    let every library log; the level is restored. PEFT imports gptqmodel by itself when it builds a LoRA
    layer, so this comes first.
    """
    level = logging.getLogger().level
    if importlib.util.find_spec("gptqmodel"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module("gptqmodel.utils.logger").setup_logger().setLevel(logging.WARNING)
        logging.getLogger().setLevel(level)
