"""LoRAs on the real model, full precision and GPTQ: proved, switched, merged, exported, and judged."""

import functools
import importlib.util
import json
import math
import shutil

import nbformat
import pytest
import torch
from support.loras import change_each_weight

from helpers import PROJECT, adapters, clients, evaluation, loading, tasks, training, weights
from helpers.adapters.fingerprint import compute_logits
from helpers.adapters.proving import prove_fingerprint
from helpers.common.command import run_command
from helpers.common.errors import UnsupportedError
from helpers.common.presets import pick_settings
from helpers.evaluation import __main__ as evaluation_command
from helpers.tutorial.execution import execute_notebook

needs_gptq = pytest.mark.skipif(
    not (importlib.util.find_spec("gptqmodel") and importlib.util.find_spec("optimum")),
    reason="gptqmodel and optimum are not installed",
)
pytestmark = [pytest.mark.real, pytest.mark.long]
DATA = "data/college_preferences/dataset.csv"
TEMPLATE = "templates/college_preferences.yaml"
KINDS = ["full", pytest.param("gptq", marks=needs_gptq)]
# Rows to train on: enough to answer with the four phrases; enough to change anything.
ROWS = {"full": 120, "gptq": 24}


@pytest.fixture(scope="module")
def home(real_model_name, tmp_path_factory):
    """A home with copies of the real model and its GGUF file, to which merging and quantising may add."""
    source = weights.models_folder()
    folder = tmp_path_factory.mktemp("home")
    for name in (real_model_name, f"{real_model_name}-GGUF"):
        shutil.copytree(source / name, folder / "models" / name)
    gptq = source / f"{real_model_name}-GPTQ"
    if gptq.is_dir():
        shutil.copytree(gptq, folder / "models" / gptq.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def data():
    """The rows of the lessons, split as the lessons split them."""
    return tasks.load_task_data(DATA, TEMPLATE)


@pytest.fixture(scope="module", params=KINDS)
def lora(request, home, data, real_model_name):
    """(name of a LoRA that was just trained, name of its base)."""
    name = request.param
    base = real_model_name if name == "full" else weights.quantize(real_model_name).name
    settings = pick_settings("tiny").replace({"max_rows": ROWS[name]})
    loaded = loading.load_model(base, purpose="training")
    training.train_lora(loaded, data, settings, home / "loras" / name, progress=False)
    return name, base


def copy_zeroed(folder):
    """loras/zeros, a copy of a LoRA with zeros for weights; its name."""
    zeros = folder.with_name("zeros")
    shutil.copytree(folder, zeros, dirs_exist_ok=True)
    change_each_weight(zeros, torch.zeros_like)
    return zeros.name


def list_places(model):
    """Where the base's numbers are in memory: the same places mean that nothing was loaded again."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {tensor.data_ptr() for name, tensor in tensors if "lora_" not in name}


def test_lora_is_proved_and_one_of_zeros_is_not(lora, home, data):
    name, base = lora
    assert adapters.describe_adapter(name).problem is None
    loaded = adapters.attach_adapter(loading.load_model(base), name)
    assert [finding.passed for finding in adapters.prove(loaded, name, data.template)] == [True] * 7
    adapters.attach_adapter(loaded, copy_zeroed(home / "loras" / name))
    findings = adapters.prove(loaded, "zeros", data.template)
    # finite, not zero, names, template, tokens, fingerprint, changes the model
    assert [finding.passed for finding in findings] == [True, False, True, True, True, False, False]


def test_loras_are_attached_switched_and_detached_without_loading_the_base_again(lora, home):
    name, base = lora
    loaded = loading.load_model(base)
    messages = [{"role": "user", "content": "Where to?"}]
    plain = compute_logits(loaded, messages)  # first: some kernels repack their weights in the first pass
    places = list_places(loaded.model)
    other = copy_zeroed(home / "loras" / name)
    adapters.attach_adapter(loaded, name)
    adapters.attach_adapter(loaded, other)
    adapters.switch_adapter(loaded, name)
    adapters.detach_adapter(loaded, other)
    assert list_places(loaded.model) == places
    assert not torch.equal(compute_logits(loaded, messages), plain)
    adapters.detach_adapter(loaded)
    assert list_places(loaded.model) == places
    assert torch.equal(compute_logits(loaded, messages), plain)


def merge(lora, real_model_name):
    """The folder that the LoRA and its base, or its base in full precision, are merged into."""
    name, _ = lora
    if name == "gptq":
        with pytest.raises(UnsupportedError, match="--base"):
            adapters.merge_adapter(name, f"{name}-merged")
        return adapters.merge_adapter(name, f"{name}-merged", base=real_model_name, dtype="float32")
    return adapters.merge_adapter(name, f"{name}-merged")


def test_merged_folder_judges_as_base_and_lora_do(lora, data, real_model_name):
    name, _ = lora
    merged = merge(lora, real_model_name)
    full = loading.load_model(real_model_name, dtype="float32")
    both = adapters.attach_adapter(full, name, any_model=True)
    apart = evaluation.score_answers(both, data.test[:12], data.template, progress=False)
    one = loading.load_model(merged.name, dtype="float32")
    together = evaluation.score_answers(one, data.test[:12], data.template, progress=False)
    for expected, found in zip(apart, together, strict=True):
        # nats; the merged weights were rounded to the base's bfloat16
        assert found == pytest.approx(expected, abs=0.2)
    # The LoRA on top of itself is not what was trained.
    twice = adapters.attach_adapter(loading.load_model(merged.name), name, any_model=True)
    assert not prove_fingerprint(twice, adapters.find_adapter(name).run).passed


@needs_gptq
def test_merged_folder_can_be_quantised(lora, home):
    if lora[0] == "gptq":
        pytest.skip("it is merged into the full-precision base, which the LoRA named full shows")
    if not (home / "models" / "full-merged").is_dir():
        adapters.merge_adapter("full", "full-merged")
    assert loading.load_model(weights.quantize("full-merged").name).loader.value == "gptq"


def test_lora_is_exported_for_each_program(lora, home):
    name, base = lora
    for program, file in (("webui-2023", "adapter_model.bin"), ("webui", "adapter_model.safetensors")):
        assert (adapters.export_adapter(name, program) / file).is_file()
    assert adapters.export_adapter(name, "llama.cpp").stat().st_size > 1e7
    assert f"models/{base}" in adapters.build_vllm_command([name])[-1]


def test_export_for_2023_gives_the_logits_of_the_training(lora, home):
    name, base = lora
    exported = adapters.export_adapter(name, "webui-2023")
    shutil.copytree(exported, home / "loras" / "old", dirs_exist_ok=True)
    loaded = adapters.attach_adapter(loading.load_model(base), "old")
    assert prove_fingerprint(loaded, adapters.find_adapter(name).run).passed


def test_server_gives_the_predictions_of_the_scores(lora, data):
    name, base = lora
    if name == "gptq":
        pytest.skip("the API is the same; its model is tested in test_openai_api")
    loaded = adapters.attach_adapter(loading.load_model(base, dtype="float32"), name)
    scores = evaluation.score_answers(loaded, data.test, data.template, progress=False)
    predictions = evaluation.pick_predictions(scores)
    likeliest = sorted(range(len(scores)), key=lambda place: -max(scores[place].values()))
    # An answer with more than half of the probability is generated, token by token; a less likely one may
    # be passed over.
    certain = [place for place in likeliest[:10] if max(scores[place].values()) > math.log(0.5)]
    chosen = [*certain, *range(50)]
    rows = [data.test[place] for place in chosen]
    server = clients.start_server(base, loras=[name], extra=["--dtype", "float32"])
    try:
        client = clients.make_openai_client(server.openai_url)
        ask = functools.partial(clients.ask_openai, client, model=name, temperature=0, max_tokens=32)
        asked = evaluation.ask_predictions(ask, rows, data.template, progress=False)
    finally:
        server.stop()
    agreed = [one == predictions[place] for one, place in zip(asked, chosen, strict=True)]
    assert len(certain) >= 5 and all(agreed[: len(certain)])
    assert sum(agreed[len(certain) :]) >= 45


def test_command_judges_a_server(lora, tmp_path):
    name, base = lora
    if name == "gptq":
        pytest.skip("the command asks any server alike")
    result = tmp_path / "result.json"
    arguments = ["--model", name, "--data", DATA, "--template", TEMPLATE]
    arguments += ["--split", "test", "--limit", "4", "--json", str(result)]
    server = clients.start_server(base, loras=[name])
    try:
        assert run_command(evaluation_command.main, ["--url", server.openai_url, *arguments]) == 0
    finally:
        server.stop()
    assert json.loads(result.read_text())["rows"] == 4


def test_lesson_5_turns_red_if_the_lora_s_weights_are_zeros(lora, home):
    if lora[0] == "gptq":
        pytest.skip("the lesson loads the lane's own model")
    lesson = nbformat.read(PROJECT / "notebooks" / "05_lora_loading.ipynb", as_version=4)
    last = next(place for place, cell in enumerate(lesson.cells) if "checks.confirm_adapter(" in cell.source)
    lesson.cells = lesson.cells[: last + 1]
    (home / "notebooks").mkdir(exist_ok=True)
    nbformat.write(lesson, home / "notebooks" / "05_lora_loading.ipynb")
    printed = {}
    for name in ("full", copy_zeroed(home / "loras" / "full")):
        shutil.copytree(home / "loras" / name, home / "loras" / "college-preferences", dirs_exist_ok=True)
        done = execute_notebook(home / "notebooks" / "05_lora_loading.ipynb")
        assert done.problem == ""
        printed[name] = "".join(output.get("text", "") for output in done.notebook.cells[-1].outputs)
    assert printed["full"].count("✅") == 7
    assert "❌" not in printed["full"]
    assert printed["zeros"].count("❌") == 3
