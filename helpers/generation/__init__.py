"""One interface over what generates text.

A request in, pieces of text out (`request`, `engine`). The engines are transformers with PEFT
(`transformers_engine`, `batching`, `passes`, `reading`, `kv_cache`, `sampling`, `decoding`; on a GPU also
`slots`, `slot_cache`, `graphs`) and llama.cpp (`llama_engine`, `llama_server`, `llama_answer`). All use
`stopping`, the forms of answers (`structure`, `lark`, `form_trial`, `forms`) and `tool_calls`. Only the first
engine needs torch. Another server is the third engine (`upstream_engine`; what it is: `upstream_kinds`, how
it is asked: `upstream_http`, `upstream_tokens`, `upstream_answer`, what goes wrong: `upstream_errors`).
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.generation.engine import Engine as Engine
    from helpers.generation.engine import EngineBusy as EngineBusy
    from helpers.generation.engine import EngineStopping as EngineStopping
    from helpers.generation.llama_engine import LlamaEngine as LlamaEngine
    from helpers.generation.prompts import PromptTooLong as PromptTooLong
    from helpers.generation.prompts import UnknownToken as UnknownToken
    from helpers.generation.request import Generation as Generation
    from helpers.generation.request import GenerationRequest as GenerationRequest
    from helpers.generation.request import Piece as Piece
    from helpers.generation.request import Token as Token
    from helpers.generation.transformers_engine import TransformersEngine as TransformersEngine
    from helpers.generation.upstream_engine import UpstreamEngine as UpstreamEngine
    from helpers.generation.upstream_http import Upstream as Upstream

__getattr__, __dir__, __all__ = export_lazily(__name__)
