"""The map of the five lessons, once for each of them with "you are here", and once without."""

from dataclasses import dataclass

from tools.pictures.svg import DARK, INK, LIT, PALE, QUIET, WHITE, Picture

WIDTH, HEIGHT = 940, 396
TOP, MIDDLE_ROW, BOTTOM = 20, 166, 256  # where the three rows of lessons begin
PANEL_HEIGHTS = {TOP: 104, MIDDLE_ROW: 62, BOTTOM: 104}
HEAD = 32  # of a lesson's panel: its number and name
BOX = 120  # width
COLUMN = 155  # from box to box

STORY = ["From a table to your own LoRA", "that answers over an API"]


@dataclass(frozen=True)
class Station:
    """A lesson on the map: its name, where its panel is, and the boxes in it."""

    name: str
    goal: str  # what the learner has done after it
    left: int
    top: int
    boxes: tuple[tuple[str, str], ...]  # (what it is, what that means)
    width: int = BOX + 30
    box: int = BOX  # width of its boxes

    def find_box(self, place: int) -> float:
        """Where the box at this place begins."""
        step = (self.width - 30 - self.box) / max(len(self.boxes) - 1, 1)
        return self.left + 15 + place * step


STATIONS = {
    1: Station("weights", "a model in a folder", 20, BOTTOM, (("weights", "a model's files"),)),
    2: Station("loading", "the model answers", 20 + 3 * COLUMN, BOTTOM, (("model", "it answers"),)),
    3: Station(
        "API", "programs ask it", 655, BOTTOM,
        (("server", "HTTP, JSON"), ("client", "curl, Python")), 265, 104,
    ),
    4: Station(
        "training", "it learns a task", 20, TOP,
        (("CSV", "rows, answers"), ("prompt", "by a template"), ("training", "of a LoRA"),
         ("LoRA", "a small folder")),
        3 * COLUMN + BOX + 30,
    ),
    5: Station("LoRA", "it uses what it learned", 20 + 3 * COLUMN, MIDDLE_ROW, ()),
}  # fmt: skip


def draw_map(here: int | None = None) -> Picture:
    """The map, with lesson `here` lit."""
    picture = Picture("The map of the five lessons", describe_map(here), WIDTH, HEIGHT)
    for number, station in STATIONS.items():
        draw_station(picture, number, station, number == here)
    draw_roads(picture)
    draw_story(picture, here)
    return picture


def describe_map(here: int | None) -> str:
    """The alt text: the story, and where the reader is in it."""
    story = (
        "Map of the five lessons. Lesson 4, above: a CSV becomes prompts, prompts train a LoRA. Below: "
        "weights (lesson 1) become a loaded model (lesson 2), the LoRA is put on it (lesson 5), and a "
        "server answers a client (lesson 3). The weights also go, frozen, into the training."
    )
    return f"{story} You are here: lesson {here}, {STATIONS[here].name}." if here else story


def draw_station(picture: Picture, number: int, station: Station, lit: bool) -> None:
    """A lesson's panel: a badge with its number, its name, its boxes; thick and dark if it is lit."""
    left, top, width, height = station.left, station.top, station.width, PANEL_HEIGHTS[station.top]
    picture.open(f"lesson-{number}")
    edge = {"stroke": DARK, "stroke_width": 3.5} if lit else {"stroke": QUIET, "stroke_width": 1}
    dashes = {} if lit else {"stroke_dasharray": "4 3"}
    picture.rect(left, top, width, height, rx=8, fill=LIT if lit else WHITE, **edge, **dashes)
    picture.circle(left + 19, top + 18, 11, fill=DARK if lit else WHITE, stroke_width=1.5)
    ink = {"fill": WHITE if lit else DARK}
    picture.text(left + 19, top + 23, str(number), 14, anchor="middle", font_weight="bold", **ink)
    picture.text(left + 37, top + 23, station.name, 15, font_weight="bold")
    for place, words in enumerate(station.boxes):
        fill, word_ink = (DARK, WHITE) if lit else (WHITE, INK)
        picture.box(
            (station.find_box(place), top + HEAD + 4, station.box, 58), words, 14, word_ink, fill=fill
        )
    if not station.boxes:
        picture.text(left + 37, top + 46, "on the model", 14)
    if lit and station.boxes:
        draw_flag(picture, left + 18, top + height - 2)
    elif lit:  # below it is a road
        draw_flag(picture, left + width - 2, top + height / 2 - 13)
    picture.close()


def draw_flag(picture: Picture, x: float, y: float) -> None:
    """The words "you are here"."""
    picture.rect(x, y, 114, 26, rx=5, fill=DARK)
    picture.text(x + 57, y + 18, "you are here", 14, anchor="middle", fill=WHITE, font_weight="bold")


def draw_roads(picture: Picture) -> None:
    """The arrows between the boxes."""
    top, bottom = TOP + HEAD + 33, BOTTOM + HEAD + 33
    training, lora = STATIONS[4].find_box(2) + BOX / 2, STATIONS[4].find_box(3) + BOX / 2
    picture.open("roads")
    for place in range(3):
        start = STATIONS[4].find_box(place) + BOX
        picture.arrow([(start + 2, top), (start + COLUMN - BOX - 2, top)])
    picture.arrow([(lora, TOP + HEAD + 63), (lora, MIDDLE_ROW - 2)])
    picture.arrow([(lora, MIDDLE_ROW + 63), (lora, BOTTOM - 2)])
    picture.arrow([(training, bottom), (training, TOP + HEAD + 65)], stroke_dasharray="6 4")
    picture.text(training - 8, 212, "as frozen base", 14, anchor="end", fill=QUIET)
    picture.arrow([(STATIONS[1].find_box(0) + BOX + 2, bottom), (STATIONS[2].find_box(0) - 2, bottom)])
    picture.arrow([(STATIONS[2].find_box(0) + BOX + 2, bottom), (STATIONS[3].find_box(0) - 2, bottom)])
    server, client = STATIONS[3].find_box(0) + STATIONS[3].box, STATIONS[3].find_box(1)
    picture.arrow([(server + 2, bottom), (client - 2, bottom)])
    picture.close()


def draw_story(picture: Picture, here: int | None) -> None:
    """Upper right: the story in a sentence, and below it what the lesson adds to it."""
    left = STATIONS[4].left + STATIONS[4].width + 22
    picture.open("story")
    picture.lines(left, 48, STORY, 15, font_weight="bold", fill=DARK)
    if here:
        picture.line([(left, 88), (left + 60, 88)], stroke=PALE, stroke_width=3)
        picture.lines(left, 116, [f"Lesson {here}: {STATIONS[here].goal}."], 15)
    picture.close()
