"""The kit's server on a GGUF file, with LoRAs."""

import subprocess
import sys

import openai
import pytest
from support.tiny import make_tiny_adapter

from helpers import clients
from helpers.common.command import run_command
from helpers.common.errors import KitError
from helpers.generation.request import GenerationRequest
from helpers.server.__main__ import main
from helpers.server.service import ModelChoice, Service

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[llamacpp]'")

SKY = [{"role": "user", "content": "What color is the sky? One short sentence."}]
WITHOUT_TORCH = """
import sys
from pathlib import Path
import helpers.server.__main__, helpers.server.openai_api, helpers.server.raw_api
from helpers.generation import GenerationRequest
from helpers.server.service import ModelChoice, Service

home = Path(sys.argv[1])
engine = Service(home / "models", home / "loras").load(ModelChoice("tiny-GGUF", ("twist", "shift")))
def ask(adapter):
    return engine.generate(GenerationRequest(prompt="Hello", max_new_tokens=8, adapter=adapter)).text

texts = {ask(adapter) for adapter in (None, *engine.adapters)}
print(engine.adapters, len(texts), "torch" in sys.modules)
"""


def test_server_answers_without_importing_torch(llama_home):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(llama_home.home)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['twist', 'shift'] 3 False"


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (ModelChoice("tiny-GGUF", ("other",)), ["other", "big"]),  # trained on another model
        (ModelChoice("tiny-GGUF", ("dora",)), ["dora", "DoRA"]),
        (ModelChoice("tiny-GGUF", ("absent",)), ["absent"]),
        (ModelChoice("tiny-GGUF", dtype="float32"), ["--dtype"]),
        (ModelChoice("tiny", loader="llama.cpp"), ["tiny", "GGUF"]),
    ],
)
def test_refused_choice_leaves_the_old_engine_in_place(llama_home, tmp_path, choice, named):
    for name, old, new in (
        ("other", "models/tiny", "models/big"),
        ("dora", '"use_dora": false', '"use_dora": true'),
    ):
        config = make_tiny_adapter(tmp_path / name, llama_home.model) / "adapter_config.json"
        config.write_text(config.read_text().replace(old, new))
    service = Service(llama_home.home / "models", tmp_path)
    before = service.load(ModelChoice("tiny-GGUF"))
    with pytest.raises(KitError) as refused:
        service.load(choice)
    assert [word for word in named if word not in str(refused.value)] == []
    assert service.engine is before
    assert before.generate(GenerationRequest(prompt="Hello", max_new_tokens=8)).text
    service.unload()


@pytest.mark.long
def test_both_apis_answer_with_loras(llama_home, monkeypatch):
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(llama_home.home))
    with clients.start_server("tiny-GGUF", ["shift", "twist"]) as server:
        client = clients.make_openai_client(server.openai_url)

        def chat(model, content="Hi"):
            messages = [{"role": "user", "content": content}]
            reply = client.chat.completions.create(
                model=model, messages=messages, max_tokens=8, temperature=0
            )
            return reply.choices[0].message.content

        said = {model: chat(model) for model in ("tiny-GGUF", "shift", "twist", "x")}
        assert said["x"] == said["shift"]
        assert len(set(said.values())) == 3
        assert [model.id for model in client.models.list()] == ["tiny-GGUF", "shift", "twist"]
        assert clients.last_reply(
            clients.chat_raw("Hi", url=server.raw_url, max_new_tokens=8, do_sample=False)
        )
        with pytest.raises(openai.BadRequestError) as refused:
            chat("x", "word " * 900)
        assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("part", [0.01, 0.6], ids=["in its header", "in its weights"])
def test_file_that_is_cut_short_is_reported_in_one_line(home, llama_home, capfd, part):
    whole = (llama_home.gguf.path / "tiny.gguf").read_bytes()
    folder = home / "models" / "bad"
    folder.mkdir(parents=True)
    (folder / "cut.gguf").write_bytes(whole[: int(part * len(whole))])
    arguments = ["--model", "bad", "--api", "--api-blocking-port", "0", "--api-streaming-port", "0"]
    assert run_command(main, arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "cut.gguf" in line


@pytest.mark.real
def test_real_model_answers_over_http(real_model_name):
    with clients.start_server(f"{real_model_name}-GGUF") as server:
        client = clients.make_openai_client(server.openai_url)
        reply = client.chat.completions.create(model="x", messages=SKY, max_tokens=30, temperature=0)
    assert "sky" in reply.choices[0].message.content.lower()
    assert reply.usage.completion_tokens > 3
