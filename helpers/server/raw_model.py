"""POST /api/v1/model: which model answers, and another one in its place.

A model that cannot be loaded is refused, and the one before stays.
"""

import contextlib
import threading
from typing import Any

from pydantic import BaseModel

from helpers.common.errors import KitError
from helpers.loading.loaders import LOADERS
from helpers.server.errors import ApiError
from helpers.server.fields import Text
from helpers.server.raw_bodies import RawBody
from helpers.server.service import ModelChoice, Service
from helpers.weights.folders import find_model, list_models

NOTHING = (None, False, 0, -1, "", [])  # values of flags that ask for nothing


class ModelBody(BaseModel):
    """The action, and for `load` a model's name with flags of the WebUI's."""

    action: str = ""
    model_name: Text | None = None
    args: dict[str, Any] = {}


class ModelControl:
    """The service's model as the raw API names and changes it."""

    def __init__(self, service: Service):
        self.service = service
        self._lock = threading.Lock()  # one change at a time
        self.last = service.choice  # also after an unload: its LoRAs and number format are taken again

    def act(self, body: ModelBody) -> dict:
        """The reply's fields. ApiError, which names the field, for a model that cannot be loaded."""
        if body.action == "list":
            return {"result": ["None", *list_models(self.service.model_dir)]}
        ignored = []
        if body.action == "load":
            with self._lock:
                ignored = self.load(body)
        elif body.action == "unload":
            with self._lock:
                self.service.unload()
        elif body.action != "info":
            return {"result": self.name(), **({"ignored": ["action"]} if body.action else {})}
        return {"result": self.describe(), **({"ignored": ignored} if ignored else {})}

    def name(self) -> str | None:
        """The folder name of what is loaded."""
        return self.service.engine and self.service.engine.name

    def describe(self) -> dict:
        """The WebUI's info object, with the settings and flags that mean something here."""
        choice = self.service.choice
        flags = (
            {
                "model": choice.model,
                "lora": list(choice.loras) or None,
                "loader": choice.loader,
                "dtype": choice.dtype,
            }
            if choice
            else {}
        )
        folders = {"model_dir": self.service.model_dir, "lora_dir": self.service.lora_dir}
        return {
            "model_name": self.name(),
            "lora_names": list(self.service.engine.adapters) if self.service.engine else [],
            "shared.settings": {name: field.default for name, field in RawBody.model_fields.items()},
            "shared.args": {**flags, **{name: folder and str(folder) for name, folder in folders.items()}},
        }

    def load(self, body: ModelBody) -> list[str]:
        """Loads the model that the body names; returns the flags that were sent and not honoured."""
        if not body.model_name:
            raise ApiError(400, "model_name: which model is to be loaded?", "model_name", "missing")
        choice, ignored = read_choice(body, self.last)
        before = self.service.choice
        try:
            self.service.load(choice)
        except Exception as error:  # whatever a damaged folder makes transformers raise
            if before and not self.service.engine:
                self.service.load(before)
            problem = (
                str(error)
                if isinstance(error, KitError)
                else f"{choice.model} cannot be loaded ({type(error).__name__}: {error})."
            )
            raise ApiError(400, problem, self.find_fault(body, error), "model_not_loaded") from error
        self.last = choice
        return ignored

    def find_fault(self, body: ModelBody, error: Exception) -> str:
        """The field at fault: the model's name, unless its folder is well and flags were sent."""
        with contextlib.suppress(KitError):
            find_model(body.model_name, self.service.model_dir)
            return "args" if body.args and isinstance(error, KitError) else "model_name"
        return "model_name"


def read_choice(body: ModelBody, last: ModelChoice | None) -> tuple[ModelChoice, list[str]]:
    """What to load, and names of flags that mean nothing here. LoRAs stay when none are named, the number format when the model stays."""
    flags = dict(body.args)
    loras = flags.pop("lora", list(last.loras) if last else []) or []
    loras = [loras] if isinstance(loras, str) else loras
    if not isinstance(loras, list) or not all(isinstance(name, str) for name in loras):
        raise ApiError(400, "args.lora: send a list of folder names.", "args.lora")
    loader = str(flags.get("loader")).lower()
    loader = loader if loader in LOADERS else None
    flags.pop("loader", None) if loader else None
    bits = 8 if flags.pop("load_in_8bit", False) else 4 if flags.pop("load_in_4bit", False) else None
    dtype = "bfloat16" if flags.pop("bf16", False) else None
    if last and last.model == body.model_name:
        dtype = dtype or last.dtype
    ignored = sorted(f"args.{name}" for name, value in flags.items() if value not in NOTHING)
    return ModelChoice(body.model_name, tuple(loras), loader, dtype, bits), ignored
