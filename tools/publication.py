"""The one published address of the kit, pinned to a commit, and every place that names it.

pyproject.toml has it ([project.urls] and [tool.open-llm-kit]); `tools.publish` puts it there, and
`tools.tidy_notebooks` keeps the other places in step. Without one, nothing names an address: the pages say
how to run the kit from its folder, and a set-up cell that finds no kit says what to do.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from helpers.common.errors import DamagedError
from helpers.common.paths import PROJECT
from tools.files import read_toml

SETUP = """\
# @title Set-up: run this cell first
import importlib.util, os, sys

# An error that a notebook shows as one line.
Stop = type("Stop", (Exception,), {"_render_traceback_": lambda self: [str(self)]})

# A Python that does not know the kit looks for its folder.
if not importlib.util.find_spec("helpers"):
    home = os.environ.get("OPEN_LLM_KIT_HOME", "")
    places = ("..", ".", "open-llm-kit", "drive/MyDrive/open-llm-kit", home)
    kits = [place for place in places if os.path.isdir(os.path.join(place, "helpers/tutorial"))]
{finding}
    sys.path.insert(0, os.path.abspath(kits[0]))

from helpers.tutorial import setup

setup.set_up()"""

# Nothing is published: no address is asked.
LOOKING = """\
    if not kits:
        raise Stop(
            "The kit is not here: upload or clone its folder as open-llm-kit beside this notebook, "
            "or set OPEN_LLM_KIT_HOME to it. Then run this cell again."
        )"""

# Where there is no kit, the published commit is fetched; no other commit is used.
FETCHING = """\
    if not kits:
        kits = ["open-llm-kit"]
        !git clone --quiet --no-checkout {repository} open-llm-kit
        !git -C open-llm-kit checkout --quiet --detach {commit}
    if kits[0] == "open-llm-kit":
        commit = !git -C open-llm-kit rev-parse HEAD
        if commit != ["{commit}"]:
            raise Stop("open-llm-kit is not the published commit: delete it, then run this again.")"""

BADGE = (
    "[![Open this lesson in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{path}/blob/{commit}/notebooks/{name}.ipynb)"
)
ANY_BADGE = re.compile(r"\n\n\[!\[Open this lesson in Colab\][^\n]*")
GITHUB = "https://github.com/"  # Colab opens notebooks from there only

# What README.md and the guide have between <!-- NAME --> and <!-- end of NAME -->: without a published
# address, and with one.
BLOCKS = {
    "getting": (
        "Open a terminal in the kit's folder, the one that has this project's `Makefile`.",
        "```bash\ngit clone {repository} open-llm-kit && cd open-llm-kit\n"
        "git checkout --quiet --detach {commit}   # {revision}\n```",
    ),
    "opening": (
        "Upload the kit's folder to the session, or to Google Drive, as `open-llm-kit`, and open a lesson\n"
        "with *File, Upload notebook*.",
        "Open a lesson with its badge.",
    ),
}
PAGES = ("README.md", "notebooks/GUIDE.md")  # the pages that have blocks


@dataclass(frozen=True)
class Publication:
    """Where the kit is published, and as what."""

    repository: str  # https://HOST/OWNER/NAME
    revision: str  # as its author calls it: a tag or a commit
    commit: str  # 40 hexadecimal digits


def read_publication(project: Path = PROJECT) -> Publication | None:
    """What pyproject.toml says; None if nothing is published. Raises DamagedError if half of it is there."""
    content = read_toml(project / "pyproject.toml")
    repository = content["project"].get("urls", {}).get("Repository")
    pinned = content["tool"].get("open-llm-kit", {})
    if bool(repository) != bool(pinned):
        remedy = "Run python -m tools.publish --remove."
        raise DamagedError("pyproject.toml has a repository without a commit, or the reverse.", remedy)
    return Publication(repository, pinned["revision"], pinned["commit"]) if repository else None


def put_into_pyproject(text: str, publication: Publication | None) -> str:
    """The text of pyproject.toml, with this publication instead of an older one, or with none."""
    text = re.sub(r"\[project\.urls\]\nRepository = .*\n\n", "", text)
    text = re.sub(r"\n\[tool\.open-llm-kit\][^\n]*\n(?:\w+ = .*\n)+", "", text)
    if publication is None:
        return text
    urls = f'[project.urls]\nRepository = "{publication.repository}"\n\n'
    text = text.replace("[project.optional-dependencies]", f"{urls}[project.optional-dependencies]", 1)
    comment = "# written by `python -m tools.publish`"
    pinned = f'revision = "{publication.revision}"\ncommit = "{publication.commit}"\n'
    return f"{text}\n[tool.open-llm-kit] {comment}\n{pinned}"


def build_setup_cell(publication: Publication | None) -> str:
    """The source of the first code cell of every lesson."""
    return SETUP.replace("{finding}", fill(FETCHING, publication) if publication else LOOKING)


def put_badge(source: str, publication: Publication | None, name: str) -> str:
    """The first cell of the lesson `name`, with a badge below its title if Colab can open the address."""
    source = ANY_BADGE.sub("", source)
    if publication is None or not publication.repository.startswith(GITHUB):
        return source
    path = publication.repository.removeprefix(GITHUB)
    title, separator, rest = source.partition("\n\n")
    return f"{title}\n\n{BADGE.format(path=path, commit=publication.commit, name=name)}{separator}{rest}"


def put_into_page(text: str, publication: Publication | None) -> str:
    """A page, with each of its blocks as it is for this publication or for none."""
    for name, (unpublished, published) in BLOCKS.items():
        content = fill(published, publication) if publication else unpublished
        if name == "opening" and publication and not publication.repository.startswith(GITHUB):
            content = unpublished
        block = rf"(?s)(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text = re.sub(block, lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def fill(text: str, publication: Publication) -> str:
    """The text, with the publication's address, revision and commit."""
    for field in ("repository", "revision", "commit"):
        text = text.replace(f"{{{field}}}", getattr(publication, field))
    return text
