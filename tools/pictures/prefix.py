"""The shared prefix as a tree: what rows have in common is computed once."""

from textwrap import shorten, wrap
from typing import Any

from tools.pictures.facts import read_facts
from tools.pictures.svg import DARK, LIT, MIDDLE, PALE, QUIET, WHITE, Picture

WIDTH, HEIGHT = 940, 500
ROOT, ROWS, ANSWERS = 24, 284, 632  # where the three columns begin
ROOT_WIDTH, ROW_WIDTH, ANSWER_WIDTH = 216, 304, 284
TOP, LEAF, GAP = 92, 34, 14  # where the first answer is, from answer to answer, and more from row to row
BARS, BAR_LEFT = 400, 124  # where the bars of tokens begin
BAR_WIDTH = 690  # of the longer bar
FILLS = {ROOT: LIT, ROWS: WHITE, ANSWERS: PALE}
END = "<|im_end|>"


def draw_prefix() -> Picture:
    """The picture; the tree is that of two real rows, each with its four answers."""
    facts = read_facts()
    judging, training = facts["judging"], facts["training"]
    segments = judging["segments"]
    picture = Picture("The shared prefix as a tree", describe(judging, training), WIDTH, HEIGHT)
    picture.text(24, 38, "What rows have in common is computed once", 17, font_weight="bold", fill=DARK)
    draw_titles(picture)
    places = place_segments(segments)
    draw_branches(picture, segments, places)
    for number, segment in enumerate(segments):
        draw_segment(picture, segment, places[number], segment["text"].removesuffix(END) in judging["right"])
    draw_bars(picture, judging, training)
    return picture


def describe(judging: dict[str, Any], training: dict[str, Any]) -> str:
    """The alt text."""
    root = judging["segments"][0]["tokens"]
    return (
        f"A tree of {judging['rows']} token sequences. All begin with the instruction, {root} tokens. It "
        "branches into two rows about one comment, and each row branches into its four possible answers. "
        f"Row by row these are {judging['tokens_row_by_row']} tokens to compute, as a tree "
        f"{judging['tokens_once']}. In a training batch of {training['rows']} rows, "
        f"{training['tokens_once']} instead of {training['tokens_row_by_row']}."
    )


