"""What both APIs serve: the engine that is loaded, and how another one replaces it.

torch is imported only when a model of transformers is loaded.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from helpers.adapters.chat_template import pick_for_all
from helpers.adapters.folders import AdapterFolder, find_adapter
from helpers.adapters.parts import check_attachable, refuse_more_than_factors
from helpers.common.errors import ServerError, UsageError
from helpers.generation.engine import Engine
from helpers.generation.upstream_engine import UpstreamEngine
from helpers.generation.upstream_http import Upstream
from helpers.loading.loaders import check_loader, detect_loader
from helpers.weights.folders import ModelFolder, find_model, list_models

MAX_LORAS = 32  # each is read, attached and kept in memory; a class compares a handful


@dataclass(frozen=True)
class ModelChoice:
    """A model and how to load it; `loader` and `dtype` are detected if they are None."""

    model: str  # folder name, or FOLDER/FILE.gguf; with an upstream the name there, "" for its first
    loras: tuple[str, ...] = ()  # folder names; the first one answers by default
    loader: str | None = None
    dtype: str | None = None
    bits: int | None = None  # 8 or 4 quantise while loading, with bitsandbytes
    chat_template: str | None = None  # a name of chat_templates.NAMES, "own" or a file; None picks one


@dataclass(frozen=True)
class FoundChoice:
    """A choice whose folders were found and checked."""

    choice: ModelChoice
    folder: ModelFolder
    loras: list[AdapterFolder]
    loader: str  # the one that was asked for, or else the detected one
    chat_template: str | None  # the one that was asked for, or that the LoRAs were trained with

    @property
    def uses_llama(self) -> bool:
        """True if llama.cpp will run it."""
        return self.loader == "llama.cpp"


class NoModel(ServerError):
    """Nothing is loaded."""


@dataclass
class Service:
    """Holds the engine; None between `unload` and the next `load`."""

    models_dir: Path | None = None  # models/ by default
    loras_dir: Path | None = None  # loras/ by default
    upstream: Upstream | None = None  # the server whose models are served, in place of the folders
    engine: Engine | None = None
    choice: ModelChoice | None = None  # what the engine was made from
    stopped: threading.Event = field(default_factory=threading.Event, repr=False)
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get_engine(self) -> Engine:
        """The engine; NoModel if nothing is loaded."""
        if self.engine is None:
            raise NoModel("No model is loaded.", "Load one: POST /api/v1/model with action load.")
        return self.engine

    def load(self, choice: ModelChoice) -> Engine:
        """Replaces the engine, whose answers end at their next token. A wrong name leaves it running."""
        make = self._prepare(choice)
        with self._busy:
            self._drop()
            self.engine = make()
            self.choice = choice if choice.model else replace(choice, model=self.engine.name)
            return self.engine

    def _prepare(self, choice: ModelChoice) -> Callable[[], Engine]:
        """What makes the engine. Raises a KitError for a wrong name."""
        if self.upstream:
            check_upstream_choice(choice)
            engine = UpstreamEngine(self.upstream, choice.model, choice.loras)
            return lambda: engine
        found = find_choice(choice, self.models_dir, self.loras_dir)
        return partial(load_engine, found, self.models_dir, self.loras_dir)

    def list_models(self) -> list[str]:
        """The names of the models that can be loaded."""
        if self.upstream is None:
            return list_models(self.models_dir)
        return [self.engine.name, *self.engine.adapters] if self.engine else []

    def unload(self) -> None:
        """Ends what runs and frees the model."""
        with self._busy:
            self._drop()

    def stop(self) -> None:
        """Ends what runs, without waiting for a load, and lets nothing begin: the process is about to end."""
        self.stopped.set()
        if engine := self.engine:
            engine.close()

    def abandon(self) -> None:
        """After `stop`: tells all who still wait that no answer will come."""
        if engine := self.engine:
            engine.abandon()

    def _drop(self) -> None:
        engine, self.engine, self.choice = self.engine, None, None
        if engine:
            engine.close()
            engine.free()


def check_loras(names: tuple[str, ...]) -> None:
    """Raises a UsageError for more LoRAs than an engine may hold, and for one that is named twice."""
    if len(names) > MAX_LORAS:
        raise UsageError(f"{len(names)} LoRAs are too many.", f"Name {MAX_LORAS} at most.")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UsageError(f"The LoRA '{twice[0]}' is named twice.", "Name each one once.")


def check_upstream_choice(choice: ModelChoice) -> None:
    """Raises a UsageError for settings of a load: an upstream has loaded its models itself."""
    check_loras(choice.loras)
    if choice.loader or choice.dtype or choice.bits or choice.chat_template:
        problem = "The upstream has loaded its models itself."
        raise UsageError(problem, "Omit the loader, the number format and the chat template.")


def find_choice(choice: ModelChoice, models_dir: Path | None, loras_dir: Path | None) -> FoundChoice:
    """Finds the folders; a KitError for a wrong name and for what the engine cannot take. Loads nothing."""
    check_loras(choice.loras)
    folder = find_model(choice.model, models_dir)
    loader = choice.loader or detect_loader(folder).value
    check_loader(loader, folder)
    loras = [find_adapter(name, loras_dir) for name in choice.loras]
    found = FoundChoice(choice, folder, loras, loader, pick_for_all(choice.chat_template, loras))
    if found.uses_llama and (choice.dtype or choice.bits):
        remedy = "Omit --dtype, or bf16, load_in_8bit and load_in_4bit in a request."
        raise UsageError("A GGUF file has a number format of its own.", remedy)
    if found.uses_llama and folder.gguf is None:
        problem = f"{folder.name} has no GGUF file for llama.cpp."
        raise UsageError(problem, "Omit the loader, or name a folder with one.")
    for lora in found.loras:
        if found.uses_llama:
            refuse_more_than_factors(lora)
        check_attachable(lora, folder)
    return found


def load_engine(found: FoundChoice, models_dir: Path | None, loras_dir: Path | None) -> Engine:
    """The model with its LoRAs."""
    if found.uses_llama:
        from helpers.generation.llama_engine import LlamaEngine

        return LlamaEngine(found.folder, found.loras, chat_template=found.chat_template)
    from helpers.adapters.attaching import attach_adapter
    from helpers.generation.transformers_engine import TransformersEngine
    from helpers.loading.model import load_model

    choice = found.choice
    loaded = load_model(
        choice.model,
        choice.loader,
        choice.dtype,
        models_dir,
        bits=choice.bits,
        chat_template=found.chat_template,
    )
    for name in choice.loras:
        attach_adapter(loaded, name, loras_dir)
    return TransformersEngine(loaded)
