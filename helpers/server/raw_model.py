"""POST /api/v1/model: describes the model that answers, loads another one in its place, or unloads it.

If a model cannot be loaded, the request is refused and the one before stays.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from helpers.common.errors import KitError
from helpers.loading.loaders import LOADERS
from helpers.server.errors import ApiError
from helpers.server.fields import FolderName
from helpers.server.raw_bodies import RawBody
from helpers.server.service import MAX_LORAS, ModelChoice, Service
from helpers.weights.architecture import check_decoder
from helpers.weights.folders import find_model

LORAS = TypeAdapter(Annotated[tuple[FolderName, ...], Field(max_length=MAX_LORAS)])
BLANK = (None, False, 0, -1, "", [])  # values of the WebUI's flags that ask for nothing


class ModelBody(BaseModel):
    """The action; for `load` a model's name, and the WebUI's flags in `args`."""

    action: str = ""
    model_name: FolderName | None = None
    args: dict[str, Any] = {}


class ModelControl:
    """The service's model, as the raw API names and changes it."""

    def __init__(self, service: Service):
        self.service = service
        self._lock = threading.Lock()  # held by a change
        # What was loaded last, also after an unload: the next load takes its LoRAs and number format.
        self._last = service.choice

    def act(self, body: ModelBody) -> dict[str, Any]:
        """The reply. Raises an ApiError, which names the field, for a model that cannot be loaded."""
        if body.action == "list":
            return {"result": ["None", *self.service.list_models()]}
        if body.action == "info":
            return {"result": self.describe()}
        if body.action == "unload":
            with self._change():
                self.service.unload()
            return {"result": self.describe()}
        if body.action == "load":
            with self._change():
                ignored = self.load(body)
            return add_ignored({"result": self.describe()}, ignored)
        return add_ignored({"result": self.find_name()}, ["action"] if body.action else [])

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """One change at a time: others that waited for it would take all threads."""
        if not self._lock.acquire(blocking=False):
            problem = "Another request is loading or unloading a model. Try again when it is answered."
            raise ApiError(409, problem, "action", "model_is_changing")
        try:
            yield
        finally:
            self._lock.release()

    def find_name(self) -> str | None:
        """The folder name of the loaded model; None if there is none."""
        engine = self.service.engine
        return None if engine is None else engine.name

    def describe(self) -> dict[str, Any]:
        """The WebUI's info object, with the settings and flags that mean something here."""
        engine = self.service.engine
        return {
            "model_name": self.find_name(),
            "lora_names": list(engine.adapters) if engine else [],
            "shared.settings": {name: field.default for name, field in RawBody.model_fields.items()},
            "shared.args": self._describe_flags(),
        }

    def _describe_flags(self) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        choice = self.service.choice
        if choice:
            flags["model"] = choice.model
            flags["lora"] = list(choice.loras) or None
            flags["loader"] = choice.loader
            flags["dtype"] = choice.dtype
        folders = {"model_dir": self.service.models_dir, "lora_dir": self.service.loras_dir}
        for name, folder in folders.items():
            flags[name] = str(folder) if folder else None
        return flags

    def load(self, body: ModelBody) -> list[str]:
        """Loads the model that the body names; returns the flags that were sent and not honoured."""
        if not body.model_name:
            raise ApiError(400, "model_name: which model is to be loaded?", "model_name", "missing")
        choice = read_choice(body.model_name, body.args, self._last)
        before = self.service.choice
        # The error has gone when the model before is loaded again: its traceback would hold the failed one.
        if refusal := self._try_load(choice, body):
            if before and not self.service.engine:
                self.service.load(before)
            raise refusal
        self._last = choice
        return list_ignored_flags(body.args)

    def _try_load(self, choice: ModelChoice, body: ModelBody) -> ApiError | None:
        """Loads the model; the refusal if it cannot be loaded."""
        try:
            self.service.load(choice)
        except Exception as error:  # a damaged folder can make transformers raise anything
            return self._explain_failure(body, choice, error)
        return None

    def _explain_failure(self, body: ModelBody, choice: ModelChoice, error: Exception) -> ApiError:
        """The refusal. At fault is model_name, or args if the folder is in order and flags were sent."""
        if not isinstance(error, KitError):
            problem = f"{choice.model} cannot be loaded ({type(error).__name__}: {error})."
            return ApiError(400, problem, "model_name", "model_not_loaded")
        field = "model_name"
        with contextlib.suppress(KitError):
            check_decoder(find_model(choice.model, self.service.models_dir))
            field = "args" if body.args else "model_name"
        return ApiError(400, str(error), field, "model_not_loaded")


def add_ignored(reply: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """The reply with `ignored`, if anything was."""
    return {**reply, "ignored": ignored} if ignored else reply


def read_choice(model: str, flags: dict[str, Any], last: ModelChoice | None) -> ModelChoice:
    """What to load. The LoRAs of `last` stay if the flags name none.

    If the model stays, its number format and its chat template do.
    """
    dtype = None
    if flags.get("bf16"):
        dtype = "bfloat16"
    elif last and last.model == model:
        dtype = last.dtype
    bits = None
    if flags.get("load_in_8bit"):
        bits = 8
    elif flags.get("load_in_4bit"):
        bits = 4
    chat_template = last.chat_template if last and last.model == model else None
    return ModelChoice(model, read_loras(flags, last), read_loader(flags), dtype, bits, chat_template)


def read_loras(flags: dict[str, Any], last: ModelChoice | None) -> tuple[str, ...]:
    """The LoRAs that the flags name, or those of `last`. Raises an ApiError unless they are folder names."""
    if "lora" not in flags:
        return last.loras if last else ()
    loras = flags["lora"] or []
    if isinstance(loras, str):
        loras = [loras]
    try:
        return LORAS.validate_python(loras)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        message = f"args.lora: send a list of folder names ({problem})."
        raise ApiError(400, message, "args.lora") from None


def read_loader(flags: dict[str, Any]) -> str | None:
    """The loader that was named, such as "Transformers"; None for loaders of the WebUI that are not here."""
    name = str(flags.get("loader")).lower()
    return name if name in LOADERS else None


def list_ignored_flags(flags: dict[str, Any]) -> list[str]:
    """Flags that ask for something and mean nothing here, as "args.NAME", sorted."""
    honoured = {"lora", "bf16", "load_in_8bit"}
    if not flags.get("load_in_8bit"):
        honoured.add("load_in_4bit")
    if read_loader(flags):
        honoured.add("loader")
    return sorted(
        f"args.{name}" for name, value in flags.items() if name not in honoured and value not in BLANK
    )
