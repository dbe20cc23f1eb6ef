"""LoRAs on a tiny model: listed, attached, switched, proved, merged, exported; and every way in which one can be broken."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from support.tiny import make_tiny_adapter, make_tiny_model

from helpers import KitError, adapters, loading, tasks, training
from helpers.adapters.__main__ import main
from helpers.adapters.exporting import PEFT_2023
from helpers.adapters.fingerprint import compute_logits, list_prompts
from helpers.adapters.layers import LeanLoraLinear, make_lean
from helpers.adapters.merging import refuse_other_logits
from helpers.common.command import run_command
from helpers.training.settings import TrainingSettings

PROMPT = [{"role": "user", "content": "Where to?"}]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A home with models/tiny, and loras/mine trained on it for a few steps on rows of the lessons."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_LLM_KIT_HOME", str(home))
        make_tiny_model(home / "models" / "tiny")
        template = tasks.load_template("templates/college_preferences.yaml")
        rows = tasks.load_rows("data/college_preferences/dataset.csv", template)[:12]
        settings = TrainingSettings().replace(
            {"lora_r": 4, "epochs": 1, "batch_size": 4, "learning_rate": 0.01}
        )
        facts = {"split": {"seed": 0, "test_size": 0.2}}
        training.train_lora(
            load_tiny(), rows, template, settings, home / "loras" / "mine", facts, progress=False
        )
    return home


@pytest.fixture
def trained(trained_once, home):
    """The folder loras/mine of a home of its own, with a copy of what was trained once."""
    shutil.copytree(trained_once, home, dirs_exist_ok=True)
    return home / "loras" / "mine"


@pytest.fixture
def made(home):
    """loras/a and loras/b, random, for models/tiny."""
    make_tiny_model(home / "models" / "tiny")
    return [
        make_tiny_adapter(home / "loras" / name, home / "models" / "tiny", seed)
        for seed, name in enumerate("ab", start=1)
    ]


def change_weights(folder, change):
    """Writes the adapter's tensors again, as `change` returns them."""
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(folder, **values):
    """Changes keys of adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def add_a_line(tensors):
    """Every matrix one line too high."""
    return {key: torch.zeros(tensor.shape[0] + 1, tensor.shape[1]) for key, tensor in tensors.items()}


def load_tiny(name="tiny"):
    return loading.load_model(name, dtype="float32")


def save_as_2023(folder):
    """The folder as PEFT 0.5 and the WebUI of 2023 leave it: a pickle, and a config with that release's keys only."""
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({key: config[key] for key in PEFT_2023}))


# What lies in loras/


