"""Which model and which LoRAs a running WebUI has loaded, read and changed from a program.

The WebUI of 2023 is controlled over its raw API, today's over /v1/internal. Both controls here have the same
methods; the kit's server answers those of 2023. Their calls raise a ServerError if the server is out of reach
or refuses.
"""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from helpers.clients.raw_stream import Failure
from helpers.clients.remedies import SERVER_REMEDIES
from helpers.clients.webui import check_era, refuse_several
from helpers.common.arguments import shorten
from helpers.common.errors import NotFoundError, ServerError, UnsupportedError, UsageError
from helpers.common.forms import find_misfit
from helpers.common.http import expect, send_request
from helpers.server.ports import RAW_PORT

LOAD_FAILED = 200  # the status with which the WebUI of 2023 says in its reply that a load has failed
LORA_FAILED = 400  # today's status for a LoRA that cannot be loaded


class Models(TypedDict):
    """Today's list of models."""

    model_names: list[str]


class Loras(TypedDict):
    """Today's list of LoRAs."""

    lora_names: list[str]


class Info(Loras):
    """What today's WebUI has loaded."""

    model_name: str | None
    loader: str | None


class Arguments(TypedDict, total=False):
    """The settings of 2023."""

    loader: str | None


InfoOf2023 = TypedDict(
    "InfoOf2023",
    {"model_name": str | None, "lora_names": list[str], "shared.args": NotRequired[Arguments]},
)


@dataclass(frozen=True)
class Loaded:
    """What the server has loaded."""

    model: str | None  # a folder's name; None if no model is loaded
    loras: list[str]  # names of folders
    loader: str | None  # as the server calls it; the kit's server names it only if one was asked for


class RawControl:
    """The WebUI of 2023, over POST /api/v1/model. `timeout` is in seconds; loading a model takes long."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 600):
        self.url = f"{url}/api/v1/model"
        self.api_key = api_key
        self.timeout = timeout

    def act(self, action: str, form: Any = Any, **fields: Any) -> Any:
        """The result of an action, of this form. A ServerError with the server's words if there is none.

        A load that failed has status 200 too: {"error": {"message": ...}} in place of {"result": ...}.
        """
        body = {"action": action, **fields}
        reply = send_request("POST", self.url, body, self.api_key, self.timeout, SERVER_REMEDIES)
        if isinstance(reply, dict) and "result" in reply:
            return expect(reply["result"], form, self.url, SERVER_REMEDIES)
        said = shorten(reply, 300) if find_misfit(reply, Failure) else reply["error"]["message"]
        remedy = "Fix what it names and load again: what was loaded before is gone."
        raise ServerError(f"The server could not {action}: {said}", remedy, LOAD_FAILED)

    def list_models(self) -> list[str]:
        """Names of the folders and files in its models/."""
        return [name for name in self.act("list", list[str]) if name != "None"]

    def describe(self) -> Loaded:
        """What is loaded."""
        return self.read_info(self.act("info", InfoOf2023))

    def read_info(self, info: dict[str, Any]) -> Loaded:
        """What the raw API's info object says, as far as it is true.

        After a load that failed, the WebUI still reports that name. Only a model that is there counts tokens.
        """
        loader = info.get("shared.args", {}).get("loader")
        if info["model_name"] in (None, "None") or not self.can_count_tokens():
            return Loaded(None, [], loader)
        return Loaded(info["model_name"], info["lora_names"], loader)

    def can_count_tokens(self) -> bool:
        """Whether the server has a tokenizer."""
        url = self.url.removesuffix("model") + "token-count"
        try:
            send_request("POST", url, {"prompt": "Hi"}, self.api_key, self.timeout, SERVER_REMEDIES)
        except ServerError:
            return False
        return True

    def load_model(self, name: str, **settings: Any) -> Loaded:
        """Loads a model in place of the present one.

        Settings are the WebUI's flags with underscores, such as loader, load_in_8bit and lora. Without `lora`
        the model has no LoRAs, as today, even if the server was started with one. If the server does not have
        that name, no model is loaded afterwards: the server calls that a success, here it is a NotFoundError.
        If the WebUI cannot load the LoRA, the model is loaded again without, and the ServerError says so: in
        between, the WebUI may answer with a LoRA that it does not report.
        """
        args = {"lora": [], **settings}
        try:
            loaded = self.read_info(self.act("load", InfoOf2023, model_name=name, args=args))
        except ServerError as error:
            if error.status != LOAD_FAILED or not args["lora"]:
                raise
            self.act("load", model_name=name, args={**args, "lora": []})
            raise explain_lora_failure(error, name) from None
        if loaded.model != name:
            problem = f"The server has no model '{name}', and none is loaded now."
            raise NotFoundError(problem, f"Load one of: {', '.join(self.list_models())}.")
        return loaded

    def unload_model(self) -> None:
        """Frees the model's memory."""
        self.act("unload")

    def list_loras(self) -> list[str]:
        """Raises an UnsupportedError: the API of 2023 cannot list the LoRAs that could be loaded."""
        raise UnsupportedError(
            "The WebUI of 2023 has no call that lists LoRAs.",
            "Look into its loras/ folder; describe() names those that are loaded.",
        )

    def load_loras(self, names: list[str]) -> Loaded:
        """Attaches these LoRAs to the present model, in place of all others; [] for none.

        The API of 2023 has no call for it, so the model is loaded again, with them. Raises a UsageError if no
        model is loaded.
        """
        model = self.describe().model
        if model is None:
            raise build_no_model()
        return self.load_model(model, lora=names)

    def unload_loras(self) -> Loaded:
        """Removes all LoRAs from the model, by loading it again."""
        return self.load_loras([])


