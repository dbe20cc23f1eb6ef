"""The tutorial server: the raw API of 2023, the OpenAI-style API and a chat page, with the WebUI's flags.

`python -m helpers.server` loads a model and serves it. Where a request goes, in both dialects: its body
is parsed and its fields are checked (`raw_bodies`, `openai_bodies`), they become the engine's request
(`raw_answers` builds the prompts of 2023), the engine computes pieces of text (`answers` carries them
into the event loop), and the pieces become a reply or a stream (`raw_api`, `raw_stream`, `openai_api`,
`openai_stream`).
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.server.ports import OPENAI_PORT as OPENAI_PORT
    from helpers.server.ports import PORTS as PORTS
    from helpers.server.ports import RAW_PORT as RAW_PORT
    from helpers.server.ports import STREAMING_PORT as STREAMING_PORT
    from helpers.server.ports import find_port as find_port
    from helpers.server.service import ModelChoice as ModelChoice
    from helpers.server.service import Service as Service

__getattr__, __dir__, __all__ = export_lazily(__name__)
