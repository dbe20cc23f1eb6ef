"""llm: chat, stream, an object and a tool by the command, over chats and responses; a call by the library."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llm.default_plugins.openai_models import Chat
from scene import ASK, GREET, KEY, LIMIT, MODEL, URL, get_weather, was_called

MODELS = """
- {{model_id: chats, model_name: {model}, api_base: "{url}", supports_schema: true, supports_tools: true}}
- {{model_id: responses, model_name: {model}, api_base: "{url}", supports_schema: true, supports_tools: true,
    responses: true}}
"""
FUNCTION = 'def get_weather(city: str) -> str:\n    "Get the weather of a city."\n    return "It is sunny."\n'


class Insisting(Chat):
    """Asks for a call in answer to the user. Neither the command nor the library has a setting for it."""

    def build_kwargs(self, prompt, stream):
        settings = super().build_kwargs(prompt, stream)
        return settings if prompt.tool_results else {**settings, "tool_choice": "required"}


def ask(*words):
    """What the command writes to stdout and stderr. Raises an error if it fails."""
    command = [
        sys.executable,
        "-m",
        "llm",
        "prompt",
        *words,
        "-o",
        "temperature",
        "0",
        "-o",
        "max_tokens",
        LIMIT,
    ]
    done = subprocess.run([*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


with tempfile.TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder
    Path(folder, "extra-openai-models.yaml").write_text(MODELS.format(url=URL, model=MODEL))
    for model in ("chats", "responses"):
        streamed, _ = ask("-m", model, GREET)
        whole, _ = ask("-m", model, GREET, "--no-stream")
        assert streamed == whole and whole.strip()
        continued, _ = ask("-m", model, "-c", "Say goodbye.")
        assert continued.strip()
        found, _ = ask("-m", model, ASK, "--schema", "city, degrees int, sunny bool")
        assert json.loads(found).keys() >= {"city", "degrees", "sunny"}
        said, _ = ask("-m", model, ASK, "--functions", FUNCTION)
        assert said.strip()

model = Insisting("kit", model_name=MODEL, api_base=URL, supports_tools=True)
answer = model.chain(ASK, tools=[get_weather], options={"temperature": 0, "max_tokens": LIMIT}, key=KEY)
assert answer.text().strip()
assert was_called()
