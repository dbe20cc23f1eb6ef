"""LoRAs on the real model, full precision and GPTQ: proved, switched, merged, exported, judged over an API."""

import functools
import importlib.util
import json
import math
import os
import shutil
import time

import nbformat
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import PROJECT, KitError, adapters, clients, evaluation, loading, tasks, training, weights
from helpers.adapters import __main__ as adapters_command
from helpers.adapters.fingerprint import compute_logits
from helpers.adapters.proving import prove_fingerprint
from helpers.common.command import run_command
from helpers.evaluation import __main__ as evaluation_command
from helpers.training.settings import pick_settings
from helpers.tutorial.execution import execute_notebook

needs_gptq = pytest.mark.skipif(
    not (importlib.util.find_spec("gptqmodel") and importlib.util.find_spec("optimum")),
    reason="gptqmodel and optimum are not installed",
)
pytestmark = [pytest.mark.real, pytest.mark.long]
KINDS = ["full", pytest.param("gptq", marks=needs_gptq)]
ROWS = {"full": 120, "gptq": 24}  # trained on: enough to answer with the four phrases; enough to have changed


@pytest.fixture(scope="module")
def home(real_model_name, tmp_path_factory):
    """A home of its own with copies of the real model and its GGUF file, which merging and quantising may fill."""
    found, folder = weights.models_folder(), tmp_path_factory.mktemp("home")
    for name in (real_model_name, f"{real_model_name}-GGUF"):
        shutil.copytree(found / name, folder / "models" / name)
    if (gptq := found / f"{real_model_name}-GPTQ").is_dir():
        shutil.copytree(gptq, folder / "models" / gptq.name)
    before = os.environ.get("OPEN_LLM_KIT_HOME")
    os.environ["OPEN_LLM_KIT_HOME"] = str(folder)
    yield folder
    os.environ.pop("OPEN_LLM_KIT_HOME")
    if before:
        os.environ["OPEN_LLM_KIT_HOME"] = before


@pytest.fixture(scope="module")
def lessons():
    """(template, rows to train on, rows to judge) of the lessons."""
    template = tasks.load_template("templates/college_preferences.yaml")
    return template, *tasks.split_rows(tasks.load_rows("data/college_preferences/dataset.csv", template))


@pytest.fixture(scope="module", params=KINDS)
def lora(request, home, lessons, real_model_name):
    """(name of a LoRA that was just trained, name of its base)."""
    template, train, _ = lessons
    base = real_model_name if request.param == "full" else weights.quantize(real_model_name).name
    settings = pick_settings("tiny").replace({"max_rows": ROWS[request.param]})
    training.train_lora(
        loading.load_model(base, purpose="training"),
        train,
        template,
        settings,
        home / "loras" / request.param,
        progress=False,
    )
    return request.param, base


def zero(folder):
    """A copy of an adapter with zeros for weights; its name."""
    shutil.copytree(folder, folder.with_name("zeros"), dirs_exist_ok=True)
    path = folder.with_name("zeros") / "adapter_model.safetensors"
    save_file(
        {key: torch.zeros_like(tensor) for key, tensor in load_file(path).items()},
        path,
        metadata={"format": "pt"},
    )
    return "zeros"


def test_lora_is_proved_and_one_of_zeros_is_not(lora, home, lessons):
    name, base = lora
    assert adapters.describe_adapter(name).problem is None
    loaded = adapters.attach_adapter(loading.load_model(base), name)
    assert [finding.passed for finding in adapters.prove(loaded, name, lessons[0])] == [True] * 6
    adapters.attach_adapter(loaded, zero(home / "loras" / name))
    failed = [
        finding.claim for finding in adapters.prove(loaded, "zeros", lessons[0]) if finding.passed is False
    ]
    assert failed == [
        "its weights are not zero",
        "its logits are those of the trained model",
        "it changes the model",
    ]


def test_loras_go_on_and_off_in_less_than_a_second(lora, home):
    name, base = lora
    loaded, messages = loading.load_model(base), [{"role": "user", "content": "Where to?"}]
    plain, other = compute_logits(loaded, messages), zero(home / "loras" / name)
    for action in (
        lambda: adapters.attach_adapter(loaded, name),
        lambda: adapters.attach_adapter(loaded, other),
        lambda: adapters.switch_adapter(loaded, name),
        lambda: adapters.detach_adapter(loaded, other),
    ):
        start = time.monotonic()
        action()
        assert time.monotonic() - start < 1
    assert not torch.equal(compute_logits(loaded, messages), plain)
    adapters.detach_adapter(loaded)
    assert torch.equal(compute_logits(loaded, messages), plain)


