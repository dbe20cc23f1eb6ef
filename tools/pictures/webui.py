"""Four tabs of text-generation-webui, the WebUI, drawn by the kit: only what a participant uses there.

The names of tabs, fields and buttons are those of version 4.7.3 (May 2026). The values are the lessons'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helpers.weights.embedded import GENERATION
from tools.pictures.facts import ANSWER, ASKED, MODEL, read_settings
from tools.pictures.svg import DARK, LIT, PALE, QUIET, WHITE, Picture

PANEL_WIDTH, PANEL_HEIGHT = 440, 344
TABS = ("Chat", "Parameters", "Model", "Training", "Session")
LORA = "college-preferences"
ROW = 38  # from a line of fields to the next
FIELD = 160  # where fields begin
VERSION = "text-generation-webui 4.7.3"


@dataclass
class Panel:
    """A window of the WebUI that is being drawn: its corner, the next line, and the next click's number."""

    picture: Picture
    x: float
    y: float
    clicks: int = 0

    def draw_frame(self, tab: str) -> None:
        """The window and its tabs, the open one lit."""
        self.picture.rect(self.x, self.y, PANEL_WIDTH, PANEL_HEIGHT, rx=8, stroke_width=1.5)
        self.picture.rect(self.x + 1, self.y + 1, PANEL_WIDTH - 2, 38, fill=PALE, stroke="none", rx=7)
        left = self.x + 10
        for name in TABS:
            width = 24 + 7.9 * len(name)
            if name == tab:
                self.picture.rect(left, self.y + 6, width, 34, rx=4, fill=WHITE)
                self.picture.rect(left + 1, self.y + 34, width - 2, 8, rx=0, fill=WHITE, stroke="none")
            bold = {"font_weight": "bold"} if name == tab else {}
            self.picture.text(left + width / 2, self.y + 27, name, 13, anchor="middle", **bold)
            left += width + 2
        self.y += 52

    def mark_click(self, x: float, y: float) -> None:
        """The number of a click, in a dark circle."""
        self.clicks += 1
        self.picture.circle(x, y, 11, fill=DARK, stroke="none")
        self.picture.text(x, y + 5, str(self.clicks), 13, anchor="middle", fill=WHITE, font_weight="bold")

    def draw_label(self, words: str, size: int = 13, **attributes: str) -> None:
        """Words at the left of the line."""
        self.picture.text(self.x + 16, self.y + 19, words, size, **attributes)

    def draw_field(self, name: str, value: str, kind: str = "") -> None:
        """A line with a field to click: a text, a list (kind ▾), or a list and its refresh button (↻)."""
        self.draw_label(name)
        self.draw_value(FIELD, value, kind, 224)
        self.mark_click(self.x + PANEL_WIDTH - 22, self.y + 14)
        self.y += ROW

    def draw_value(self, left: float, value: str, kind: str, width: float) -> None:
        """A field of the line."""
        list_width = width - (34 if kind == "↻" else 0)
        self.picture.rect(self.x + left, self.y, list_width, 28, rx=4, stroke=QUIET, stroke_width=1)
        self.picture.text(self.x + left + 10, self.y + 19, value, 13)
        if kind:
            right = self.x + left + list_width
            self.picture.polygon(
                [(right - 19, self.y + 11), (right - 9, self.y + 11), (right - 14, self.y + 18)], fill=DARK
            )
        if kind == "↻":
            self.picture.rect(self.x + left + width - 28, self.y, 28, 28, rx=4, fill=PALE, stroke="none")
            self.picture.text(self.x + left + width - 14, self.y + 20, "↻", 16, anchor="middle")

    def draw_pair(self, first: tuple[str, str], second: tuple[str, str]) -> None:
        """A line with two short fields, (name, value) each."""
        self.draw_label(first[0])
        self.draw_value(FIELD, first[1], "", 70)
        self.picture.text(self.x + FIELD + 82, self.y + 19, second[0], 13)
        self.draw_value(FIELD + 82 + 88, second[1], "", 54)
        self.y += ROW

    def draw_button(self, words: str, left: float = FIELD, click: bool = True) -> float:
        """A button, on the line; returns where the next one may begin."""
        width = 24 + 7.9 * len(words)
        self.picture.rect(self.x + left, self.y, width, 28, rx=4, fill=LIT)
        self.picture.text(
            self.x + left + width / 2, self.y + 19, words, 13, anchor="middle", font_weight="bold"
        )
        if click:
            self.mark_click(self.x + left + width + 16, self.y + 14)
        return left + width + 36

    def draw_fold(self, name: str, click: bool = True) -> None:
        """A line that is closed at first: a click on it shows what comes below."""
        x, y = self.x + 18, self.y + 14
        self.picture.polygon([(x, y - 6), (x + 9, y), (x, y + 6)], fill=DARK)
        self.picture.text(x + 18, y + 5, name, 13)
        if click:
            self.mark_click(x + 34 + 7.9 * len(name), y)
        self.y += ROW - 4

    def draw_choice(self, left: float, names: Sequence[str]) -> None:
        """Round buttons on the line, of which the first is chosen."""
        for place, name in enumerate(names):
            x, y = self.x + left + 8, self.y + 14
            self.picture.circle(x, y, 8, stroke_width=1)
            if place == 0:
                self.picture.circle(x, y, 4, fill=DARK)
            bold = {"font_weight": "bold"} if place == 0 else {}
            self.picture.text(x + 14, y + 5, name, 13, **bold)
            left += 30 + 7.4 * len(name)

    def draw_ticks(self, left: float, ticks: Sequence[tuple[str, bool]]) -> None:
        """Boxes to tick on the line, each with its name."""
        for name, ticked in ticks:
            x, y = self.x + left, self.y + 6
            self.picture.rect(x, y, 16, 16, rx=2, fill=DARK if ticked else WHITE, stroke_width=1)
            if ticked:
                self.picture.line([(x + 3, y + 8), (x + 7, y + 12), (x + 13, y + 4)], stroke=WHITE)
            bold = {"font_weight": "bold"} if ticked else {}
            self.picture.text(x + 23, y + 13, name, 13, **bold)
            left += 46 + 7.9 * len(name)

    def draw_slider(self, name: str, value: float) -> None:
        """A line with a slider from 0 to 1."""
        self.draw_label(name)
        left, right = self.x + FIELD, self.x + FIELD + 164
        self.picture.line([(left, self.y + 14), (right, self.y + 14)], stroke=QUIET, stroke_width=4)
        self.picture.circle(left + value * (right - left), self.y + 14, 8, fill=DARK)
        self.draw_value(FIELD + 176, f"{value:g}", "", 48)
        self.y += ROW


