"""One interface over what generates text.

A request in, pieces of text out (`request`, `engine`). The engines are transformers with PEFT
(`transformers_engine`, `batching`, `kv_cache`, `sampling`, `decoding`) and llama.cpp (`llama_engine`,
`llama_server`, `llama_answer`). `stopping` serves both. Only the first engine needs torch.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.generation.engine import Engine as Engine
    from helpers.generation.engine import EngineBusy as EngineBusy
    from helpers.generation.engine import EngineStopping as EngineStopping
    from helpers.generation.engine import PromptTooLong as PromptTooLong
    from helpers.generation.engine import UnknownToken as UnknownToken
    from helpers.generation.llama_engine import LlamaEngine as LlamaEngine
    from helpers.generation.request import Generation as Generation
    from helpers.generation.request import GenerationRequest as GenerationRequest
    from helpers.generation.request import Piece as Piece
    from helpers.generation.request import Token as Token
    from helpers.generation.transformers_engine import TransformersEngine as TransformersEngine

__getattr__, __dir__, __all__ = export_lazily(__name__)
