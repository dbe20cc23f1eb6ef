"""A decoder layer: norms, attention, MLP and the residual stream, with the seven layers that get a LoRA."""

from helpers.common.training_settings import ALL_LINEAR
from helpers.weights.shape import Shape
from helpers.weights.step_memory import count_lora_parameters
from tools.pictures.facts import read_model_shape, read_settings
from tools.pictures.svg import DARK, INK, LIT, MIDDLE, PALE, QUIET, WHITE, Picture

WIDTH, HEIGHT = 940, 452
STREAM = 92  # height of the residual stream
NORM = 128  # and of the upper edge of the norms
MATRIX, TALL = 94, 50  # a projection's box
Q, K, V = 176, 242, 308  # heights of the middles of the attention's projections
GATE, UP = 199, 285  # and of the MLP's


def draw_layer() -> Picture:
    """The picture, with the shapes of the embedded model and the numbers of the lane's LoRA."""
    shape, rank = read_model_shape(), read_settings().lora_r
    picture = Picture("A decoder layer and its seven projections", describe(shape), WIDTH, HEIGHT)
    picture.text(24, 38, f"One of the model's {shape.layers} layers", 17, font_weight="bold", fill=DARK)
    draw_stream(picture, shape)
    draw_attention(picture, shape)
    draw_mlp(picture, shape)
    draw_legend(picture, shape, rank)
    return picture


def describe(shape: Shape) -> str:
    """The alt text."""
    sizes = ", ".join(
        f"{name} {inputs} to {outputs}" for name, (inputs, outputs) in shape.list_linears().items()
    )
    return (
        f"One of {shape.layers} decoder layers. A stream of {shape.hidden} numbers per token runs through. "
        "Attention and MLP each read it through a norm and add to it. A LoRA on all linear layers sits "
        f"on the seven projections, inputs to outputs: {sizes}; not on the norms. Attention has "
        f"{shape.heads} heads of {shape.head_size} numbers, which share {shape.kv_heads} heads of keys "
        "and values."
    )


def draw_stream(picture: Picture, shape: Shape) -> None:
    """The residual stream, from left to right, and the two sums on it."""
    picture.open("stream")
    for start, end in ((24, 478), (506, 878)):
        picture.line([(start, STREAM), (end, STREAM)], stroke_width=6)
    picture.arrow([(906, STREAM), (932, STREAM)], width=5)
    picture.text(24, STREAM - 14, f"residual stream: {shape.hidden} numbers per token", 14)
    for x in (492, 892):
        picture.circle(x, STREAM, 13, stroke_width=2.5)
        picture.line([(x - 7, STREAM), (x + 7, STREAM)])
        picture.line([(x, STREAM - 7), (x, STREAM + 7)])
    picture.close()


def draw_attention(picture: Picture, shape: Shape) -> None:
    """The left half: norm, q k v, attention, o."""
    linears = shape.list_linears()
    picture.open("attention")
    draw_norm(picture, 60, (Q, K, V), 122)
    for name, y in (("q_proj", Q), ("k_proj", K), ("v_proj", V)):
        draw_matrix(picture, 122, y, name, linears[name])
        picture.arrow([(122 + MATRIX + 2, y), (246, y)])
    picture.rect(248, Q - 25, 112, V - Q + 50, fill=LIT)
    picture.text(304, K - 34, "attention", 15, anchor="middle", font_weight="bold")
    heads = [
        f"{shape.heads} query heads",
        f"of {shape.head_size} share {shape.kv_heads}",
        "heads of keys",
        "and values",
    ]
    picture.lines(304, K - 8, heads, 13, anchor="middle")
    picture.arrow([(362, K), (384, K)])
    draw_matrix(picture, 386, K, "o_proj", linears["o_proj"])
    picture.arrow([(386 + MATRIX, K), (492, K), (492, STREAM + 15)])
    picture.close()


def draw_mlp(picture: Picture, shape: Shape) -> None:
    """The right half: norm, gate and up, down."""
    linears = shape.list_linears()
    picture.open("mlp")
    draw_norm(picture, 542, (GATE, UP), 596)
    for name, y in (("gate_proj", GATE), ("up_proj", UP)):
        draw_matrix(picture, 596, y, name, linears[name])
    picture.arrow([(692, GATE), (748, GATE), (748, K - 17)])
    picture.arrow([(692, UP), (748, UP), (748, K + 17)])
    picture.box((698, GATE - 13, 44, 26), ["SiLU"], 13, fill=LIT)
    picture.circle(748, K, 15, stroke_width=2)
    picture.text(748, K + 6, "×", 18, anchor="middle", font_weight="bold")
    picture.arrow([(765, K), (784, K)])
    draw_matrix(picture, 786, K, "down_proj", linears["down_proj"])
    picture.arrow([(786 + MATRIX, K), (892, K), (892, STREAM + 15)])
    picture.close()


def draw_norm(picture: Picture, x: float, heights: tuple[int, ...], end: float) -> None:
    """A norm that reads the stream, and the ways from it to the projections at these heights."""
    picture.arrow([(x, STREAM), (x, NORM - 2)])
    picture.box((x - 30, NORM, 60, 28), ["norm"], 14, stroke=QUIET, stroke_dasharray="4 3")
    picture.line([(x, NORM + 28), (x, heights[-1])])
    for height in heights:
        picture.arrow([(x, height), (end - 2, height)])


def draw_matrix(picture: Picture, x: float, y: float, name: str, size: tuple[int, int]) -> None:
    """A projection with its inputs and outputs, and the mark of a LoRA."""
    picture.rect(x, y - TALL / 2, MATRIX, TALL, rx=2, fill=PALE, stroke_width=2)
    picture.text(x + MATRIX / 2, y - 3, name, 14, anchor="middle", font_weight="bold")
    picture.text(x + MATRIX / 2, y + 16, f"{size[0]} → {size[1]}", 13, anchor="middle", fill=INK)
    draw_mark(picture, x + 12, y - TALL / 2)


def draw_mark(picture: Picture, x: float, y: float) -> None:
    """Two thin bars across an edge, as the A and B of a LoRA."""
    picture.rect(x - 7, y - 9, 6, 18, rx=1, fill=WHITE, stroke=MIDDLE, stroke_width=2)
    picture.rect(x + 2, y - 9, 6, 18, rx=1, fill=WHITE, stroke=MIDDLE, stroke_width=2)


def draw_legend(picture: Picture, shape: Shape, rank: int) -> None:
    """Below: what the mark means, and what a LoRA on all linear layers costs."""
    linears = shape.list_linears()
    trained = count_lora_parameters(shape, rank, ALL_LINEAR)
    frozen = shape.layers * sum(inputs * outputs for inputs, outputs in linears.values())
    picture.open("legend")
    picture.text(230, 370, "attention: looks at this token and those before", 14, anchor="middle", fill=QUIET)
    picture.text(720, 370, "MLP: each token by itself", 14, anchor="middle", fill=QUIET)
    picture.rect(24, 388, 892, 48, stroke=MIDDLE, stroke_width=2)
    draw_mark(picture, 48, 412)
    words = f"a LoRA (r = {rank}) on all linear layers trains {trained:,} numbers, {trained / frozen:.1%} of"
    picture.text(66, 417, f"{words} the {frozen:,} in these matrices", 15)
    picture.close()
