"""What the four panels share: fields with labels, buttons, work that can be stopped, and messages.

Only widgets that ipywidgets itself brings are used, so that a panel works wherever ipywidgets does.
"""

import base64
import collections
import html
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ipywidgets

from helpers.common.errors import KitError
from helpers.common.paths import PROJECT

PICTURES = PROJECT / "notebooks" / "images"
SHOW_EVERY_S = 0.3  # seconds between two updates of the progress bar

# An option for no LoRA: (what the list shows, its value). With the value None, ipywidgets would show a list
# in which nothing is chosen.
NONE = ("none", "")

# Jupyter gives a widget that has lost its kernel the class jupyter-widgets-disconnected; only then the
# sentence is visible.
STALE = """<style>
.kit-stale {display: none} .jupyter-widgets-disconnected .kit-stale {display: block}
</style>
<p class="kit-stale" role="alert"><b>Error:</b> the kernel was restarted, and this panel has lost its
connection. Run the panel's cell again.</p>"""

Work = Callable[[], str]  # long work; what it returns is said at its end
Action = Callable[[], None] | tuple[str, Work]  # what a button does, see Panel.make_buttons
Field = TypeVar("Field", bound=ipywidgets.DOMWidget)


class Stopped(KitError):
    """Work that ended because the user asked for it."""


class Panel(ipywidgets.VBox):
    """Fields and buttons for calls of the helpers, and below them messages that say what happens.

    Long work runs in a thread, so that the notebook stays usable. One piece of work runs at a time, and it
    can be stopped. No button is ever disabled, because a disabled button loses the keyboard's focus: a button
    that has nothing to do says so. Subclasses set the class attributes.
    """

    title = ""  # the panel's heading
    picture = ""  # a file in notebooks/images/, for pages that cannot show a panel
    alt = ""  # what the picture shows

    def __init__(self, *parts: ipywidgets.Widget):
        self.lines = ipywidgets.HTML()  # the last messages
        self.progress = ipywidgets.HTML()  # the progress bar, empty if there is none
        self.said: collections.deque[str] = collections.deque(maxlen=3)  # the last messages, as HTML
        self.doing = ""  # what the running work is called; empty if none runs
        self.progress_shown = 0.0  # when the progress bar was last updated, seconds
        self.asked_to_stop = threading.Event()
        self.work: threading.Thread | None = None
        heading = ipywidgets.HTML(f"<h3>{self.title}</h3>{STALE}")
        super().__init__([heading, *parts, self.progress, self.lines])
        self.add_class("kit-panel")

    def say(self, words: str, role: str = "status") -> None:
        """Adds a sentence to the last ones below the panel; screen readers read it out.

        `role` is "status", or "alert" for something that went wrong.
        """
        self.said.append(html.escape(words))
        *earlier, last = self.said
        paragraphs = [f"<p>{sentence}</p>" for sentence in earlier]
        paragraphs.append(f'<p role="{role}"><b>{last}</b></p>')
        self.lines.value = "".join(paragraphs)

    def make_buttons(self, **actions: Action) -> ipywidgets.HBox:
        """A row of buttons. The keyword is a button's label; an underscore becomes a space.

        An action is a function that is called at once, or a pair: what the work is called while it runs, and
        the function that does it in a thread. Example: `make_buttons(Ask=("Answering", self.answer),
        Stop=self.stop)`.
        """
        buttons = []
        for name, action in actions.items():
            button = ipywidgets.Button(description=name.replace("_", " "))
            button.on_click(self._make_handler(action))
            buttons.append(button)
        return ipywidgets.HBox(buttons)

    def _make_handler(self, action: Action) -> Callable[[ipywidgets.Button], None]:
        if isinstance(action, tuple):
            doing, work = action
            return lambda _: self.start(doing, work)
        return lambda _: action()

    def start(self, doing: str, work: Work) -> None:
        """Starts `work` in a thread. At its end, what it returns is said, or the error that it raised."""
        if self.doing:
            self.say(f"{self.doing} is already running. Wait until it ends, or press Stop.")
            return
        self.doing = doing
        self.asked_to_stop.clear()
        self.say(f"{doing} ...")
        self.work = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.work.start()

    def _run(self, work: Work) -> None:
        role = "alert"
        try:
            words = f"Done: {work()}"
            role = "status"
        except Stopped as stop:
            words = f"Stopped: {stop}"
            role = "status"
        except KitError as error:
            words = f"Error: {error}"
        except Exception as error:
            # In a thread nobody would see it, and the panel would seem to go on working.
            words = f"Error: {type(error).__name__}: {error}. You can use the panel again."
        self.progress.value = ""
        self.doing = ""
        self.say(words, role)

    def stop(self) -> None:
        """Asks the running work to end."""
        if not self.doing:
            self.say("Nothing is running, so there is nothing to stop.")
            return
        self.asked_to_stop.set()
        self.say(f"Stopping: {self.doing} ends as soon as it can.")

    def check_stop(self) -> None:
        """Raises Stopped if the user has asked the work to end."""
        if self.asked_to_stop.is_set():
            raise Stopped(f"{self.doing} did not finish.", "Press the button again to continue.")

    def show_progress(self, words: str, share: float) -> None:
        """Shows how far the work is, a few times a second; `share` is between 0 and 1.

        It is a helpers.common.progress.Report, and raises Stopped if the user has asked the work to end.
        """
        self.check_stop()
        now = time.monotonic()
        if share < 1 and now - self.progress_shown <= SHOW_EVERY_S:
            return
        bar = f'<progress value="{share:.3f}"></progress>'
        self.progress.value = f"<label>{html.escape(words)}, {share:.0%} {bar}</label>"
        self.progress_shown = now

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """IPython's display protocol: the widget, and a sentence and a picture for pages without widgets."""
        words = f"{self.title}: this panel works while its notebook is running; this is a picture of it."
        bundle = dict(super()._repr_mimebundle_(**kwargs) or {})
        bundle["text/plain"] = words
        bundle["text/html"] = f"<p>{words}</p>{self._make_image()}"
        return bundle

    def _make_image(self) -> str:
        path = PICTURES / self.picture
        if not path.is_file():
            return ""
        data = base64.b64encode(path.read_bytes()).decode()
        return f'<img alt="{html.escape(self.alt, quote=True)}" src="data:image/png;base64,{data}">'


def make_field(kind: type[Field], label: str, **settings: Any) -> Field:
    """A field of a panel, of one width, whose label is tied to it for screen readers."""
    description = label if kind is ipywidgets.Checkbox else f"{label}:"
    return kind(
        description=description,
        style={"description_width": "11em"},
        layout={"width": "42em", "max_width": "100%"},
        **settings,
    )
