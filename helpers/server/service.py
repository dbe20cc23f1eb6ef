"""What both dialects serve: the engine of the moment, and how another one takes its place.

torch and what stands on it are imported only when a model of transformers' is loaded.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from helpers.adapters.folders import check_base, find_adapter, read_config
from helpers.common.errors import KitError
from helpers.generation.engine import Engine
from helpers.weights.folders import find_model


@dataclass(frozen=True)
class Choice:
    """A model and how to load it; `loader` and `dtype` are detected where they are None."""

    model: str  # folder name
    loras: tuple[str, ...] = ()  # folder names; the first one answers by default
    loader: str | None = None
    dtype: str | None = None
    bits: int | None = None  # 8 or 4 quantise while loading, with bitsandbytes


class NoModel(KitError):
    """Nothing is loaded."""


@dataclass
class Service:
    """Holds the engine; None between `unload` and the next `load`."""

    model_dir: Path | None = None  # models/ by default
    lora_dir: Path | None = None  # loras/ by default
    engine: Engine | None = None
    choice: Choice | None = None  # what the engine was made from
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def need(self) -> Engine:
        """The engine; NoModel when nothing is loaded."""
        if self.engine is None:
            raise NoModel("No model is loaded.", "Load one: POST /api/v1/model with action load.")
        return self.engine

    def load(self, choice: Choice) -> Engine:
        """Puts a new engine in the old one's place, whose answers end at their next token. A name that is wrong leaves the old one where it is."""
        check_choice(choice, self.model_dir, self.lora_dir)
        with self._busy:
            self._drop()
            self.engine = load_engine(choice, self.model_dir, self.lora_dir)
            self.choice = choice
            return self.engine

    def unload(self) -> None:
        """Ends what runs and lets the model go."""
        with self._busy:
            self._drop()

    def _drop(self) -> None:
        engine, self.engine, self.choice = self.engine, None, None
        if engine:
            engine.close()
            engine.free()


def is_llama(choice: Choice, folder: Path) -> bool:
    """Whether llama.cpp will run it: asked for, or a GGUF file lies there."""
    return choice.loader == "llama.cpp" or (not choice.loader and any(folder.glob("*.gguf")))


def check_choice(choice: Choice, model_dir: Path | None, lora_dir: Path | None) -> None:
    """KitError for a name that is wrong and for what the engine cannot take; loads nothing."""
    folder = find_model(choice.model, model_dir)
    if is_llama(choice, folder):
        if choice.dtype or choice.bits:
            raise KitError("A GGUF file has a number format of its own.", "Leave --dtype away.")
        if not any(folder.glob("*.gguf")):
            raise KitError(
                f"{folder.name} has no GGUF file for llama.cpp.",
                "Leave --loader away, or name a folder with one.",
            )
    for name in choice.loras:
        check_base(lora := find_adapter(name, lora_dir), folder.name)
        if is_llama(choice, folder):
            from helpers.adapters.gguf import refuse_more_than_factors

            refuse_more_than_factors(name, read_config(lora))


def load_engine(choice: Choice, model_dir: Path | None, lora_dir: Path | None) -> Engine:
    """The model with its adapters, after check_choice."""
    if is_llama(choice, folder := find_model(choice.model, model_dir)):
        from helpers.generation.llama_engine import LlamaEngine

        return LlamaEngine(folder, [find_adapter(name, lora_dir) for name in choice.loras])
    from helpers.adapters.attaching import attach_adapter
    from helpers.generation.transformers_engine import TransformersEngine
    from helpers.loading.model import load_model
    from helpers.weights.gptq import import_gptqmodel

    if choice.loras:  # PEFT imports it when it attaches one, and it keeps the frames that it was imported from: then with the model in them
        import_gptqmodel()
    loaded = load_model(choice.model, choice.loader, choice.dtype, model_dir, bits=choice.bits)
    for name in choice.loras:
        attach_adapter(loaded, name, lora_dir)
    return TransformersEngine(loaded)