def place_segments(segments: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(column's left, middle) of each segment: leaves below each other, parents beside their children."""
    children = [
        [number for number, segment in enumerate(segments) if segment["parent"] == parent]
        for parent in range(len(segments))
    ]
    leaves = [number for number, below in enumerate(children) if not below]
    parents = sorted({segments[leaf]["parent"] for leaf in leaves})
    middles: dict[int, float] = {
        leaf: TOP + LEAF * place + GAP * parents.index(segments[leaf]["parent"])
        for place, leaf in enumerate(leaves)
    }
    for number in reversed(range(len(segments))):
        if children[number]:
            middles[number] = sum(middles[child] for child in children[number]) / len(children[number])
    return [(find_column(segments, number), middles[number]) for number in range(len(segments))]


def find_column(segments: list[dict[str, Any]], number: int) -> int:
    """Where the column of a segment begins: the root's, a row's or an answer's."""
    parent = segments[number]["parent"]
    if parent is None:
        return ROOT
    return ROWS if segments[parent]["parent"] is None else ANSWERS


def draw_titles(picture: Picture) -> None:
    """What each column is."""
    picture.open("columns")
    picture.text(ROOT, 64, "the same in all rows", 14, fill=QUIET)
    picture.text(ROWS, 64, "a row: two options, the comment", 14, fill=QUIET)
    picture.text(ANSWERS, 64, f"four answers, each with {END}", 14, fill=QUIET)
    picture.close()


def draw_branches(
    picture: Picture, segments: list[dict[str, Any]], places: list[tuple[float, float]]
) -> None:
    """The lines from each segment to those that continue it."""
    picture.open("branches")
    for number, segment in enumerate(segments):
        if segment["parent"] is not None:
            (left, middle), (parent_left, parent_middle) = places[number], places[segment["parent"]]
            start = parent_left + (ROOT_WIDTH if parent_left == ROOT else ROW_WIDTH)
            turn = left - 26
            picture.line([(start, parent_middle), (turn, parent_middle), (turn, middle), (left, middle)])
    picture.close()


def draw_segment(picture: Picture, segment: dict[str, Any], place: tuple[float, float], right: bool) -> None:
    """A segment: its words and its number of tokens."""
    left, middle = place
    if left == ANSWERS:
        draw_answer(picture, segment, middle, right)
    elif left == ROWS:
        draw_row(picture, segment, middle)
    else:
        words = segment["text"].partition("\n")[2]
        picture.rect(left, middle - 70, ROOT_WIDTH, 140, fill=LIT, stroke_width=2.5)
        picture.text(left + 12, middle - 44, "instruction", 15, font_weight="bold")
        picture.lines(left + 12, middle - 20, wrap(shorten(words, 96, placeholder=" …"), 28), 13)
        tokens = f"{segment['tokens']} tokens"
        picture.text(left + ROOT_WIDTH - 10, middle + 60, tokens, 14, anchor="end", font_weight="bold")


def draw_row(picture: Picture, segment: dict[str, Any], middle: float) -> None:
    """A row: its two options and the comment."""
    options, _, rest = segment["text"].partition("\nComment: ")
    first, second = options.strip().split("\nOption B: ")
    comment = wrap(f"“{rest.partition(END)[0]}”", 40)
    picture.rect(ROWS, middle - 56, ROW_WIDTH, 112)
    picture.lines(ROWS + 12, middle - 32, [f"A: {first}", f"B: {second}"], 13)
    picture.lines(ROWS + 12, middle + 8, comment, 13, font_style="italic")
    tokens = f"{segment['tokens']} tokens"
    picture.text(ROWS + ROW_WIDTH - 10, middle + 47, tokens, 14, anchor="end", font_weight="bold")


def draw_answer(picture: Picture, segment: dict[str, Any], middle: float, right: bool) -> None:
    """An answer; the right one is marked."""
    edge = {"stroke": MIDDLE, "stroke_width": 3} if right else {"stroke_width": 1}
    bold = {"font_weight": "bold"} if right else {}
    picture.rect(ANSWERS, middle - 14, ANSWER_WIDTH, 28, fill=PALE, **edge)
    words = segment["text"].removesuffix(END) + (" ✓" if right else "")
    picture.text(ANSWERS + 10, middle + 5, words, 13, **bold)
    picture.text(ANSWERS + ANSWER_WIDTH - 10, middle + 5, str(segment["tokens"]), 14, anchor="end")


def draw_bars(picture: Picture, judging: dict[str, Any], training: dict[str, Any]) -> None:
    """Below: the tokens both ways, to scale, and those of a batch of the training."""
    segments = judging["segments"]
    parents = {segment["parent"] for segment in segments}
    paths = [list_path(segments, leaf) for leaf in range(len(segments)) if leaf not in parents]
    picture.open("counts")
    total = judging["tokens_row_by_row"]
    draw_bar(picture, BARS, "row by row", segments, [number for path in paths for number in path], total)
    draw_bar(picture, BARS + 32, "as a tree", segments, list(range(len(segments))), total)
    words = (
        f"Training shares the instruction: {training['tokens_once']} tokens instead of "
        f"{training['tokens_row_by_row']} in a real batch of {training['rows']} rows."
    )
    picture.text(24, BARS + 84, words, 14)
    picture.close()


def draw_bar(
    picture: Picture, y: float, name: str, segments: list[dict[str, Any]], numbers: list[int], total: int
) -> None:
    """The segments with these numbers one after the other, as long as their tokens."""
    picture.text(BAR_LEFT - 12, y + 17, name, 14, anchor="end", font_weight="bold")
    x = float(BAR_LEFT)
    for number in numbers:
        width = segments[number]["tokens"] * BAR_WIDTH / total
        picture.rect(x, y, width, 24, rx=0, fill=FILLS[find_column(segments, number)], stroke_width=1)
        x += width
    count = sum(segments[number]["tokens"] for number in numbers)
    picture.text(x + 10, y + 17, f"{count} tokens", 14)


def list_path(segments: list[dict[str, Any]], number: int) -> list[int]:
    """The numbers of the segments that a sequence consists of, the last one being `number`."""
    parent = segments[number]["parent"]
    return [number] if parent is None else [*list_path(segments, parent), number]
