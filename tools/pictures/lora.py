"""A LoRA beside one layer: W frozen, A and B trained, all drawn to scale."""

from tools.pictures.facts import read_model_shape, read_settings
from tools.pictures.svg import DARK, LIT, MIDDLE, PALE, QUIET, WHITE, Picture

WIDTH, HEIGHT = 940, 412
LAYER = "q_proj"
SIDE = 150  # pixels of the layer's inputs; everything else is to this scale
UPPER, LOWER, CENTER = 137, 310, 224  # height of the middle of W, of A and B, and of x and the sum
SUM = 520  # where the two ways meet


def draw_lora() -> Picture:
    """The picture; its sizes are those of LAYER in the embedded model, and of the lane's rank."""
    inputs, outputs = read_model_shape().list_linears()[LAYER]
    settings = read_settings()
    rank, scale = settings.lora_r, settings.lora_alpha / settings.lora_r
    picture = Picture("A LoRA beside one layer", describe(inputs, outputs, rank, scale), WIDTH, HEIGHT)
    heading = f"One layer of the model ({LAYER}), drawn to scale: {inputs} numbers in, {outputs} out"
    picture.text(24, 36, heading, 17, font_weight="bold", fill=DARK)
    draw_ends(picture, inputs, outputs)
    draw_frozen(picture, inputs, outputs)
    draw_trained(picture, inputs, outputs, rank)
    draw_sum(picture, scale)
    draw_counts(picture, inputs, outputs, rank)
    return picture


def describe(inputs: int, outputs: int, rank: int, scale: float) -> str:
    """The alt text."""
    return (
        f"A layer with a LoRA. Its input x goes two ways: through W, {outputs} by {inputs} numbers and "
        f"frozen, and through A, which makes {rank} numbers of {inputs}, then B, which makes {outputs} of "
        f"{rank}. The second way is multiplied by {scale:g} and added to the first. W has "
        f"{inputs * outputs:,} numbers, A and B together {rank * (inputs + outputs):,}. B starts at 0, so "
        "step 0 changes nothing."
    )


def draw_ends(picture: Picture, inputs: int, outputs: int) -> None:
    """What goes in and what comes out, as upright bars."""
    picture.open("ends")
    for x, name, size in ((44, "x", inputs), (590, "output", outputs)):
        top = CENTER - SIDE / 2
        picture.rect(x, top, 16, SIDE, fill=WHITE)
        picture.text(x + 8, top - 10, name, 16, anchor="middle", font_weight="bold")
        picture.text(x + 8, top + SIDE + 22, str(size), 14, anchor="middle", fill=QUIET)
    picture.arrow([(62, UPPER + 30), (120, UPPER + 30), (120, UPPER), (198, UPPER)])
    picture.arrow([(62, LOWER - 30), (120, LOWER - 30), (120, LOWER), (168, LOWER)])
    picture.close()


def draw_frozen(picture: Picture, inputs: int, outputs: int) -> None:
    """W, with a snowflake."""
    left, top = 202, UPPER - SIDE / 2
    picture.open("frozen")
    picture.rect(left, top, SIDE, SIDE, rx=2, fill=PALE, stroke_dasharray="7 4")
    draw_snowflake(picture, left + SIDE - 24, top + 24, 13)
    picture.text(left + SIDE / 2, UPPER + 2, "W", 26, anchor="middle", font_weight="bold", fill=DARK)
    picture.text(left + SIDE / 2, UPPER + 27, f"{outputs} × {inputs}", 15, anchor="middle")
    picture.text(left + SIDE / 2, UPPER + 50, "frozen", 15, anchor="middle", font_weight="bold")
    picture.arrow([(left + SIDE + 3, UPPER), (SUM, UPPER), (SUM, CENTER - 17)])
    picture.close()