def draw_model(panel: Panel) -> None:
    """The Model tab: load a model, put a LoRA on it, download one."""
    panel.draw_frame("Model")
    panel.draw_field("Model", MODEL, "↻")
    panel.draw_field("Model loader", "Transformers", "▾")
    panel.draw_button("Load")
    panel.y += ROW - 4
    panel.draw_fold("See more options")
    panel.draw_field("LoRA(s)", LORA, "↻")
    panel.draw_button("Apply LoRAs")
    panel.y += ROW + 2
    panel.picture.line([(panel.x + 16, panel.y), (panel.x + PANEL_WIDTH - 16, panel.y)], stroke=PALE)
    panel.y += 12
    panel.draw_label("Download (a tab)")
    panel.draw_value(FIELD, "owner/name:branch", "", 164)
    panel.draw_button("Download", FIELD + 172, click=False)


def draw_session(panel: Panel) -> None:
    """The Session tab: the API is a flag today; in 2023 there were two extensions."""
    panel.draw_frame("Session")
    panel.draw_label("Boolean command-line flags", 14, font_weight="bold")
    panel.y += 28
    panel.draw_ticks(16, [("api", True), ("listen", False), ("verbose", False)])
    panel.mark_click(panel.x + 292, panel.y + 14)
    panel.y += ROW
    panel.draw_button("Apply flags/extensions and restart", 16)
    panel.y += ROW + 6
    panel.draw_label("The API then answers at port 5000.")
    panel.y += 36
    panel.picture.line([(panel.x + 16, panel.y), (panel.x + PANEL_WIDTH - 16, panel.y)], stroke=PALE)
    panel.y += 6
    panel.draw_label("In 2023, under Available extensions:", fill=QUIET)
    panel.y += 26
    panel.draw_ticks(16, [("api", True), ("openai", True)])
    panel.y += 26
    panel.draw_label("raw API at port 5000, OpenAI style at 5001", fill=QUIET)


