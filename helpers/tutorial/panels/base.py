"""ipywidgets for the notebooks: what a user clicks, wired to the calls that the notebooks teach.

Here is what the four panels (model_panel, session_panel, training_panel, lora_panel) share, and the chat box of lesson 3. Only widgets that
ipywidgets brings itself are used, so that a panel works wherever ipywidgets does.
"""

import base64
import collections
import html
import threading
import time
from collections.abc import Callable

import ipywidgets

from helpers.common.errors import KitError
from helpers.common.paths import PROJECT

PICTURES = PROJECT / "notebooks" / "images"


NONE = (
    "none",
    "",
)  # an option for no LoRA; ipywidgets would show the value None as a list in which nothing is chosen


# A front end marks what has lost its kernel with this class; only then the sentence is shown.
STALE = """<style>.kit-stale {display: none} .jupyter-widgets-disconnected .kit-stale {display: block}</style>
<p class="kit-stale" role="alert"><b>Error:</b> the kernel was restarted, and this panel is without it. Run the panel's cell again.</p>"""


class Stopped(KitError):
    """Work that ended because the user asked for it."""


class Panel(ipywidgets.VBox):
    """Fields and buttons over calls of the helpers, and below them what happens, in words.

    Long work runs in a thread beside the kernel's front, one at a time, and can be stopped. No button is ever switched off, since that would take
    the keyboard's place away: one that has nothing to do says so. Subclasses set the class attributes.
    """

    title = ""  # its heading
    picture = ""  # a file below notebooks/images/, for pages that cannot show a panel
    alt = ""  # what the picture shows

    def __init__(self, *parts: ipywidgets.Widget):
        self.lines, self.progress = ipywidgets.HTML(), ipywidgets.HTML()
        self.said: collections.deque[str] = collections.deque(maxlen=3)
        self.doing, self.told = "", 0.0  # the work that runs, in words; when its progress was last shown
        self.asked_to_stop = threading.Event()
        self.work: threading.Thread | None = None
        super().__init__(
            [ipywidgets.HTML(f"<h3>{self.title}</h3>{STALE}"), *parts, self.progress, self.lines]
        )
        self.add_class("kit-panel")

    def say(self, words: str, role: str = "status") -> None:
        """Adds a sentence to the last ones below the panel; screen readers read it out. `role` is "alert" for what went wrong."""
        self.said.append(html.escape(words))
        *before, last = self.said
        self.lines.value = "".join(f"<p>{one}</p>" for one in before) + f'<p role="{role}"><b>{last}</b></p>'

    def make_buttons(self, **actions: Callable[[], None] | tuple[str, Callable[[], str]]) -> ipywidgets.HBox:
        """A row of buttons by name (an underscore is a space): each calls a function, or starts (what it does, in words; the work)."""
        buttons = [ipywidgets.Button(description=name.replace("_", " ")) for name in actions]
        for button, action in zip(buttons, actions.values(), strict=True):
            button.on_click(
                lambda _, action=action: self.start(*action) if isinstance(action, tuple) else action()
            )
        return ipywidgets.HBox(buttons)

    def start(self, doing: str, work: Callable[[], str]) -> None:
        """Begins `work` in a thread. What it returns is said at its end, or the KitError that it raises."""
        if self.doing:
            return self.say(f"{self.doing} is under way already: wait for its end, or press Stop.")
        self.doing = doing
        self.asked_to_stop.clear()
        self.say(f"{doing} ...")
        self.work = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.work.start()

    def _run(self, work: Callable[[], str]) -> None:
        role = "alert"
        try:
            words, role = f"Done: {work()}", "status"
        except Stopped as stop:
            words, role = f"Stopped: {stop}", "status"
        except KitError as error:
            words = f"Error: {error}"
        except Exception as error:  # in a thread it would go unseen, and the panel with it
            words = f"Error: {type(error).__name__}: {error}. The panel can be used again."
        self.progress.value, self.doing = "", ""
        self.say(words, role)

    def stop(self) -> None:
        """Asks the work that runs to end."""
        if not self.doing:
            return self.say("Nothing is running, so there is nothing to stop.")
        self.asked_to_stop.set()
        self.say(f"Stopping: {self.doing} ends as soon as it can.")

    def check_stop(self) -> None:
        """Raises Stopped when the end was asked for."""
        if self.asked_to_stop.is_set():
            raise Stopped(f"{self.doing} was ended.", "Press the button again to go on.")

    def tell(self, words: str, share: float) -> None:
        """Shows how far the work is, a few times a second (a bars.Report); ends it when that was asked for."""
        self.check_stop()
        if share >= 1 or time.monotonic() - self.told > 0.3:
            self.progress.value = (
                f'<label>{html.escape(words)}, {share:.0%} <progress value="{share:.3f}"></progress></label>'
            )
            self.told = time.monotonic()

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The widget; in its place, for pages that cannot show one, a sentence and a picture."""
        words = (
            f"{self.title}: this panel works while its notebook runs. Elsewhere a picture of it stands here."
        )
        path = PICTURES / self.picture
        data = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
        image = (
            f'<img alt="{html.escape(self.alt, quote=True)}" src="data:image/png;base64,{data}">'
            if data
            else ""
        )
        return {
            **(super()._repr_mimebundle_(**kwargs) or {}),
            "text/plain": words,
            "text/html": f"<p>{words}</p>{image}",
        }


def make_field(kind: type[ipywidgets.Widget], label: str, **settings) -> ipywidgets.Widget:
    """A field whose label is tied to it."""
    words = label if kind is ipywidgets.Checkbox else f"{label}:"
    return kind(
        description=words,
        style={"description_width": "11em"},
        layout={"width": "42em", "max_width": "100%"},
        **settings,
    )
