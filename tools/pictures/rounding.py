"""Rounding a group of weights to 4 bits, each by itself, and as GPTQ does it."""

from dataclasses import dataclass

import numpy as np

from tools.pictures.svg import DARK, LIT, MIDDLE, PALE, QUIET, WHITE, Picture

WIDTH, HEIGHT = 940, 500
# Made up, so that all errors point the same way, which is when GPTQ gains most.
WEIGHTS = np.array([0.22, -0.14, 0.105, -0.4, 0.27, 0.5, -0.02, 0.335])
ALIKE = 0.8  # correlation of any two of the layer's inputs, each of which has a mean square of 1
LEVELS = 16  # of 4 bits
LEFT, COLUMN = 152, 60  # where the first weight is, and from weight to weight
RIGHT = 640  # where the words about each line begin
AXIS = (152, 572)  # ends of the line of levels


@dataclass(frozen=True)
class Rounded:
    """A group in 4 bits: codes from 0 to 15, and what they are worth."""

    codes: np.ndarray
    values: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """The weights less their rounded values."""
        return WEIGHTS - self.values

    def measure_output_error(self) -> float:
        """Root mean square of what the errors change in the layer's output."""
        return float(self.errors @ relate_inputs() @ self.errors) ** 0.5


def relate_inputs() -> np.ndarray:
    """Mean products of each two inputs: GPTQ's matrix H, but for a factor."""
    return np.where(np.eye(len(WEIGHTS)) == 1, 1.0, ALIKE)


def find_grid() -> tuple[float, float]:
    """(lowest level, step from level to level) of the group."""
    return float(WEIGHTS.min()), float(WEIGHTS.max() - WEIGHTS.min()) / (LEVELS - 1)


def find_code(value: float) -> int:
    """The number of the nearest level."""
    lowest, step = find_grid()
    return int(np.clip(round((value - lowest) / step), 0, LEVELS - 1))


def read_codes(codes: list[int]) -> Rounded:
    """The group with these codes."""
    lowest, step = find_grid()
    return Rounded(np.array(codes), lowest + step * np.array(codes))


def round_each() -> Rounded:
    """Each weight to its nearest level."""
    return read_codes([find_code(weight) for weight in WEIGHTS])


def round_as_gptq() -> tuple[Rounded, np.ndarray]:
    """One weight after the other; its error moves those not yet rounded. Also how the first one moves them.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022, algorithm 1.
    """
    lowest, step = find_grid()
    factor = np.linalg.cholesky(np.linalg.inv(relate_inputs())).T
    weights, codes, first_moves = WEIGHTS.copy(), [], np.zeros(len(WEIGHTS))
    for place, _ in enumerate(WEIGHTS):
        codes.append(find_code(weights[place]))
        error = (weights[place] - lowest - step * codes[-1]) / factor[place, place]
        moves = -error * factor[place, place + 1 :]
        weights[place + 1 :] += moves
        if place == 0:
            first_moves[1:] = moves
    return read_codes(codes), first_moves


def draw_rounding() -> Picture:
    """The picture."""
    each, (gptq, moves) = round_each(), round_as_gptq()
    picture = Picture("Rounding a group to 4 bits", describe(each, gptq), WIDTH, HEIGHT)
    draw_grid(picture, each)
    draw_rows(picture, each)
    draw_gptq(picture, each, gptq, moves)
    return picture


def describe(each: Rounded, gptq: Rounded) -> str:
    """The alt text."""
    lowest, step = find_grid()
    return (
        f"A group of {len(WEIGHTS)} weights between −{-lowest:.2f} and {WEIGHTS.max():.2f}. {LEVELS} "
        f"levels, {step:.2f} apart, lie between the two, and each weight becomes the number of its "
        f"nearest level, 0 to {LEVELS - 1}. Rounded each by itself, the errors add up to "
        f"{sign(each.errors.sum())}. GPTQ rounds one after the other and moves the others so that they "
        f"make up for the error; it picks another level for {(each.codes != gptq.codes).sum()} weights, "
        f"and the errors add up to {sign(gptq.errors.sum())}."
    )


def sign(value: float) -> str:
    """A number with its sign and three decimals; 0 without a sign."""
    return f"{value:+.3f}".replace("-", "−") if abs(value) >= 0.0005 else "0.000"


def find_place(value: float) -> float:
    """Where a value lies on the line of levels."""
    lowest, step = find_grid()
    return AXIS[0] + (value - lowest) / (step * (LEVELS - 1)) * (AXIS[1] - AXIS[0])


