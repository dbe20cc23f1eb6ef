"""The curl commands that lesson 3 shows beside its Python: each can be pasted, and a real server answers."""

import json
import re
import shutil
import subprocess

import pytest
from support.lessons import read_lesson, read_markdown

from helpers import clients
from helpers.server.ports import OPENAI_PORT, RAW_PORT

COMMANDS = re.findall(r"```bash\n(curl .*?)\n```", read_markdown(read_lesson("03_api")), flags=re.DOTALL)
RAW, OPENAI = f"http://127.0.0.1:{RAW_PORT}", f"http://127.0.0.1:{OPENAI_PORT}/v1"


def test_both_dialects_are_shown_with_curl_at_the_usual_ports():
    addresses = {re.match(r"curl (\S+)", command)[1] for command in COMMANDS}
    assert addresses == {f"{RAW}/api/v1/chat", f"{OPENAI}/chat/completions"}


@pytest.mark.parametrize("command", COMMANDS)
def test_body_of_a_curl_command_is_json(command):
    assert json.loads(re.search(r" -d '([^']*)'$", command)[1])


def run_curl(command: str) -> dict:
    """The reply, as a shell gets it."""
    line = f"{command} --silent --show-error --noproxy 127.0.0.1"
    return json.loads(subprocess.run(["bash", "-c", line], capture_output=True, timeout=300).stdout)


@pytest.mark.real
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="curl is not installed")
def test_real_server_answers_every_curl_command(real_model_name):
    with clients.start_server(real_model_name) as server:
        for command in COMMANDS:
            reply = run_curl(command.replace(RAW, server.raw_url).replace(OPENAI, server.openai_url))
            assert reply.get("results") or reply.get("choices"), reply
