"""EleutherAI's lm-evaluation-harness judges a model through the server, and finds what the kit finds itself.

It is installed into an environment of its own, from lm_eval/requirements.txt. KIT_LM_EVAL names one that has
it already.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from helpers import PROJECT, clients, evaluation, loading
from helpers.tasks.rows import load_rows
from helpers.tasks.template_file import load_template
from helpers.weights.folders import models_folder

pytestmark = pytest.mark.slow

ROWS = 6
NEAR_TIE = 0.25  # nats
HERE = Path(__file__).parent / "lm_eval"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.fixture(scope="module")
def lm_eval(tmp_path_factory):
    """The folder of the environment with lm_eval."""
    if folder := os.environ.get("KIT_LM_EVAL"):
        return Path(folder)
    folder = tmp_path_factory.mktemp("lm_eval")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = ["pip", "install", "--quiet", "-r", HERE / "requirements.txt"]
    subprocess.run([folder / "bin" / "python", "-m", *install], check=True)
    return folder


@pytest.fixture(scope="module")
def template():
    return load_template(PROJECT / "templates" / "college_preferences.yaml")


@pytest.fixture(scope="module")
def rows(template):
    return load_rows(PROJECT / "data" / "college_preferences" / "dataset.csv", template)[:ROWS]


@pytest.fixture(scope="module", params=["", "-GGUF"], ids=["transformers", "llama.cpp"])
def server(request, real_model_name):
    """The server on one of the two engines."""
    exact = [] if request.param else ["--dtype", "float32"]
    with clients.start_server(real_model_name + request.param, extra=exact) as running:
        yield running


def judge(lm_eval, output, server, model, path, task, concurrent=4, batch_size=1):
    """(figures, samples in the order of the rows) of the command that users run, in the project's folder."""
    tokenizer = models_folder() / server.model.removesuffix("-GGUF")
    settings = f"model={server.model},base_url={server.openai_url}/{path},num_concurrent={concurrent}"
    if model == "local-completions":
        settings += f",tokenizer={tokenizer}"
    command = [lm_eval / "bin" / "lm_eval", "--model", model, "--model_args", settings]
    command += ["--include_path", HERE, "--tasks", task, "--apply_chat_template", "--limit", str(ROWS)]
    command += ["--output_path", output, "--log_samples", "--batch_size", str(batch_size)]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(output / "hf")}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True)
    (results,) = output.glob("*/results_*.json")
    (samples,) = output.glob("*/samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    found.sort(key=lambda sample: sample["doc_id"])
    return json.loads(results.read_text(encoding="utf-8"))["results"][task], found


@pytest.mark.parametrize("batch_size", [1, 8])
def test_likeliest_answers_are_those_that_the_kit_finds(
    lm_eval, tmp_path, server, rows, template, real_model_name, batch_size
):
    if server.model != real_model_name:
        pytest.skip("llama.cpp has no log-probabilities of prompts")
    task = "college_preferences"
    asked = (server, "local-completions", "completions", task)
    figures, samples = judge(lm_eval, tmp_path, *asked, batch_size=batch_size)
    loaded = loading.load_model(real_model_name, dtype="float32")
    scores = evaluation.score_answers(loaded, rows, template, progress=False)
    for sample, row_scores in zip(samples, scores, strict=True):
        listed = [float(reply[0][0]) for reply in sample["resps"]]
        best = max(row_scores.values())
        # lm_eval counts the last line break of the prompt to each answer, so only differences are comparable.
        assert [score - max(listed) for score in listed] == pytest.approx(
            [score - best for score in row_scores.values()], abs=1e-2
        )
    assert figures["acc,none"] == evaluation.evaluate(loaded, rows, template, progress=False).accuracy


def is_near_tie(client, model, messages, other):
    """Whether the model was undecided between its answer and the other one, where the two part."""
    limits = {"temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    reply = client.chat.completions.create(model=model, messages=messages, **limits)
    said = ""
    for token in reply.choices[0].logprobs.content:
        said += token.token
        if not other.startswith(said):
            first, second = token.top_logprobs
            return first.logprob - second.logprob < NEAR_TIE
    return False


@pytest.mark.parametrize(
    ("model", "path"),
    [("local-completions", "completions"), ("local-chat-completions", "chat/completions")],
)
def test_written_answers_are_those_that_the_kit_gets(
    lm_eval, tmp_path, server, rows, template, real_model_name, model, path
):
    task = "college_preferences_words"
    figures, samples = judge(lm_eval, tmp_path, server, model, path, task, concurrent=1)
    client = openai.OpenAI(base_url=server.openai_url, api_key="none")

    def ask(messages):
        return clients.ask_openai(client, messages, model=server.model, temperature=0, max_tokens=12)

    asked = [template.build_messages(row) for row in rows]
    pairs = [(messages, sample["resps"][0][0]) for messages, sample in zip(asked, samples, strict=True)]
    differing = [(messages, said) for messages, said in pairs if ask(messages) != said]
    if server.model == real_model_name:
        assert not differing
    # llama.cpp rounds a prompt differently by what it has kept of it, so that a near-tie may turn.
    assert all(is_near_tie(client, server.model, messages, said) for messages, said in differing)
    found = evaluation.evaluate_over_url(ask, rows, template, progress=False)
    assert abs(figures["exact_match,none"] - found.accuracy) <= len(differing) / len(rows)


def test_engine_that_cannot_score_prompts_says_so(server, real_model_name):
    if server.model == real_model_name:
        pytest.skip("the transformers engine scores prompts: nothing is refused")
    client = openai.OpenAI(base_url=server.openai_url, api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="x", prompt=[[1, 2]], echo=True, logprobs=1, max_tokens=1)
    assert refused.value.param == "echo" and "safetensors" in str(refused.value)