def test_list_tells_base_rank_layers_size_data_and_accuracy(trained, capsys):
    run = json.loads((trained / "run.json").read_text())
    (trained / "run.json").write_text(
        json.dumps({**run, "data": "data/x.csv", "evaluation": {"lora": {"accuracy": 0.625}}})
    )
    assert run_command(main, ["list"]) == 0
    line = capsys.readouterr().out
    assert all(
        part in line
        for part in ("mine ", "base tiny", "rank 4", "MB", "down_proj", "data data/x.csv", "accuracy 62.5%")
    )


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"123"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "no JSON"),
        (lambda folder: change_config(folder, base_model_name_or_path="models/elsewhere"), "its base elsewhere is not in models/"),
        (lambda folder: change_weights(folder, add_a_line), "has the shapes"),
        (lambda folder: change_weights(folder, lambda found: {"x": torch.zeros(1)}), "no LoRA matrices"),
    ],
)  # fmt: skip
def test_list_names_what_is_broken(made, breaks, reason, capsys):
    breaks(made[0])
    change_config(made[1], base_model_name_or_path="models/tiny")
    assert run_command(main, ["list"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("a ") and reason in rest[0] and rest[1].startswith("b ") and len(rest) == 2


def test_pickle_with_code_in_it_is_refused_and_not_run(made, home):
    class Trap:
        def __reduce__(self):
            return (open, (str(home / "ran"), "w"))

    save_as_2023(made[0])
    torch.save({"base_model.model.x": Trap()}, made[0] / "adapter_model.bin", pickle_module=pickle)
    with pytest.raises(KitError, match="as tensors alone"):
        adapters.attach_adapter(load_tiny(), "a")
    assert not (home / "ran").exists()
    assert "as tensors alone" in adapters.describe_adapter("a").problem


# On a loaded model


def test_adapters_are_switched_without_loading_the_base_again(made):
    loaded = load_tiny()
    weights = loaded.model.model.layers[0].mlp.up_proj.weight.data_ptr()
    base = compute_logits(loaded, PROMPT)
    seen = {}
    for name in ("a", "b"):
        adapters.attach_adapter(loaded, name)
        seen[name] = compute_logits(loaded, PROMPT)
    assert adapters.list_attached(loaded) == ["a", "b"] and not torch.allclose(
        seen["a"], seen["b"], atol=1e-2
    )
    adapters.switch_adapter(loaded, "a")
    assert torch.equal(compute_logits(loaded, PROMPT), seen["a"])
    adapters.switch_adapter(loaded, None)
    assert torch.equal(compute_logits(loaded, PROMPT), base)
    adapters.switch_adapter(loaded, "b")
    assert torch.equal(compute_logits(loaded, PROMPT), seen["b"])
    assert loaded.model.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.data_ptr() == weights
    with pytest.raises(KitError, match=r"No LoRA 'c' is attached \(attached: a, b\)"):
        adapters.switch_adapter(loaded, "c")


def test_detached_adapters_leave_the_plain_base(made):
    loaded = load_tiny()
    kind, base = type(loaded.model), compute_logits(loaded, PROMPT)
    for name in ("a", "b"):
        adapters.attach_adapter(loaded, name)
    adapters.detach_adapter(loaded, "a")
    assert adapters.list_attached(loaded) == ["b"]
    adapters.attach_adapter(loaded, "a")
    adapters.detach_adapter(loaded)
    assert type(loaded.model) is kind and adapters.list_attached(loaded) == []
    assert torch.equal(compute_logits(loaded, PROMPT), base)


def test_attaching_again_reads_the_file_again(made):
    loaded = adapters.attach_adapter(load_tiny(), "a")
    change_weights(made[0], lambda found: {key: torch.zeros_like(tensor) for key, tensor in found.items()})
    adapters.attach_adapter(loaded, "a")
    assert adapters.measure_change(loaded, PROMPT) == 0


def test_name_that_is_part_of_pefts_own_prefix_attaches_whole(made, home):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "b"), PROMPT)
    shutil.copytree(made[1], home / "loras" / "lora")
    loaded = adapters.attach_adapter(load_tiny(), "lora")
    assert torch.equal(compute_logits(loaded, PROMPT), wanted)
    adapters.attach_adapter(loaded, "a")
    adapters.switch_adapter(loaded, "lora")
    assert torch.equal(compute_logits(loaded, PROMPT), wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attached_layers_are_lean_and_give_what_pefts_own_give(made, dropout):
    change_config(made[0], lora_dropout=dropout)
    loaded = adapters.attach_adapter(load_tiny(), "a")
    layer = loaded.model.base_model.model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, LeanLoraLinear) and layer.drops("a") is False
    x = torch.randn(3, layer.in_features, dtype=layer.weight.dtype)
    lean, theirs = layer(x), LoraLinear.forward(layer, x)
    assert torch.allclose(lean, theirs, atol=1e-6) and not torch.allclose(
        lean, layer.base_layer(x), atol=1e-3
    )
    layer.train()
    assert torch.equal(layer(x), layer(x)) == (dropout == 0)


def test_layers_that_are_not_torchs_plain_ones_are_left_to_peft():
    class Quantised(torch.nn.Linear):
        """As bitsandbytes' layers are: of torch's kind, with something else inside."""

    config = make_lean(LoraConfig(target_modules=["0", "1"], r=2))
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4), Quantised(4, 4)), config)
    plain, quantised = model.base_model.model
    assert type(plain) is LeanLoraLinear and type(quantised) is LoraLinear


