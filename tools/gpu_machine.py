"""What a bare machine with a GPU needs for `python -m benchmarks.gpu`: it has torch, and no package index.

    python -m tools.gpu_machine FOLDER [--there FREEZE] [--lessons]

Writes into FOLDER what must be carried beside this repository, and prints the commands that fetch the rest
and the one that runs the benchmark there. FREEZE is the machine's `pip freeze`: what it has already is left
out. Without it, torch and what torch itself requires are taken to be there. The versions are those of
constraints.hashes.txt, the wheels those for Python 3.12 on Linux, x86-64.
"""

import argparse
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from benchmarks.gpu.plan import HEAD, LLAMA_2, TOKENIZER
from helpers.common import arguments as types
from helpers.common.command import CommandParser, run_command
from helpers.common.outputs import check_output
from helpers.common.paths import PROJECT, find_home
from helpers.common.pins import SOURCES, read_pins
from helpers.weights.embedded import GGUF_NAME

THERE = "torch"
# What the benchmark imports of the kit's dependencies. Theirs follow from their metadata. Those of the first
# line must have exactly the version that was tested, any other one that is there and allowed will do.
EXACT = "transformers peft trl datasets gptqmodel optimum llguidance gguf".split()
OTHERS = (
    "accelerate numpy safetensors tokenizers huggingface-hub pandas pyarrow scikit-learn scipy sacrebleu "
    "requests pyyaml charset-normalizer jinja2 psutil filelock tqdm packaging"
).split()
LESSONS = (
    "jupyterlab ipykernel ipython jupyter-client traitlets ipywidgets nbclient nbconvert nbformat matplotlib "
    "tensorboard openai fastapi uvicorn starlette pydantic websockets"
).split()
LIGER = ("liger-kernel", "0.8.5")  # a knowing user's; not in constraints.txt, and 0.8.5 is what was measured
MACHINE = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LLAMA_FILES = PROJECT / "runs" / "tokenizers"  # what support.real_tokenizers fetches

Needs = dict[str, SpecifierSet]  # canonical names, and the versions that all who need them allow


def read_freeze(path: Path | None) -> dict[str, str]:
    """A `pip freeze`: canonical name -> version; lines of another form, such as NAME @ URL, are left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    pairs = [line.strip().split("==") for line in lines if line.count("==") == 1]
    return {canonicalize_name(name): version for name, version in pairs}


def list_requirements(name: str) -> Iterator[Requirement]:
    """What a package that is installed here requires on the machine; nothing for one that is not."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate(MACHINE):
            yield requirement


def collect(names: Iterable[str], without: Iterable[str] = ()) -> Needs:
    """The packages of these names and all that they require, except `without`."""
    stops = set(without)
    found: Needs = {name: SpecifierSet() for name in map(canonicalize_name, names) if name not in stops}
    left = list(found)
    while left:
        for requirement in list_requirements(left.pop()):
            name = canonicalize_name(requirement.name)
            if name in stops:
                continue
            if name not in found:
                left.append(name)
            found[name] = found.get(name, SpecifierSet()) & requirement.specifier
    return found


def list_carried(there: dict[str, str], lessons: bool) -> list[str]:
    """NAME==VERSION of all packages to carry; `there` has the machine's versions, {} if unknown."""
    versions = {name: pin.version for name, pin in read_pins().items()}
    needs = collect([*EXACT, *OTHERS, *(LESSONS if lessons else ())], without=collect([THERE]))
    carried = []
    for name in sorted(needs):
        same = there.get(name) == versions.get(name)
        allowed = name in there and name not in EXACT and needs[name].contains(there[name], prereleases=True)
        if name in versions and not same and not allowed:
            carried.append(f"{name}=={versions[name]}")
    return carried


def split_built(carried: Iterable[str]) -> tuple[list[str], list[str]]:
    """(what PyPI has wheels of, what must be built from its source package)."""
    built = [pin for pin in carried if pin.partition("==")[0] in SOURCES]
    return [pin for pin in carried if pin not in built], built


def write_files(folder: Path) -> list[str]:
    """Copies the tokenizers and the head of the embedded model's GGUF file; names what is not here."""
    from benchmarks.gpu.replicas import write_head

    models = find_home() / "models" / "SmolLM2-135M-Instruct"
    llama = next(iter(sorted(LLAMA_FILES.glob("llama2-*"))), LLAMA_FILES / "llama2")
    for source, target in ((models, folder / TOKENIZER), (llama, folder / LLAMA_2)):
        target.mkdir()
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, target / file)
    gguf = models.with_name(models.name + "-GGUF") / GGUF_NAME
    if gguf.is_file():
        write_head(gguf, folder / HEAD)
    needed = (folder / TOKENIZER / TOKENIZER_FILES[0], folder / LLAMA_2 / TOKENIZER_FILES[0], folder / HEAD)
    return [str(path.relative_to(folder)) for path in needed if not path.is_file()]


def write_commands(folder: Path, lessons: bool) -> str:
    """What to type, here and on the machine."""
    platforms = " ".join(f"--platform {name}_x86_64" for name in PLATFORMS)
    run = f"python3 -m benchmarks.gpu --carried {folder.name} --out {folder.name}/results"
    run += " --part lessons" if lessons else " --minutes 8"
    install = "python3 -m pip install --no-index --no-deps --target /tmp/site"
    return f"""1. Here, with a package index:

pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp {platforms} \\
  -r {folder}/wheels.txt -d {folder}/wheels

2. Here, with a Python 3.12 of Linux on x86-64, for what PyPI has as source packages only:

python3.12 -m pip wheel --no-deps -r {folder}/built.txt -w {folder}/wheels

3. On the machine, in the root of this repository, with {folder.name} beside its files:

{install} {folder.name}/wheels/*.whl && PYTHONPATH=/tmp/site {run}
"""


def main(arguments: list[str]) -> None:
    """Writes the folder and prints the commands."""
    options = parse_options(arguments)
    folder = check_output(options.folder, "folder", remedy="Name a folder that does not exist yet.")
    carried = list_carried(read_freeze(options.there), options.lessons)
    wheels, built = split_built(carried)
    folder.mkdir(parents=True)
    (folder / "wheels.txt").write_text("\n".join([*wheels, "==".join(LIGER)]) + "\n", encoding="utf-8")
    (folder / "built.txt").write_text("\n".join(built) + "\n", encoding="utf-8")
    missing = write_files(folder)
    print(
        f"{len(wheels) + 1} wheels, {len(built)} to be built: {folder / 'wheels.txt'}, {folder / 'built.txt'}"
    )
    if missing:
        print(f"Not here, so that parts of the benchmark do without: {', '.join(missing)}")
    print(f"\n{write_commands(folder, options.lessons)}")


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(
        prog="python -m tools.gpu_machine",
        description="Lists what the benchmark of a GPU needs on a bare machine, and prints the commands.",
    )
    parser.add_argument("folder", type=types.path, metavar="FOLDER", help="is made; what must be carried")
    parser.add_argument("--there", type=types.path, metavar="FREEZE", help="the machine's `pip freeze`")
    parser.add_argument("--lessons", action="store_true", help="also what `--part lessons` needs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
