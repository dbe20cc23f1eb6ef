"""Which model and which LoRAs a running WebUI holds, seen and changed from a program: in 2023 over its raw API, today over /v1/internal.

Both eras have the same calls here, and the kit's server answers those of 2023; a KitError says what an era lacks.
"""

from dataclasses import dataclass

from helpers.clients.webui import check_era
from helpers.common.errors import KitError
from helpers.common.http import send_request
from helpers.server.ports import RAW_PORT


@dataclass(frozen=True)
class Loaded:
    """What the server holds."""

    model: str | None  # folder name; None when no model is loaded
    loras: list[str]  # folder names
    loader: str | None  # as the server calls it; the kit's server says it only where one was asked for


class RawControl:
    """The WebUI of 2023: POST /api/v1/model, which fails with status 200. `timeout` in seconds; loading a model takes long."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 600):
        self.url, self.api_key, self.timeout = url, api_key, timeout

    def act(self, action: str, **fields: object) -> object:
        """The result of an action; KitError with the server's words when it has none."""
        reply = send_request(
            "POST", f"{self.url}/api/v1/model", {"action": action, **fields}, self.api_key, self.timeout
        )
        if isinstance(reply, dict) and "result" in reply:
            return reply["result"]
        words = reply["error"]["message"] if isinstance(reply, dict) and "error" in reply else reply
        raise KitError(
            f"The server could not {action}: {words}",
            "Mend what it names and load again: what was loaded before is gone.",
        )

    def list_models(self) -> list[str]:
        """Names of the folders and files in its models/."""
        return [name for name in self.act("list") if name != "None"]

    def describe(self) -> Loaded:
        """What is loaded; after a load that failed inside the loader, the WebUI still names what it should have been."""
        return self.read_info(self.act("info"))

    def read_info(self, info: dict) -> Loaded:
        """The raw API's info object. A name without a loader that is in no list is that of a model which was not found."""
        name, loader = info["model_name"], info.get("shared.args", {}).get("loader")
        found = name not in (None, "None") and (loader is not None or name in self.list_models())
        return Loaded(name if found else None, info["lora_names"], loader)

    def load_model(self, name: str, **settings: object) -> Loaded:
        """Loads a model in place of the present one. Settings are the WebUI's flags with underscores: loader, load_in_8bit, lora.

        Without `lora` it comes without any, as today, also where the server was started with one. A name that the server does not
        have leaves it with no model at all; it calls that no error, this function does.
        """
        loaded = self.read_info(self.act("load", model_name=name, args={"lora": [], **settings}))
        if loaded.model != name:
            raise KitError(
                f"The server has no model '{name}', and none is loaded now.",
                f"Load one of: {', '.join(self.list_models())}.",
            )
        return loaded

    def unload_model(self) -> None:
        """Frees the model's memory."""
        self.act("unload")

    def list_loras(self) -> list[str]:
        """Always a KitError: no call of 2023 lists what could be loaded."""
        raise KitError(
            "The WebUI of 2023 has no call that lists LoRAs.",
            "Look into its loras/ folder; describe() names those that are loaded.",
        )

    def load_loras(self, names: list[str]) -> Loaded:
        """Makes these the LoRAs on the present model, [] for none. 2023 has no call for it: the model is loaded once more with them."""
        model = self.describe().model
        if model is None:
            raise KitError("No model is loaded.", "Load one first: load_model(name).")
        return self.load_model(model, lora=names)

    def unload_loras(self) -> Loaded:
        """Leaves the model without LoRAs, by loading it once more."""
        return self.load_loras([])


class InternalControl:
    """Today's WebUI: /v1/internal. Its admin key (else the api key) opens all but `describe`, which takes the api key alone."""

    def __init__(
        self, url: str, api_key: str | None = None, admin_key: str | None = None, timeout: float = 600
    ):
        self.url, self.api_key, self.admin_key, self.timeout = (
            f"{url}/v1/internal",
            api_key,
            admin_key or api_key,
            timeout,
        )

    def read(self, path: str) -> dict:
        """What a GET of an admin route replies."""
        return send_request("GET", f"{self.url}/{path}", None, self.admin_key, self.timeout)

    def change(self, path: str, **body: object) -> Loaded:
        """Posts to an admin route, and says what is loaded then."""
        send_request("POST", f"{self.url}/{path}", body, self.admin_key, self.timeout)
        return self.describe()

    def list_models(self) -> list[str]:
        """Names of the folders and GGUF files in its models folder."""
        return self.read("model/list")["model_names"]

    def describe(self) -> Loaded:
        """What is loaded; after a load that failed, nothing is."""
        info = send_request("GET", f"{self.url}/model/info", None, self.api_key, self.timeout)
        return Loaded(
            info["model_name"] if info["loader"] and info["model_name"] != "None" else None,
            info["lora_names"],
            info["loader"],
        )

    def load_model(self, name: str, **settings: object) -> Loaded:
        """Loads a model in place of the present one, without LoRAs. Settings are its loader's flags with underscores; others are ignored."""
        return self.change("model/load", model_name=name, args=settings)

    def unload_model(self) -> None:
        """Frees the model's memory."""
        self.change("model/unload")

    def list_loras(self) -> list[str]:
        """Names of the folders in its loras folder."""
        return self.read("lora/list")["lora_names"]

    def load_loras(self, names: list[str]) -> Loaded:
        """Makes these the LoRAs on the present model: the whole set, in place of those before."""
        return self.change("lora/load", lora_names=names)

    def unload_loras(self) -> Loaded:
        """Leaves the model without LoRAs."""
        return self.change("lora/unload")


def make_control(
    era: str,
    url: str = f"http://127.0.0.1:{RAW_PORT}",
    api_key: str | None = None,
    admin_key: str | None = None,
    timeout: float = 600,
) -> RawControl | InternalControl:
    """The control of a WebUI of `era` at `url`, without a path; of the kit's server, the era is "2023". Keys as the server was given them."""
    check_era(era)
    if era == "today":
        return InternalControl(url, api_key, admin_key, timeout)
    if admin_key:
        raise KitError(
            "The WebUI of 2023 has no admin key.",
            "Leave it out; the kit's server, which speaks as it did, has an api_key.",
        )
    return RawControl(url, api_key, timeout)
