"""A model in memory, and messages turned into its tokens.

The loader and kernel for a folder, chosen with reasons (`loaders`, `kernels`, `kernel_trial`), the loaded
model (`model`: LoadedModel, and where it goes; `outputs`), its tokenizer and chat template (`tokenizer`,
`chat_templates`), messages turned into tokens (`chat_tokenizer`, `tools`) and answered (`messages`).
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.loading.loaders import LOADERS as LOADERS
    from helpers.loading.loaders import detect_loader as detect_loader
    from helpers.loading.messages import chat as chat
    from helpers.loading.messages import render_chat as render_chat
    from helpers.loading.messages import tokenize_chat as tokenize_chat
    from helpers.loading.model import LoadedModel as LoadedModel
    from helpers.loading.model import free as free
    from helpers.loading.model import load_model as load_model
    from helpers.loading.tokenizer import load_tokenizer as load_tokenizer
    from helpers.loading.tokenizer import make_chat_tokenizer as make_chat_tokenizer
    from helpers.loading.tokenizer import set_chat_template as set_chat_template

__getattr__, __dir__, __all__ = export_lazily(__name__)
