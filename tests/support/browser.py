"""JupyterLab and Debian's Chromium, both started for real, and what a user does in them with mouse and keyboard."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import requests
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from helpers import PROJECT, clients, server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium here: apt-get install chromium, then these tests look at pages in it"
)
FLAGS = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update
    --disable-sync""".split()
WAIT = 60_000  # milliseconds for what a machine with one busy core does in seconds


@contextmanager
def run_jupyterlab(home: Path, **environment: str):
    """The address of a JupyterLab on home/notebooks with its settings in `home`; it ends with its kernels when the block ends."""
    (home / "notebooks").mkdir(exist_ok=True)
    port = server.find_port(8888)
    places = {
        f"JUPYTER_{what}_DIR": str(home / "jupyter" / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")
    }
    places |= {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "OPEN_LLM_KIT_HOME": str(home),
        "PYTHONPATH": str(PROJECT),
    }
    places |= {
        f"JUPYTERLAB_{what}_DIR": str(home / "jupyter" / what.lower()) for what in ("SETTINGS", "WORKSPACES")
    }
    options = [
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=kit",
        "--no-browser",
        "--allow-root",
    ]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        *options,
        f"--ServerApp.root_dir={home / 'notebooks'}",
        "--LabApp.news_url=",
    ]
    with (home / "jupyter.log").open("w+") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **places, **environment}, stdout=log, stderr=log
        )
        try:
            clients.wait_until_ready(f"http://127.0.0.1:{port}/api/status?token=kit", process, 90, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()  # it ends its kernels too
            process.wait(30)


class Notebook:
    """A notebook of one cell in a page of the browser, and the panel that its cell shows."""

    def __init__(self, page: Page, address: str, home: Path, name: str, code: str):
        self.page, self.address, self.path = page, address, home / "notebooks" / f"{name}.ipynb"
        cell = nbformat.v4.new_code_cell(code)
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), self.path)
        page.goto(f"{address}/doc/tree/{self.path.name}?token=kit")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=WAIT)
        self.panel = page.locator(".kit-panel")
        self.run_cell()

    def run_cell(self) -> None:
        """Clicks into the cell and presses Control and Enter."""
        self.page.locator(".jp-CodeCell .cm-content").first.click()
        self.page.keyboard.press("Control+Enter")
        expect(self.panel.locator(":not(.jupyter-widgets-disconnected) > .kit-stale")).to_have_count(
            1, timeout=WAIT
        )

    def field(self, label: str) -> Locator:
        """The field with this label, found as a screen reader finds it."""
        return self.panel.get_by_label(f"{label}:", exact=True)

    def type_into(self, label: str, text: str) -> None:
        """Clicks into a field, takes out what is there, types, and goes on with Tab."""
        self.field(label).click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Tab")

    def press(self, name: str) -> None:
        """Clicks a button."""
        self.panel.get_by_role("button", name=name, exact=True).click()

    def expect(self, words: str, wait: float = WAIT) -> None:
        """Waits until the panel says this."""
        expect(self.panel).to_contain_text(re.compile(words), timeout=wait)

    def list_answers(self) -> list[str]:
        """The answers of the question box, without the names before them."""
        lines = self.panel.locator("p").all_inner_texts()
        return [
            line.partition(": ")[2]
            for line in lines
            if re.match(r"(With .*|\S+ alone|SmolLM2-135M-Instruct): ", line)
        ]

    def tab_from(self, label: str, steps: int) -> list[str]:
        """Names of what gets the focus when Tab is pressed so often in a field."""
        self.field(label).focus()
        names = []
        for _ in range(steps):
            self.page.keyboard.press("Tab")
            names.append(
                self.page.evaluate(
                    "document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent"
                )
            )
        return [name.strip().rstrip(":") for name in names]

    def restart_kernel(self) -> None:
        """By the menu, as a user does."""
        self.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        self.page.get_by_role("menuitem", name=re.compile("^Restart Kernel…")).click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def save(self) -> dict:
        """Presses Control and s, and reads the file that is then there."""
        before = self.path.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        for _ in range(300):
            if self.path.stat().st_mtime_ns != before:
                return json.loads(self.path.read_text(encoding="utf-8"))
            time.sleep(0.1)
        raise AssertionError("the notebook was not saved")

    def take_picture(self, name: str) -> None:
        """With KIT_SCREENSHOTS=FOLDER in the environment, the panel as FOLDER/panel-NAME.png, in 256 colours."""
        if folder := os.environ.get("KIT_SCREENSHOTS"):
            path = Path(PROJECT, folder, f"panel-{name}.png")
            self.page.mouse.move(0, 0)
            self.page.evaluate("document.activeElement.blur()")
            self.panel.screenshot(path=path)
            with Image.open(path) as image:
                small = image.convert("RGB").quantize(
                    256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
                )
            small.save(path, optimize=True)

    def close(self) -> None:
        """Ends the kernel, and the memory with it."""
        for session in requests.get(f"{self.address}/api/sessions?token=kit", timeout=30).json():
            requests.delete(f"{self.address}/api/sessions/{session['id']}?token=kit", timeout=30)
        self.page.close()