def test_strength_scales_what_the_adapter_adds_and_is_put_back(made):
    loaded = adapters.attach_adapter(load_tiny(), "a")
    changes = []
    for strength in (0, 0.5, 1, 2):
        with adapters.set_strength(loaded, strength):
            changes.append(adapters.measure_change(loaded, PROMPT))
    assert (
        changes[0] == 0 < changes[1] < changes[2]
        and changes[2] == adapters.measure_change(loaded, PROMPT) != changes[3]
    )


def test_folder_as_peft_of_2023_wrote_it_attaches(made):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "a"), PROMPT)
    save_as_2023(made[0])
    assert sorted(path.name for path in made[0].iterdir() if path.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.bin",
    ]
    assert torch.equal(compute_logits(adapters.attach_adapter(load_tiny(), "a"), PROMPT), wanted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda found: {key.replace("layers.1", "layers.7"): tensor for key, tensor in found.items()},
            "14 of its tensors have no layer here",
        ),
        (
            lambda found: {key: tensor for key, tensor in found.items() if "layers.1" not in key},
            "14 layers have no tensor in it",
        ),
        (add_a_line, "does not fit tiny"),
    ],
    ids=["other names", "too few", "other shapes"],
)
def test_adapter_that_does_not_match_is_refused_and_the_model_left_as_it_was(made, change, reason):
    loaded = adapters.attach_adapter(load_tiny(), "b")
    wanted = compute_logits(loaded, PROMPT)
    change_weights(made[0], change)
    with pytest.raises(KitError, match=reason):
        adapters.attach_adapter(loaded, "a")
    assert adapters.list_attached(loaded) == ["b"] and torch.equal(compute_logits(loaded, PROMPT), wanted)
    plain = load_tiny()
    base = compute_logits(plain, PROMPT)
    with pytest.raises(KitError, match=reason):
        adapters.attach_adapter(plain, "a")
    assert adapters.list_attached(plain) == [] and torch.equal(compute_logits(plain, PROMPT), base)


# Proof


def find(findings, claim):
    return next(finding for finding in findings if claim in finding.claim)


def test_trained_adapter_is_proved_in_a_fresh_process(trained, capfd):
    arguments = [
        sys.executable,
        "-m",
        "helpers.adapters",
        "prove",
        "mine",
        "--template",
        "templates/college_preferences.yaml",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("yes ")]
    assert (
        len(lines) == 6
        and "NO " not in done.stdout
        and "base: " in done.stdout
        and "LoRA: " in done.stdout
        and "down_proj" in done.stdout
    )


@pytest.mark.parametrize(
    ("change", "claims"),
    [
        (torch.zeros_like, ["not zero", "logits are those", "changes the model"]),
        (
            lambda tensor: torch.full_like(tensor, float("nan")),
            ["are numbers", "not zero", "logits are those", "changes the model"],
        ),
        (lambda tensor: 3 * tensor, ["logits are those"]),
    ],
    ids=["zeros", "nan", "another file"],
)
def test_proof_fails_on_weights_that_are_not_the_trained_ones(trained, template, change, claims):
    change_weights(trained, lambda found: {key: change(tensor) for key, tensor in found.items()})
    findings = adapters.prove(adapters.attach_adapter(load_tiny(), "mine"), "mine", template)
    assert [finding.claim for finding in findings if finding.passed is False] == [
        find(findings, claim).claim for claim in claims
    ]
    assert run_command(main, ["prove", "mine"]) == 2


def test_proof_fails_on_another_template_whatever_its_name(trained, template):
    loaded = adapters.attach_adapter(load_tiny(), "mine")
    assert find(
        adapters.prove(loaded, "mine", dataclasses.replace(template, name="renamed")), "template"
    ).passed
    other = find(
        adapters.prove(loaded, "mine", dataclasses.replace(template, task=template.task + "?")), "template"
    )
    assert other.passed is False and "college_preferences" in other.remedy


def test_proof_says_what_an_adapter_of_others_does_not_record(made):
    findings = adapters.prove(adapters.attach_adapter(load_tiny(), "a"), "a")
    assert [finding.passed for finding in findings] == [True, True, True, None, None, True]