def draw_snowflake(picture: Picture, x: float, y: float, radius: float) -> None:
    """Three strokes through a point, each with a small branch near its ends."""
    for along_x, along_y in ((0, 1), (0.866, 0.5), (0.866, -0.5)):
        ends = [(x + side * radius * along_x, y + side * radius * along_y) for side in (-1, 1)]
        picture.line(ends, stroke_width=1.8)
        for side in (-1, 1):
            root_x, root_y = x + side * radius * 0.55 * along_x, y + side * radius * 0.55 * along_y
            for turn in (-0.5, 0.5):  # of the branch, to the left and to the right of its stroke
                tip_x = root_x + side * radius * 0.38 * (along_x - 1.7 * turn * along_y)
                tip_y = root_y + side * radius * 0.38 * (along_y + 1.7 * turn * along_x)
                picture.line([(root_x, root_y), (tip_x, tip_y)], stroke_width=1.5)


def draw_trained(picture: Picture, inputs: int, outputs: int, rank: int) -> None:
    """A, which narrows to the rank, and B, which widens again."""
    half, thin = SIDE / 2, SIDE * rank / inputs / 2
    wide = SIDE * outputs / inputs / 2
    edge = {"fill": WHITE, "stroke": MIDDLE, "stroke_width": 3}
    picture.open("trained")
    for name, left, (before, after), size in (
        ("A", 172, (half, thin), f"{rank} × {inputs}"),
        ("B", 312, (thin, wide), f"{outputs} × {rank}"),
    ):
        right = left + 116
        corners = [
            (left, LOWER - before),
            (right, LOWER - after),
            (right, LOWER + after),
            (left, LOWER + before),
        ]
        picture.polygon(corners, **edge)
        x = left + 41 if name == "A" else right - 41
        picture.text(x, LOWER, name, 24, anchor="middle", font_weight="bold", fill=MIDDLE)
        picture.text(x, LOWER + 22, size, 13, anchor="middle")
    picture.arrow([(291, LOWER), (310, LOWER)], color=MIDDLE)
    picture.text(300, LOWER - 30, f"r = {rank}", 15, anchor="middle", font_weight="bold")
    picture.line([(300, LOWER - 24), (300, LOWER - 8)], stroke=QUIET, stroke_width=1)
    picture.text(300, LOWER + 54, "trained", 15, anchor="middle", font_weight="bold", fill=MIDDLE)
    picture.close()


def draw_sum(picture: Picture, scale: float) -> None:
    """The scale of the LoRA, and the sum of the two ways."""
    picture.open("sum")
    picture.arrow([(431, LOWER), (SUM, LOWER), (SUM, CENTER + 17)], color=MIDDLE)
    picture.rect(446, LOWER - 16, 50, 32, stroke=MIDDLE, rx=16)
    picture.text(471, LOWER + 5, f"× {scale:g}", 15, anchor="middle", font_weight="bold")
    picture.text(471, LOWER + 36, "alpha / r", 14, anchor="middle", fill=QUIET)
    picture.circle(SUM, CENTER, 15, stroke_width=2)
    picture.line([(SUM - 8, CENTER), (SUM + 8, CENTER)])
    picture.line([(SUM, CENTER - 8), (SUM, CENTER + 8)])
    picture.arrow([(SUM + 17, CENTER), (588, CENTER)])
    picture.close()


def draw_counts(picture: Picture, inputs: int, outputs: int, rank: int) -> None:
    """Right: how many numbers each has, and how it starts."""
    whole, a, b = inputs * outputs, rank * inputs, rank * outputs
    left, width = 656, 264
    picture.open("counts")
    picture.rect(left, 58, width, 74, fill=PALE, stroke_dasharray="7 4")
    picture.lines(left + 16, 90, [f"W: {whole:,} numbers", "stay as they are"], 16)
    picture.rect(left, 146, width, 118, stroke=MIDDLE, stroke_width=3)
    picture.lines(left + 16, 178, [f"A: {a:,}", f"B: {b:,}", f"together {a + b:,} numbers,"], 16)
    picture.text(left + 16, 178 + 3 * 16 * 1.35, f"{(a + b) / whole:.1%} of W", 16, font_weight="bold")
    picture.rect(left, 278, width, 110, fill=LIT)
    picture.text(left + 16, 306, "B starts at 0", 16, font_weight="bold")
    picture.lines(
        left + 16,
        330,
        ["B A is 0 too: at step 0", "nothing changes, and the", "layer gives W x as before"],
        16,
    )
    picture.close()
