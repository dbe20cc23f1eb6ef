"""A real JupyterLab and a real Chromium, and what a user does in them with mouse and keyboard."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import requests
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from helpers import clients, server
from helpers.common.paths import PROJECT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM,
    reason="Chromium is not installed (apt-get install chromium)",
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 60_000  # milliseconds; what takes a second on an idle machine may take many on a busy one
TOKEN = "kit"  # JupyterLab's


@contextmanager
def run_jupyterlab(home: Path, **environment: str) -> Iterator[str]:
    """The address of a JupyterLab that runs inside the block, on home/notebooks.

    Its settings are in `home`, too. It ends with its kernels.
    """
    (home / "notebooks").mkdir(exist_ok=True)
    port = server.find_port(8888)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={home / 'notebooks'}",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.news_url=",
        "--no-browser",
        "--allow-root",
    ]
    variables = {**os.environ, **name_folders(home), **environment}
    with (home / "jupyter.log").open("w+") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            clients.wait_until_ready(f"{url}/api/status?token={TOKEN}", process, 90, log)
            yield url
        finally:
            process.terminate()  # which ends its kernels, too
            process.wait(30)


def name_folders(home: Path) -> dict[str, str]:
    """The environment variables that keep everything that JupyterLab and its kernels write in `home`."""
    jupyter = home / "jupyter"
    return {
        "HOME": str(home),
        "OPEN_LLM_KIT_HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(PROJECT),
        "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
        "JUPYTER_DATA_DIR": str(jupyter / "data"),
        "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(jupyter / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(jupyter / "workspaces"),
    }


class Notebook:
    """A notebook of one cell in a page of the browser, and the panel that its cell shows."""

    def __init__(self, page: Page, address: str, home: Path, name: str, code: str):
        self.page = page
        self.address = address
        self.path = home / "notebooks" / f"{name}.ipynb"
        cell = nbformat.v4.new_code_cell(code)
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), self.path)
        page.goto(f"{address}/doc/tree/{self.path.name}?token={TOKEN}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=WAIT)
        self.panel = page.locator(".kit-panel")
        self.answers = self.panel.locator("p:not([role]):has(> b)")  # <p><b>who answered:</b> the answer</p>
        self.run_cell()

    def run_cell(self) -> None:
        """Clicks into the cell, presses Control+Enter, and waits for a panel that has a kernel."""
        self.page.locator(".jp-CodeCell .cm-content").first.click()
        self.page.keyboard.press("Control+Enter")
        connected = self.panel.locator(":not(.jupyter-widgets-disconnected) > .kit-stale")
        expect(connected).to_have_count(1, timeout=WAIT)

    def field(self, label: str) -> Locator:
        """The field with this label, found as a screen reader finds it."""
        return self.panel.get_by_label(f"{label}:", exact=True)

    def type_into(self, label: str, text: str) -> None:
        """Clicks into a field, replaces its text, and leaves it with Tab."""
        self.field(label).click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Tab")

    def press(self, name: str) -> None:
        """Clicks a button."""
        self.panel.get_by_role("button", name=name, exact=True).click()

    def expect(self, words: str, wait: float = WAIT) -> None:
        """Waits until the panel shows a text that matches this regular expression."""
        expect(self.panel).to_contain_text(re.compile(words), timeout=wait)

    def expect_role(self, role: str, words: str, wait: float = WAIT) -> None:
        """Waits until the last message has this role (status or alert) and matches this expression."""
        message = self.panel.locator(f'p[role="{role}"]:not(.kit-stale)')
        expect(message).to_contain_text(re.compile(words), timeout=wait)

    def expect_answers(self, count: int) -> None:
        """Waits until the question box shows so many answers."""
        expect(self.answers).to_have_count(count, timeout=WAIT)

    def list_answers(self) -> list[str]:
        """The answers of the question box, without the names before them."""
        return [line.partition(": ")[2] for line in self.answers.all_inner_texts()]

    def tab_from(self, label: str, steps: int) -> list[str]:
        """Puts the focus into a field and presses Tab; the names of what gets the focus, in order."""
        self.field(label).focus()
        focused = "document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent"
        names = []
        for _ in range(steps):
            self.page.keyboard.press("Tab")
            names.append(self.page.evaluate(focused))
        return [name.strip().rstrip(":") for name in names]

    def restart_kernel(self) -> None:
        """Restarts the kernel through the menu, as a user does."""
        self.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        self.page.get_by_role("menuitem", name=re.compile("^Restart Kernel…")).click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def save(self) -> dict:
        """Presses Control+s and reads the saved file."""
        before = self.path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        for _ in range(300):
            if self.path.stat().st_mtime_ns != before:
                return json.loads(self.path.read_text(encoding="utf-8"))
            time.sleep(0.1)
        raise AssertionError("the notebook was not saved")

    def take_picture(self, name: str) -> None:
        """Saves the panel as FOLDER/panel-NAME.png, in 256 colours, if KIT_SCREENSHOTS=FOLDER is set."""
        folder = os.environ.get("KIT_SCREENSHOTS")
        if not folder:
            return
        path = PROJECT / folder / f"panel-{name}.png"
        self.page.add_style_tag(content=".Toastify {display: none}")  # JupyterLab's own notices
        self.page.mouse.move(0, 0)
        self.page.evaluate("document.activeElement.blur()")
        self.panel.screenshot(path=path)
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        small.save(path, optimize=True)

    def close(self) -> None:
        """Ends the kernel, which frees its memory."""
        sessions = f"{self.address}/api/sessions"
        for session in requests.get(f"{sessions}?token={TOKEN}", timeout=30).json():
            requests.delete(f"{sessions}/{session['id']}?token={TOKEN}", timeout=30)
        self.page.close()
