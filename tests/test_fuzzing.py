"""Both applications under schemathesis: requests made from their OpenAPI documents, right and wrong ones, and replies checked against these."""

import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_server import make_tiny_service, serve_app

from helpers.server.openai_api import make_openai_app
from helpers.server.raw_api import make_raw_app

APPS = [make_openai_app, make_raw_app]
# That whatever fits the document is accepted cannot be: only the tokenizer knows whether a prompt fits into the context.
LEFT_OUT = "positive_data_acceptance"


def fuzz(make_app, home: Path, seconds: int) -> str:
    """Everything that schemathesis reports, failures at the end; KitErrors of the server are 4xx, so any 5xx is a failure."""
    service = make_tiny_service(home)
    service.engine.context = 160  # an answer without a limit ends soon
    with serve_app(make_app(service)) as url:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--max-time", str(seconds)]
        settings = ["--exclude-checks", LEFT_OUT, "--generation-database", "none", "--continue-on-failure", "--no-color"]
        run = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=3 * seconds + 120, cwd=home)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.long
@pytest.mark.parametrize("make_app", APPS)
def test_no_request_breaks_the_server_and_every_reply_is_as_documented(make_app, tmp_path):
    assert "Test cases:" in fuzz(make_app, tmp_path, seconds=25)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("make_app", APPS)
def test_no_request_breaks_the_server_in_five_minutes(make_app, tmp_path):
    assert "Test cases:" in fuzz(make_app, tmp_path, seconds=300)