class InternalControl:
    """Today's WebUI, over /v1/internal. `timeout` is in seconds; loading a model takes long.

    `describe` takes the API key, everything else the admin key. The API key is both if there is no admin key.
    """

    def __init__(
        self, url: str, api_key: str | None = None, admin_key: str | None = None, timeout: float = 600
    ):
        self.url = f"{url}/v1/internal"
        self.api_key = api_key
        self.admin_key = admin_key or api_key
        self.timeout = timeout
        self.settings: dict[str, dict[str, Any]] = {}  # {model: those with which `load_model` loaded it}

    def read(self, path: str, form: Any) -> Any:
        """The reply to a GET of an admin route."""
        url = f"{self.url}/{path}"
        return send_request("GET", url, None, self.admin_key, self.timeout, SERVER_REMEDIES, form)

    def change(self, path: str, **body: Any) -> Loaded:
        """Posts to an admin route, and returns what is loaded afterwards."""
        send_request("POST", f"{self.url}/{path}", body, self.admin_key, self.timeout, SERVER_REMEDIES)
        return self.describe()

    def list_models(self) -> list[str]:
        """Names of the folders and GGUF files in its models folder."""
        return self.read("model/list", Models)["model_names"]

    def describe(self) -> Loaded:
        """What is loaded. After a load that failed, no model is.

        If another program's load of a LoRA has failed, the WebUI may report a LoRA that it does not have, and
        not load it again; `load_model` puts that right.
        """
        url = f"{self.url}/model/info"
        info = send_request("GET", url, None, self.api_key, self.timeout, SERVER_REMEDIES, Info)
        name = info["model_name"]
        loader = info["loader"]
        return Loaded(name if loader and name != "None" else None, info["lora_names"], loader)

    def load_model(self, name: str, **settings: Any) -> Loaded:
        """Loads a model in place of the present one, without LoRAs.

        Settings are the flags of its loader with underscores; the server ignores others.
        """
        self.settings[name] = settings
        return self.change("model/load", model_name=name, args=settings)

    def unload_model(self) -> None:
        """Frees the model's memory."""
        self.change("model/unload")

    def list_loras(self) -> list[str]:
        """Names of the folders in its loras folder."""
        return self.read("lora/list", Loras)["lora_names"]

    def load_loras(self, names: list[str]) -> Loaded:
        """Attaches a LoRA to the present model, in place of the one before; [] for none.

        Raises an UnsupportedError for several, a UsageError if no model is loaded, and a NotFoundError for a
        name that the server does not have. If the server cannot load the LoRA, it reports what it does not
        have, until the model is loaded again: that is done here, and the ServerError says so.
        """
        refuse_several(names)
        before = self.describe()
        if before.model is None:
            raise build_no_model()
        there = self.list_loras()
        if unknown := set(names) - set(there):
            problem = f"The server has no LoRA '{unknown.pop()}'."
            raise NotFoundError(problem, f"Load one of: {', '.join(there)}.")
        try:
            return self.change("lora/load", lora_names=names)
        except ServerError as error:
            if error.status != LORA_FAILED:
                raise
            settings = {"loader": before.loader, **self.settings.get(before.model, {})}
            self.load_model(before.model, **settings)
            raise explain_lora_failure(error, before.model) from None

    def unload_loras(self) -> Loaded:
        """Removes all LoRAs from the model."""
        return self.change("lora/unload")


def build_no_model() -> UsageError:
    """The error to raise for a LoRA without a model."""
    return UsageError("No model is loaded.", "Load one first: load_model(name).")


def explain_lora_failure(error: ServerError, model: str) -> ServerError:
    """The error to raise for a LoRA that could not be loaded, once the model is loaded again."""
    said = error.problem.rstrip(".")
    problem = f"{said}. The model {model} was loaded again, and it has no LoRA now."
    remedy = "Check that the LoRA was trained on this model; name one LoRA at a time."
    return ServerError(problem, remedy, error.status)


def make_control(
    era: str,
    url: str = f"http://127.0.0.1:{RAW_PORT}",
    api_key: str | None = None,
    admin_key: str | None = None,
    timeout: float = 600,
) -> RawControl | InternalControl:
    """The control of a WebUI of `era` at `url`, an address without a path.

    For the kit's server, `era` is "2023". The keys are those that the server was started with; `timeout` is
    in seconds. Raises a UsageError for an unknown era, and an UnsupportedError for an admin key in 2023.
    """
    check_era(era)
    if era == "today":
        return InternalControl(url, api_key, admin_key, timeout)
    if admin_key:
        remedy = "Omit it; the kit's server, which has the API of 2023, has an api_key."
        raise UnsupportedError("The WebUI of 2023 has no admin key.", remedy)
    return RawControl(url, api_key, timeout)