def test_norms_are_those_of_the_product(made):
    norms, tensors = adapters.measure_norms(made[0]), adapters.read_tensors(made[0])
    assert norms.shape == (2, 7) and norms.index.tolist() == [0, 1]
    stem = "base_model.model.model.layers.1.mlp.up_proj.lora_"
    product = 16 / 4 * tensors[f"{stem}B.weight"] @ tensors[f"{stem}A.weight"]
    assert np.isclose(norms.loc[1, "up_proj"], np.linalg.norm(product), rtol=1e-5)


# Merging


def test_merged_model_gives_the_adapted_logits_and_is_a_whole_model_folder(trained, home):
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "mine"), PROMPT)
    assert run_command(main, ["merge", "mine", "--output", "merged"]) == 0
    merged = load_tiny("merged")
    assert (compute_logits(merged, PROMPT) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (
        "LoRA mine merged" in json.loads((home / "models" / "merged" / "weights.json").read_text())["source"]
    )
    assert merged.tokenizer.chat_template == load_tiny().tokenizer.chat_template
    with pytest.raises(KitError, match="is there already"):
        adapters.merge_adapter("mine", "merged")


def test_nothing_is_merged_into_quantised_weights_and_the_two_roads_are_named(trained, home, capsys):
    shutil.copytree(home / "models" / "tiny", home / "models" / "tiny-GPTQ")
    config = home / "models" / "tiny-GPTQ" / "config.json"
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": quantised}))
    change_config(trained, base_model_name_or_path="models/tiny-GPTQ")
    assert run_command(main, ["merge", "mine", "--output", "merged"]) == 2
    error = capsys.readouterr().err
    assert "helpers.server" in error and "--base" in error and not (home / "models" / "merged").exists()
    assert run_command(main, ["merge", "mine", "--output", "merged", "--base", "tiny"]) == 0
    assert (home / "models" / "merged" / "model.safetensors").is_file()


def test_merge_that_moves_the_logits_leaves_nothing(made, home, monkeypatch):
    change_weights(
        made[0], lambda found: {key: torch.full_like(tensor, float("nan")) for key, tensor in found.items()}
    )
    change_config(made[0], base_model_name_or_path="models/tiny")
    with pytest.raises(KitError, match="NaN"):
        adapters.merge_adapter("a", "merged")
    assert not (home / "models" / "merged").exists()


def test_merge_whose_rounding_moves_the_logits_is_refused_with_the_remedy(made, tiny):
    before = [compute_logits(tiny, messages) for messages in list_prompts(made[0])]
    refuse_other_logits(tiny, "a", before)
    moved = [wanted + 0.01 * wanted.abs().max() for wanted in before]  # float32 may be off by 0.1 %
    with pytest.raises(KitError, match="rounding loses it. Save it in float32"):
        refuse_other_logits(tiny, "a", moved)


# Export


def test_export_for_the_webui_of_2023_has_its_files_keys_and_fields(trained, home, capsys):
    assert run_command(main, ["export", "mine", "--for", "webui-2023"]) == 0
    folder = home / "runs" / "exports" / "webui-2023" / "mine"
    assert capsys.readouterr().out.strip() == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.bin",
        "training_parameters.json",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (
        set(config) <= set(PEFT_2023)
        and config["base_model_name_or_path"] == "models/tiny"
        and config["r"] == 4
    )
    parameters = json.loads((folder / "training_parameters.json").read_text())
    assert parameters["q_proj_en"] and parameters["down_proj_en"] and "all_linear" not in parameters
    wanted = compute_logits(adapters.attach_adapter(load_tiny(), "mine"), PROMPT)
    shutil.copytree(folder, home / "loras" / "old")
    assert torch.equal(compute_logits(adapters.attach_adapter(load_tiny(), "old"), PROMPT), wanted)


def test_export_for_2023_refuses_what_peft_did_not_know(made):
    change_config(made[0], use_rslora=True)
    with pytest.raises(KitError, match="use_rslora, which PEFT 0.5"):
        adapters.export_adapter("a", "webui-2023")


def test_export_for_todays_webui_is_the_folder_with_its_fields(made, home):
    folder = adapters.export_adapter("a", "webui")
    assert adapters.export_adapter("a", "webui") == folder  # a second time, over the first
    assert {"adapter_config.json", "adapter_model.safetensors", "training_parameters.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert TrainingSettings.from_adapter(folder).lora_r == 4


def test_export_overwrites_nothing_that_it_was_told_to_write_to(made, home):
    (home / "precious").mkdir()
    (home / "precious" / "file").write_text("mine")
    with pytest.raises(KitError, match="is there already"):
        adapters.export_adapter("a", "webui", home / "precious")
    assert (home / "precious" / "file").read_text() == "mine"


def test_vllm_command_fits_rank_number_of_loras_gpus_and_machines(made, capsys):
    for folder in made:
        change_config(folder, base_model_name_or_path="models/tiny")
    assert run_command(main, ["export", "a", "b", "--for", "vllm", "--gpus", "4", "--machines", "2"]) == 0
    head, worker, serve = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("ray start --head") and worker.startswith("ray start --address")
    assert "--lora-modules a=loras/a b=loras/b --max-lora-rank 8 --max-loras 2 " in serve
    assert (
        serve.startswith("vllm serve models/tiny ")
        and "--tensor-parallel-size 4 --pipeline-parallel-size 2" in serve
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_model_name_or_path": "models/other"}, "one base; these LoRAs have other, tiny"),
        ({"use_dora": True}, "DoRA, which vLLM does not take"),
        ({"peft_type": "IA3"}, "vLLM takes LoRAs"),
    ],
)
def test_vllm_refuses_beforehand(made, change, reason):
    change_config(made[1], base_model_name_or_path="models/tiny")
    change_config(made[0], **{"base_model_name_or_path": "models/tiny", **change})
    with pytest.raises(KitError, match=reason):
        adapters.build_vllm_command(["a", "b"])


def test_vllm_refuses_a_rank_above_its_limit(made):
    change_config(made[0], base_model_name_or_path="models/tiny")
    change_weights(
        made[0],
        lambda found: {
            k: torch.zeros(513, v.shape[1]) if "lora_A" in k else torch.zeros(v.shape[0], 513)
            for k, v in found.items()
        },
    )
    with pytest.raises(KitError, match="up to 512, not 513"):
        adapters.build_vllm_command(["a"])


# The card


def test_card_says_what_was_measured_and_grows_with_it(trained, home):
    card = (trained / "README.md").read_text()
    assert (
        "rank 4" in card
        and "models/tiny" in card
        and "Nothing was measured yet" in card
        and "12 rows" in card
        and "20% of the texts" in card
    )
    result = {"accuracy": 0.5, "interval": [0.4, 0.6], "macro_f1": 0.3, "rows": 90, "majority_accuracy": 0.25}
    training.add_to_run(trained, evaluation={"base": {**result, "accuracy": 0.2}, "lora": result})
    card = (trained / "README.md").read_text()
    assert (
        "| lora | 50.0% | 40.0% to 60.0% | 0.30 | 90 |" in card
        and "| base | 20.0% |" in card
        and "gets 25.0%" in card
    )


def test_card_of_somebody_else_stays(trained):
    (trained / "README.md").write_text("my own words")
    adapters.write_card(trained)
    assert (trained / "README.md").read_text() == "my own words"


@pytest.mark.real
def test_attaching_to_the_real_model_takes_less_than_a_second(real_model_name, tmp_path):
    loaded = loading.load_model(real_model_name)
    for name in ("first", "second"):
        make_tiny_adapter(tmp_path / name, loaded.folder)
        change_config(tmp_path / name, base_model_name_or_path=f"models/{loaded.name}")
        start = time.monotonic()
        adapters.attach_adapter(loaded, name, tmp_path)
        assert time.monotonic() - start < 1
    for name in (None, "first", "second"):
        start = time.monotonic()
        adapters.switch_adapter(loaded, name)
        assert time.monotonic() - start < 0.1
