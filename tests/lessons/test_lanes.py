"""All five lessons in the lanes of large GPUs, on replicas of their models: every cell runs, on a CPU too."""

import json

import pytest
from support.real_tokenizers import find_tokenizer
from support.replica import make_replica

from helpers.common.lanes import LANES
from helpers.tutorial.execution import execute_notebook, find_notebooks

# The checkpoints that random weights cannot pass: such a model neither ends an answer nor learns a task.
BEYOND_NOISE = {
    "the answer ended with EOS",
    "the favourite is nearly certain",
    "the answer ended by itself",
    "the LoRA beats base and majority",
}


def find_failed_checks(notebook):
    """The claims of the checkpoints that did not pass, those of exercises left out: they are to be solved."""
    cells = [cell for cell in notebook.cells if "exercise" not in cell.metadata.get("tags", [])]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    lines = "".join(output.get("text", "") for output in outputs).splitlines()
    marked = [line.removeprefix("❌ not yet: ") for line in lines if line.startswith("❌")]
    return {line.partition(". What to do")[0] for line in marked}


@pytest.mark.slow
@pytest.mark.skipif(not find_tokenizer("llama2"), reason="not fetched: python -m support.real_tokenizers")
@pytest.mark.parametrize(("name", "act_order"), [("t4", False), ("large", True)])
def test_lessons_run_in_the_lane_on_a_replica_of_its_model(home, monkeypatch, name, act_order):
    pytest.importorskip("gptqmodel", reason="gptqmodel is for Linux: pip install -e '.[gptq]'")
    make_replica(home / "models" / LANES[name].folder, act_order)
    monkeypatch.setenv("KIT_LANE", name)
    for path in find_notebooks([]):
        execution = execute_notebook(path)
        assert execution.problem == "", path.name
        assert find_failed_checks(execution.notebook) <= BEYOND_NOISE, path.name
    (lora,) = (home / "loras").glob("*/run.json")
    run = json.loads(lora.read_text(encoding="utf-8"))
    assert (run["base"], run["chat_template"]["name"]) == (LANES[name].folder, "llama-2")
    assert "Llama-2" in run["chat_template"]["reason"]


@pytest.mark.skipif(not find_tokenizer("llama2"), reason="not fetched: python -m support.real_tokenizers")
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("beside", [False, True], ids=["in config.json", "beside it"])
def test_replica_is_loaded_as_gptq_and_its_act_order_is_found(home, act_order, beside):
    from helpers.loading.loaders import detect_loader
    from helpers.weights.folders import find_model

    make_replica(home / "models" / "TheBloke_Llama-2-7B-Chat-GPTQ", act_order, beside)
    folder = find_model("TheBloke/Llama-2-7B-Chat-GPTQ")
    assert detect_loader(folder).value == "gptq"
    assert folder.quantization.act_order is act_order
