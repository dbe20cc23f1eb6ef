"""Both applications under schemathesis: right and wrong requests made from their OpenAPI documents.

The replies are checked against these documents, too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.server import make_tiny_service, serve_app

from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app

# Each application with the checks that are left out. The OpenAI-style API cannot accept everything that fits
# its document: only the tokenizer knows whether a prompt fits into the context. And the raw API accepts what
# can be read as the right type, as the WebUI did.
APPS = [
    (make_openai_app, "positive_data_acceptance"),
    (make_raw_app, "positive_data_acceptance,negative_data_rejection"),
]
# KIT_RANDOM_SEED repeats a run; without it, schemathesis draws a seed and prints it.
SEED = ["--seed", os.environ["KIT_RANDOM_SEED"]] if os.environ.get("KIT_RANDOM_SEED") else []


def fuzz(make_app, left_out: str, home: Path, seconds: int) -> str:
    """What schemathesis reports, without the checks that are left out."""
    service = make_tiny_service(home)
    service.get_engine().context = 160  # an answer without a limit ends soon
    with serve_app(make_app(service)) as url:
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("run", f"{url}/openapi.json"),
            *("--max-time", str(seconds)),
            *("--exclude-checks", left_out),
            *("--generation-database", "none"),
            *SEED,
            *("--request-timeout", "120"),
            "--continue-on-failure",
            "--no-color",
        ]
        limit = 3 * seconds + 120
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=home)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.long
@pytest.mark.parametrize(("make_app", "left_out"), APPS)
def test_no_request_breaks_the_server_and_every_reply_is_as_documented(make_app, left_out, tmp_path):
    assert "Test cases:" in fuzz(make_app, left_out, tmp_path, seconds=25)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("make_app", "left_out"), APPS)
def test_no_request_breaks_the_server_within_five_minutes(make_app, left_out, tmp_path):
    assert "Test cases:" in fuzz(make_app, left_out, tmp_path, seconds=300)
