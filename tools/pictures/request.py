"""The path of a request: from a client through the server to the model, token by token, and back."""

from tools.pictures.facts import ASKED, read_facts
from tools.pictures.svg import CODE, DARK, LIT, MIDDLE, PALE, QUIET, Picture

WIDTH, HEIGHT = 940, 470
CLIENT = (20, 56, 236, 394)  # x, y, width, height
SERVER = (332, 56, 588, 394)
UPPER, LOWER = 84, 312  # upper edges of the server's two rows
ROW = 112  # their height
SHOWN = 3  # tokens of the prompt that are shown at its beginning, and at its end


def draw_request() -> Picture:
    """The picture; the tokens are those of the embedded model's chat template."""
    tokens = read_facts()["request"]
    picture = Picture("The path of a request", describe(len(tokens["ids"])), WIDTH, HEIGHT)
    draw_panel(picture, CLIENT, "client", "curl, Python, a page")
    draw_panel(picture, SERVER, "server", "")
    draw_question(picture)
    draw_prompt(picture, tokens["ids"])
    draw_loop(picture)
    draw_answer(picture, tokens["answer"])
    return picture


def describe(count: int) -> str:
    """The alt text."""
    return (
        "The path of a request. A client sends JSON with messages over HTTP. In the server a chat "
        f"template makes them one text, and the tokenizer makes that {count} tokens. The model, with its "
        "LoRA, gives the next token, which is appended to the tokens, again and again, until the token "
        "that ends the answer. Each token becomes text and goes back to the client at once as a line of "
        "the stream, or all of it at the end."
    )


def draw_panel(picture: Picture, place: tuple[int, int, int, int], name: str, kind: str) -> None:
    """A computer, or a program: a panel with its name above."""
    x, y, width, height = place
    picture.text(x + 4, y - 14, name, 17, font_weight="bold", fill=DARK)
    if kind:
        picture.text(x + 68, y - 14, kind, 14, fill=QUIET)
    picture.rect(x, y, width, height, rx=10, stroke_width=2)


def draw_question(picture: Picture) -> None:
    """What the client sends."""
    x, y, width, _ = CLIENT
    system, user = (message["content"] for message in ASKED)
    lines = [
        "POST /v1/chat/completions",
        '{"messages": [',
        '  {"role": "system",',
        f'   "content": "{system}"',
        '  }, {"role": "user",',
        f'   "content": "{user[:10]}',
        f'     {user[10:].strip()}"}}],',
        ' "stream": true}',
    ]
    picture.open("question")
    picture.rect(x + 12, y + 12, width - 24, 164, fill=PALE, stroke="none")
    picture.lines(x + 22, y + 34, lines, 13, font_family=CODE)
    middle = UPPER + ROW / 2
    picture.arrow([(x + width - 10, middle), (SERVER[0] + 16, middle)], width=3)
    picture.text((x + width + SERVER[0]) / 2, middle - 12, "HTTP", 14, anchor="middle", font_weight="bold")
    picture.close()


def draw_prompt(picture: Picture, ids: list[int]) -> None:
    """Upper row of the server: messages, chat template, tokens."""
    picture.open("prompt")
    written = ["writes them as one text:", "<|im_start|>user", f"{ASKED[-1]['content'][:10]} …"]
    cover(picture, 350, 128, "messages", ["a list:", "system, user"], 1)
    cover(picture, 512, 188, "chat template", written, 1)
    first, last = " ".join(map(str, ids[:SHOWN])), " ".join(map(str, ids[-SHOWN:]))
    cover(picture, 734, 166, "tokens", [f"{len(ids)} numbers:", f"{first} …", f"… {last}"], 1)
    for x, end in ((480, 510), (702, 732)):
        picture.arrow([(x, UPPER + ROW / 2), (end, UPPER + ROW / 2)])
    picture.close()


def cover(picture: Picture, x: float, width: float, name: str, lines: list[str], code: int = 9) -> None:
    """A box of the upper row: its name and lines below it, those from number `code` on as code."""
    picture.rect(x, UPPER, width, ROW)
    picture.text(x + 14, UPPER + 28, name, 15, font_weight="bold")
    for number, line in enumerate(lines):
        font = {"font_family": CODE} if number >= code else {}
        picture.text(x + 14, UPPER + 54 + number * 21, line, 13, **font)


def draw_loop(picture: Picture) -> None:
    """Right: the model with its LoRA, and the way of each new token back to the tokens."""
    picture.open("loop")
    x = 734
    picture.arrow([(x + 120, UPPER + ROW + 2), (x + 120, LOWER - 2)])
    picture.rect(x, LOWER, 166, ROW, fill=PALE, stroke_width=2)
    picture.text(x + 83, LOWER + 34, "model", 17, anchor="middle", font_weight="bold")
    picture.text(x + 83, LOWER + 56, "the weights", 14, anchor="middle")
    picture.rect(x + 26, LOWER + 68, 114, 30, stroke=MIDDLE, stroke_width=3)
    picture.text(x + 83, LOWER + 88, "+ LoRA", 15, anchor="middle", font_weight="bold", fill=MIDDLE)
    picture.arrow([(x - 2, LOWER + ROW / 2), (x - 28, LOWER + ROW / 2)])
    picture.box((576, LOWER + 20, 130, ROW - 40), ["next token", "the likeliest,", "or drawn"], 14, fill=LIT)
    picture.arrow([(641, LOWER + 18), (641, 258), (774, 258), (774, UPPER + ROW + 2)], width=3)
    picture.text(652, 247, "appended", 14)
    picture.text(652, 279, "again and again", 14, font_weight="bold")
    picture.close()


def draw_answer(picture: Picture, pieces: list[str]) -> None:
    """Lower left: the new tokens as text, and the lines of the stream that the client gets."""
    x, y, width, _ = CLIENT
    *words, end = pieces
    picture.open("answer")
    picture.arrow([(574, LOWER + ROW / 2), (548, LOWER + ROW / 2)])
    picture.rect(350, LOWER, 196, ROW)
    picture.text(364, LOWER + 28, "text", 15, font_weight="bold")
    left = 364.0
    for piece in words:
        wide = 14 + 8 * len(piece.strip())
        picture.rect(left, LOWER + 40, wide, 26, rx=4, fill=LIT, stroke_width=1)
        picture.text(left + wide / 2, LOWER + 58, piece.strip(), 13, anchor="middle", font_family=CODE)
        left += wide + 5
    picture.text(364, LOWER + 94, f"{end} ends it", 13)
    middle = LOWER + ROW / 2
    for offset in (-12, 0, 12):
        picture.arrow([(348, middle + offset), (x + width - 8, middle + offset)], stroke_dasharray="6 4")
    picture.text((x + width + SERVER[0]) / 2, middle - 26, "stream", 14, anchor="middle", font_weight="bold")
    picture.rect(x + 12, y + 200, width - 24, 116, fill=PALE, stroke="none")
    lines = [f'data: {{… "{piece}" …}}' for piece in words] + ["data: [DONE]"]
    picture.lines(x + 22, y + 224, lines, 13, font_family=CODE)
    picture.lines(x + 16, y + 346, ["without stream: one JSON,", "when all of it is there"], 14, fill=QUIET)
    picture.close()