def draw_training(panel: Panel) -> None:
    """The Training tab, with the lane's settings."""
    settings = read_settings()
    panel.draw_frame("Training")
    panel.draw_field("Name", LORA)
    panel.draw_fold("Target Modules: all linear layers is ticked", click=False)
    panel.draw_pair(("LoRA Rank", str(settings.lora_r)), ("LoRA Alpha", str(settings.lora_alpha)))
    panel.draw_pair(("Learning Rate", f"{settings.learning_rate:g}"), ("Epochs", f"{settings.epochs:g}"))
    panel.draw_label("Chat Dataset (a tab)", fill=QUIET)
    panel.y += 26
    panel.draw_field("Dataset File", LORA, "▾")
    panel.draw_field("Instruction Template", "Chat Template", "▾")
    left = panel.draw_button("Start LoRA Training", 100)
    panel.draw_button("Interrupt", left, click=False)


def draw_chat(panel: Panel) -> None:
    """The Chat tab, and two of the sliders of Parameters."""
    panel.draw_frame("Chat")
    panel.draw_label("Mode")
    panel.draw_choice(70, ("instruct", "chat-instruct", "chat"))
    panel.mark_click(panel.x + PANEL_WIDTH - 22, panel.y + 14)
    panel.y += ROW
    panel.picture.rect(panel.x + 16, panel.y, PANEL_WIDTH - 32, 62, rx=4, fill=LIT, stroke="none")
    panel.picture.text(panel.x + 28, panel.y + 25, f"You: {ASKED[-1]['content']}", 13)
    panel.picture.text(panel.x + 28, panel.y + 48, f"AI: {ANSWER}", 13, font_weight="bold")
    panel.y += 74
    panel.draw_value(16, "Send a message", "", 260)
    panel.draw_button("Send", 290)
    panel.y += ROW + 4
    panel.picture.line([(panel.x + 16, panel.y), (panel.x + PANEL_WIDTH - 16, panel.y)], stroke=PALE)
    panel.y += 6
    panel.draw_label("In the Parameters tab:", fill=QUIET)
    panel.y += 28
    panel.draw_slider("temperature", float(GENERATION["temperature"]))
    panel.y -= 4
    panel.draw_slider("top_p", float(GENERATION["top_p"]))


PANELS: dict[str, tuple[Callable[[Panel], None], str]] = {
    "model": (
        draw_model,
        "Model tab: choose the model, its loader, press Load; open See more options, choose a LoRA, press "
        "Apply LoRAs. Below, the tab Download takes owner, name and branch.",
    ),
    "session": (
        draw_session,
        "Session tab: tick api among the Boolean command-line flags, press Apply flags/extensions and "
        "restart. In 2023, api and openai were ticked among the extensions.",
    ),
    "training": (
        draw_training,
        "Training tab: name of the LoRA, Target Modules with all linear layers ticked, rank, alpha, learning "
        "rate, epochs; in the tab Chat Dataset the file and its template; the button Start LoRA Training.",
    ),
    "chat": (
        draw_chat,
        "Chat tab: mode instruct, a question and its answer, the field for a message and Send. In the "
        "Parameters tab, temperature and top_p.",
    ),
}
HONEST = (
    "Drawn by this kit, not a screenshot.",
    f"Names as in {VERSION};",
    "only what the lessons use; numbers: the order of clicks.",
)


def draw_tab(name: str) -> Picture:
    """One of the tabs."""
    draw, words = PANELS[name]
    alt = f"The WebUI, as a drawing. {words}"
    picture = Picture(f"The WebUI: {name}, drawn", alt, PANEL_WIDTH + 40, PANEL_HEIGHT + 98)
    draw(Panel(picture, 20, 20))
    picture.lines(24, PANEL_HEIGHT + 48, HONEST, 13, fill=QUIET)
    return picture
