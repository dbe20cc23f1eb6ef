"""`python -m tools.pictures` draws the pictures of the lessons into notebooks/images/."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from helpers.common.command import CommandParser, run_command
from helpers.common.files import write_json
from helpers.common.paths import PROJECT
from tools.files import update_file
from tools.pictures.facts import FACTS, measure_facts
from tools.pictures.layer import draw_layer
from tools.pictures.lora import draw_lora
from tools.pictures.maps import STATIONS, draw_map
from tools.pictures.merging import draw_merging
from tools.pictures.prefix import draw_prefix
from tools.pictures.request import draw_request
from tools.pictures.rounding import draw_rounding
from tools.pictures.svg import Picture
from tools.pictures.webui import PANELS, draw_tab

FOLDER = PROJECT / "notebooks" / "images"

PICTURES: dict[str, Callable[[], Picture]] = {
    "map": draw_map,
    **{f"map-{number}": partial(draw_map, number) for number in STATIONS},
    "lora": draw_lora,
    "merging": draw_merging,
    "rounding": draw_rounding,
    "layer": draw_layer,
    "prefix": draw_prefix,
    **{f"webui-{name}": partial(draw_tab, name) for name in PANELS},
    "request": draw_request,
}


def main(arguments: list[str]) -> None:
    """Prints the files that changed."""
    parser = CommandParser(prog="python -m tools.pictures", description="Draws the pictures of the lessons.")
    parser.add_argument(
        "--measure", action="store_true", help="first read model and data again; needs the embedded model"
    )
    parser.add_argument("--alt", action="store_true", help="print each picture's Markdown with its alt text")
    options = parser.parse_args(arguments)
    if options.measure:
        write_json(FACTS, measure_facts())
    for path in draw_all():
        print(path.relative_to(PROJECT))
    if options.alt:
        for name, draw in PICTURES.items():
            print(f"![{draw().alt}](images/{name}.svg)\n")


def draw_all(folder: Path = FOLDER) -> list[Path]:
    """Draws every picture; returns the files that changed."""
    files = {folder / f"{name}.svg": draw().render() for name, draw in PICTURES.items()}
    return [path for path, text in files.items() if update_file(path, text)]


if __name__ == "__main__":
    raise SystemExit(run_command(main))
