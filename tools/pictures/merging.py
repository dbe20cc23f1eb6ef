"""A LoRA beside its layer, and the same layer after the merge."""

from tools.pictures.facts import read_model_shape, read_settings
from tools.pictures.lora import LAYER
from tools.pictures.svg import DARK, LIT, MIDDLE, PALE, WHITE, Picture

WIDTH, HEIGHT = 940, 300
SIDE = 130  # pixels of W's inputs; everything else is to this scale
TOP, MIDDLE_LINE = 84, 149  # of the matrices


def draw_merging() -> Picture:
    """The picture; its sizes are those of LAYER in the embedded model, and of the lane's rank."""
    inputs, outputs = read_model_shape().list_linears()[LAYER]
    settings = read_settings()
    rank, scale = settings.lora_r, settings.lora_alpha / settings.lora_r
    picture = Picture("Merging a LoRA", describe(inputs, outputs, rank, scale), WIDTH, HEIGHT)
    picture.text(40, 36, "Before: two ways, added for every token", 17, font_weight="bold", fill=DARK)
    picture.text(650, 36, "After: one matrix", 17, font_weight="bold", fill=DARK)
    draw_before(picture, outputs / inputs, rank / inputs, scale)
    draw_after(picture, outputs / inputs, scale)
    draw_words(picture, inputs, outputs, rank)
    return picture


def describe(inputs: int, outputs: int, rank: int, scale: float) -> str:
    """The alt text."""
    return (
        f"Merging. Before: W, {outputs} by {inputs} numbers, and beside it B, {outputs} by {rank}, and A, "
        f"{rank} by {inputs}; the LoRA can be switched off. After: one matrix, {outputs} by {inputs}, "
        f"which is W + {scale:g} B A; it is as large as W, and the LoRA is part of it for good."
    )


def draw_before(picture: Picture, tall: float, thin: float, scale: float) -> None:
    """W, plus scale times B A."""
    edge = {"fill": WHITE, "stroke": MIDDLE, "stroke_width": 2, "rx": 0}
    picture.open("before")
    picture.rect(40, TOP, SIDE, SIDE * tall, rx=2, fill=PALE)
    picture.text(105, MIDDLE_LINE + 8, "W", 24, anchor="middle", font_weight="bold", fill=DARK)
    picture.text(217, MIDDLE_LINE + 8, f"+  {scale:g} ×", 22, anchor="middle")
    picture.rect(264, TOP, max(SIDE * thin, 4), SIDE * tall, **edge)
    picture.text(282, MIDDLE_LINE + 8, "B", 22, font_weight="bold", fill=MIDDLE)
    picture.text(322, MIDDLE_LINE + 8, "×", 22, anchor="middle")
    picture.rect(346, MIDDLE_LINE - 2, SIDE, max(SIDE * thin, 4), **edge)
    picture.text(411, MIDDLE_LINE - 16, "A", 22, anchor="middle", font_weight="bold", fill=MIDDLE)
    picture.close()


def draw_after(picture: Picture, tall: float, scale: float) -> None:
    """The sum, as large as W."""
    picture.open("after")
    picture.arrow([(510, MIDDLE_LINE), (630, MIDDLE_LINE)], width=3)
    picture.text(568, MIDDLE_LINE - 14, "merge", 16, anchor="middle", font_weight="bold")
    picture.rect(650, TOP, SIDE, SIDE * tall, rx=2, fill=LIT, stroke=MIDDLE, stroke_width=3)
    words = f"W + {scale:g} B A"
    picture.text(715, MIDDLE_LINE + 6, words, 18, anchor="middle", font_weight="bold", fill=DARK)
    picture.close()


def draw_words(picture: Picture, inputs: int, outputs: int, rank: int) -> None:
    """How many numbers each has, and what it can do."""
    whole, small = inputs * outputs, rank * (inputs + outputs)
    picture.open("words")
    picture.lines(40, 246, [f"{whole:,} numbers and {small:,} more;", "the LoRA can be switched off"], 15)
    picture.lines(650, 246, [f"{whole:,} numbers;", "the LoRA is part of W for good"], 15)
    picture.close()