def draw_grid(picture: Picture, each: Rounded) -> None:
    """The line of levels with their numbers; weights as dots above, with an arrow to their level."""
    _, step = find_grid()
    picture.open("levels")
    picture.text(24, 38, "A group of weights in 4 bits", 17, font_weight="bold", fill=DARK)
    picture.line([(AXIS[0] - 8, 112), (AXIS[1] + 8, 112)])
    for code in range(LEVELS):
        x = AXIS[0] + code * (AXIS[1] - AXIS[0]) / (LEVELS - 1)
        used = code in each.codes
        picture.line([(x, 105), (x, 119)], stroke_width=3 if used else 1.5)
        weight = {"font_weight": "bold"} if used else {"fill": QUIET}
        picture.text(x, 136, str(code), 13, anchor="middle", **weight)
    for weight, value in zip(WEIGHTS, each.values, strict=True):
        picture.line([(find_place(weight), 76), (find_place(value), 103)], stroke=MIDDLE, stroke_width=1.5)
        picture.circle(find_place(weight), 74, 5, fill=MIDDLE, stroke=WHITE)
    picture.text(24, 79, "weights", 14)
    picture.text(24, 117, "16 levels", 14)
    kept = [
        f"{step:.2f} from level to level. Stored once",
        "for the group: this step and the",
        "smallest weight.",
    ]
    picture.lines(RIGHT, 74, kept, 14)
    picture.text(RIGHT, 130, f"{len(WEIGHTS)} chosen weights; really 32 to 128.", 14, fill=QUIET)
    picture.close()


def draw_rows(picture: Picture, each: Rounded) -> None:
    """The group in numbers: weights, codes, the decoded weights, errors."""
    picture.open("each")
    draw_row(picture, 172, "weight", [sign(weight) for weight in WEIGHTS])
    draw_codes(picture, 206, "code", each.codes, each.codes)
    draw_row(picture, 240, "decoded", [sign(value) for value in each.values])
    draw_row(picture, 272, "error", [sign(error) for error in each.errors], MIDDLE)
    picture.text(RIGHT, 206, "the nearest level: 4 bits", 14)
    picture.text(RIGHT, 240, "smallest weight + step × code", 14)
    total = f"they add up to {sign(each.errors.sum())}"
    picture.text(RIGHT, 272, total, 15, font_weight="bold", fill=MIDDLE)
    picture.close()


def draw_row(picture: Picture, y: float, name: str, words: list[str], ink: str = DARK) -> None:
    """A line of the table: its name, and a number for each weight."""
    picture.text(24, y, name, 14, font_weight="bold")
    for place, word in enumerate(words):
        picture.text(LEFT + place * COLUMN, y, word, 14, anchor="middle", fill=ink)


def draw_codes(picture: Picture, y: float, name: str, codes: np.ndarray, before: np.ndarray) -> None:
    """A line of codes in boxes; those that differ from `before` have a thick edge."""
    picture.text(24, y, name, 14, font_weight="bold")
    for place, (code, old) in enumerate(zip(codes, before, strict=True)):
        x = LEFT + place * COLUMN
        edge = {"stroke": MIDDLE, "stroke_width": 3.5} if code != old else {"stroke_width": 1}
        picture.rect(x - 20, y - 17, 40, 24, rx=4, fill=LIT, **edge)
        picture.text(x, y, str(code), 14, anchor="middle", font_weight="bold")


def draw_gptq(picture: Picture, each: Rounded, gptq: Rounded, moves: np.ndarray) -> None:
    """Below: what GPTQ does first, and what it arrives at."""
    picture.open("gptq")
    picture.line([(24, 294), (916, 294)], stroke=PALE, stroke_width=2)
    picture.text(24, 324, "GPTQ: one after the other", 17, font_weight="bold", fill=DARK)
    draw_first(picture, each, gptq, moves)
    draw_codes(picture, 418, "code", gptq.codes, each.codes)
    draw_row(picture, 452, "error", [sign(error) for error in gptq.errors], MIDDLE)
    picture.text(RIGHT, 418, f"{(gptq.codes != each.codes).sum()} weights take another level", 14)
    total = f"they add up to {sign(gptq.errors.sum())}"
    picture.text(RIGHT, 452, total, 15, font_weight="bold", fill=MIDDLE)
    before, after = each.measure_output_error(), gptq.measure_output_error()
    words = f"Error of the layer's output, for inputs that rise and fall together (correlation {ALIKE}):"
    picture.text(24, 484, f"{words} each by itself {before:.3f}, GPTQ {after:.3f}", 14)
    picture.close()


def draw_first(picture: Picture, each: Rounded, gptq: Rounded, moves: np.ndarray) -> None:
    """The first weight is rounded, and its error moves the others."""
    picture.text(24, 366, "first weight", 14, font_weight="bold")
    picture.rect(LEFT - 20, 349, 40, 24, rx=4, fill=LIT, stroke_width=1)
    picture.text(LEFT, 366, str(gptq.codes[0]), 14, anchor="middle", font_weight="bold")
    end = LEFT + (len(WEIGHTS) - 1) * COLUMN
    picture.line([(LEFT, 348), (LEFT, 340), (end, 340)], stroke=MIDDLE)
    for place in range(1, len(WEIGHTS)):
        x = LEFT + place * COLUMN
        picture.arrow([(x, 340), (x, 360)], color=MIDDLE)
        picture.text(x, 378, sign(moves[place]), 14, anchor="middle", fill=MIDDLE)
    made_good = [
        f"It lost {each.errors[0]:.3f}: the others, not yet",
        "rounded, are moved to make up for it.",
        "Then the second, and so on.",
    ]
    picture.lines(RIGHT, 349, made_good, 14)