def test_merged_folder_judges_as_base_and_lora_do(lora, home, lessons, real_model_name):
    name, base = lora
    template, _, test = lessons
    if name == "gptq":
        with pytest.raises(KitError, match="--base MODEL"):
            adapters.merge_adapter(name, f"{name}-merged")
    more = {"base": real_model_name, "dtype": "float32"} if name == "gptq" else {}
    merged = adapters.merge_adapter(name, f"{name}-merged", **more)
    apart = adapters.attach_adapter(
        loading.load_model(real_model_name, dtype="float32"), name, any_model=True
    )
    scores = [
        evaluation.score_answers(one, test[:12], template, progress=False)
        for one in (apart, loading.load_model(merged.name, dtype="float32"))
    ]
    for one, other in zip(*scores, strict=True):
        assert all(
            abs(one[label] - other[label]) < 0.2 for label in one
        )  # nats; what is saved is rounded to the base's bfloat16
    assert (
        run_command(adapters_command.main, ["prove", name, "--model", merged.name]) == 2
    )  # the LoRA on top of itself


@needs_gptq
def test_merged_folder_can_be_quantised(lora, home):
    if lora[0] == "gptq":
        pytest.skip(
            "its merged folder is made of the full-precision base too: the LoRA named full tests that"
        )
    if not (home / "models" / "full-merged").is_dir():
        adapters.merge_adapter("full", "full-merged")
    assert loading.load_model(weights.quantize("full-merged").name).loader.value == "gptq"


def test_lora_is_exported_for_each_program(lora, home):
    name, base = lora
    for program, file in (("webui-2023", "adapter_model.bin"), ("webui", "adapter_model.safetensors")):
        assert (adapters.export_adapter(name, program) / file).is_file()
    assert adapters.export_adapter(name, "llama.cpp").stat().st_size > 1e7
    assert f"models/{base}" in adapters.build_vllm_command([name])[-1]
    shutil.copytree(
        home / "runs" / "exports" / "webui-2023" / name, home / "loras" / "old", dirs_exist_ok=True
    )
    loaded, run = loading.load_model(base), adapters.read_run(home / "loras" / name)
    adapters.attach_adapter(loaded, "old")
    assert prove_fingerprint(loaded, run["fingerprint"]).passed


def test_judged_over_the_api_as_it_is_offline(lora, home, lessons, tmp_path):
    name, base = lora
    if name == "gptq":
        pytest.skip("the API is the same; its model is tested in test_openai_api")
    template, _, test = lessons
    loaded = adapters.attach_adapter(loading.load_model(base, dtype="float32"), name)
    scores = evaluation.score_answers(loaded, test[:50], template, progress=False)
    offline = evaluation.pick_verdicts(scores)
    server = clients.start_server(base, loras=[name], extra=["--dtype", "float32"])
    try:
        ask = functools.partial(
            clients.ask_openai,
            clients.make_openai_client(server.openai_url),
            model=name,
            temperature=0,
            max_tokens=32,
        )
        asked = evaluation.ask_verdicts(ask, test[:50], template, progress=False)
        # without sampling an answer with more than half of the probability is taken, token by token; a less likely one may be passed over
        pairs = list(
            zip(asked, offline, (max(found.values()) > math.log(0.5) for found in scores), strict=True)
        )
        assert sum(sure for *_, sure in pairs) >= 5 and all(
            one == other for one, other, sure in pairs if sure
        )
        assert sum(one == other for one, other, _ in pairs) >= 45
        words = [
            "--url",
            server.openai_url,
            "--model",
            name,
            "--data",
            "data/college_preferences/dataset.csv",
        ]
        words += [
            "--template",
            "templates/college_preferences.yaml",
            "--split",
            "test",
            "--limit",
            "4",
            "--json",
            str(tmp_path / "result.json"),
        ]
        assert run_command(evaluation_command.main, words) == 0
    finally:
        server.stop()
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == 4


def test_lesson_5_turns_red_when_the_loras_weights_are_zeros(lora, home):
    if lora[0] == "gptq":
        pytest.skip("the lesson loads the lane's own model")
    lesson = nbformat.read(PROJECT / "notebooks" / "05_lora_loading.ipynb", as_version=4)
    last = next(place for place, cell in enumerate(lesson.cells) if "checks.confirm_adapter(" in cell.source)
    lesson.cells = lesson.cells[: last + 1]
    (home / "notebooks").mkdir(exist_ok=True)
    nbformat.write(lesson, home / "notebooks" / "05_lora_loading.ipynb")
    verdicts = {}
    for name in ("full", zero(home / "loras" / "full")):
        shutil.copytree(home / "loras" / name, home / "loras" / "college-preferences", dirs_exist_ok=True)
        done = execute_notebook(home / "notebooks" / "05_lora_loading.ipynb")
        assert done.problem == ""
        verdicts[name] = "".join(output.get("text", "") for output in done.notebook.cells[-1].outputs)
    assert verdicts["full"].count("✅") == 6 and "❌" not in verdicts["full"]
    assert verdicts["zeros"].count("❌") == 3 and "not yet: its weights are not zero" in verdicts["zeros"]
