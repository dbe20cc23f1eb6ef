# ---
# jupyter:
#   jupytext:
#     formats: ipynb,text//py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="A LoRA loads without an error and does nothing: who has seen it?"
# # Lesson 5: loading a LoRA, and serving it
#
# ## What you will do
#
# 1. Find out what is inside an adapter's folder.
# 2. Load it on top of its base, and prove that it does what it was trained to do.
# 3. Turn it up and down, switch it off, merge it into its base, and measure what each costs.
# 4. Serve the LoRA, ask it over both APIs, and judge it over one.
# 5. Take it to where people serve: the WebUI of 2023 and of today, llama.cpp, vLLM.
#
# Prerequisites: lesson 4 made `loras/college-preferences`. Without it, this lesson trains a small adapter first (about a minute).

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | lane | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 1.0 | 2.6 GB | 0.6 GB | 2026-11-28 on CPU, 2 cores, float32, commit 29745b189eb2 |
# | t4 | no record yet | no record yet | no record yet | no record yet |
# | large | no record yet | no record yet | no record yet | no record yet |
#
# Written by `python -m tools.cost_boxes` from `benchmarks/tutorial.json`. `make tutorial ARGS=--in-place` records a run.

# %% slideshow={"slide_type": "skip"}
# @title Set-up: run this cell first
import importlib.util, os, sys

# An error that a notebook shows as one line.
Stop = type("Stop", (Exception,), {"_render_traceback_": lambda self: [str(self)]})

# A Python that does not know the kit looks for its folder.
if not importlib.util.find_spec("helpers"):
    home = os.environ.get("OPEN_LLM_KIT_HOME", "")
    places = ("..", ".", "open-llm-kit", "drive/MyDrive/open-llm-kit", home)
    kits = [place for place in places if os.path.isdir(os.path.join(place, "helpers/tutorial"))]
    if not kits:
        raise Stop(
            "The kit is not here: upload or clone its folder as open-llm-kit beside this notebook, "
            "or set OPEN_LLM_KIT_HOME to it. Then run this cell again."
        )
    sys.path.insert(0, os.path.abspath(kits[0]))

from helpers.tutorial import setup

setup.set_up()

# %% slideshow={"slide_type": "skip"}
from helpers.common import lanes, machine
from helpers.tutorial import checks

for name, (value, reason) in lanes.describe().items():
    print(f"{name:8} {value}  ({reason})")

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="Small, and useless without its base. The folder says which base that is."
# ## What is in the folder
#
# A LoRA is no model. It is the difference that training made, as thin matrices, and a note of the base they belong to.

# %% slideshow={"slide_type": "skip"}
import math, time
from helpers import adapters, loading, tasks, tutorial, weights

lane, task = lanes.pick_lane().value, tutorial.pick_task()
weights.fetch(lane.model, lane.revision)
folder = tutorial.ensure_adapter(task, lane)
for facts in map(adapters.describe_adapter, adapters.list_folders()):
    print(f"{facts.name:30} base {facts.base}, rank {facts.rank}, {facts.bytes / 1e6:.0f} MB", facts.problem or "")

# %% slideshow={"slide_type": "-"}
config, run = folder.config, folder.run
for key in ("base_model_name_or_path", "peft_type", "r", "lora_alpha", "target_modules"):
    print(f"{key:24} {config[key]}")
print(f"{'trained on':24} {run['rows']} rows in {run['seconds']:.0f} s, {run['date']}, {run['device']}")

# %% [markdown] slideshow={"slide_type": "skip"}
# The weights: for each adapted layer a matrix A (r rows) and a matrix B (r columns). Their product has the shape of the layer's W.
#
# **Predict:** how many numbers are they together, compared to the base's 135 million?

# %% slideshow={"slide_type": "skip"}
guess = 0.2  # yours, 0 to 1

# %% slideshow={"slide_type": "skip"}
from safetensors.torch import load_file

tensors = load_file(folder.weights)
numbers = sum(tensor.numel() for tensor in tensors.values())
print(f"{len(tensors)} matrices, {numbers:,} numbers. The first layer's:")
for name in sorted(name for name in tensors if ".layers.0.mlp.up_proj." in name):
    print(f"{tuple(tensors[name].shape)!s:12} {name}")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Loading it
#
# First the base, then the LoRA on top. `PeftModel` puts A and B beside every W that the configuration names; W itself stays as it is.

# %% slideshow={"slide_type": "skip"}
from peft import PeftModel

loaded = loading.load_model(lane.folder)
plain = loaded.model
checks.compare_guess(guess, numbers / plain.num_parameters(), "%")
loaded.model = PeftModel.from_pretrained(plain, folder.path, adapter_name=task.adapter).eval()
print(type(plain).__name__, "->", type(loaded.model).__name__)

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Proof from all sides, in another process than the one that trained. The fingerprint is the strongest: the saved logits must come again."
# ## Does it do anything?
#
# The most common disappointment is a LoRA that loads without an error and changes nothing: PEFT only warns when the names in the file
# and the layers of the model do not match, and an adapter of zeros loads without a word. So ask for proof, from all sides.
#
# - The weights: are they numbers, and not zero? Do their names match the model's layers?
# - The template: is it the text that the LoRA was trained on?
# - The *fingerprint*: when the adapter was saved, its logits for a few prompts were saved too. This is another process, started later.
#   They must be the same.
# - The *KL divergence* compares what the model says next with the LoRA and without it; 0 nats would mean that they are equal.

# %% slideshow={"slide_type": "skip"}
from helpers import adapters

template = tasks.load_template(task.template)
findings = adapters.prove(loaded, task.adapter, template)
for finding in findings:
    print(f"{finding.claim}: {finding.seen}")

# %% slideshow={"slide_type": "-"}
checks.confirm_adapter(findings)

# %% [markdown] slideshow={"slide_type": "skip"}
# In a terminal the same is `python -m helpers.adapters prove college-preferences`. It ends with an error when one of them fails.

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="Guess first: attention or MLP? A picture of where the training has left its mark."
# ## Where it works
#
# How much does the LoRA add to each weight matrix? The figure shows the *Frobenius norm* of `scale * B A`: the root of the sum of all
# its squared numbers.
#
# **Predict:** where does it add most, in the attention (`q_proj`, `k_proj`, `v_proj`, `o_proj`) or in the MLP (`gate_proj`, `up_proj`, `down_proj`)?

# %% slideshow={"slide_type": "skip"}
guess = "q_proj"  # yours

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
from helpers.tutorial import plots

norms = adapters.measure_norms(folder)
means = norms.mean().sort_values(ascending=False)
words = f"Mean over the layers, largest first: {', '.join(f'{name} {value:.2f}' for name, value in means.items())}."
layers = norms.mean(axis=1)
words += f" Mean of a layer: from {layers.min():.2f} (layer {layers.idxmin()}) to {layers.max():.2f} (layer {layers.idxmax()})."
plots.show(plots.draw_norms(norms), f"Heat map of the norm of scale B A by layer and module. {words}")
print(words)
checks.compare_guess(guess, means.index[0])

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Side by side
#
# Four comments that the LoRA never saw, answered freely, without and with it.

# %% slideshow={"slide_type": "skip"}
from helpers import tasks

rows = tasks.load_rows(task.data, template)
train, test = tasks.Split(**run["split"]).divide(rows)
shown = sorted(test, key=lambda row: len(row["text"]))[:40:10]

# %% slideshow={"slide_type": "skip"}
for row in shown:
    base, lora = adapters.answer_both_ways(loaded, template.build_messages(row), max_new_tokens=12)
    print(f"{row['text']}\n  base: {base!r}\n  LoRA: {lora!r}\n  true: {template.build_answers(row)[row['label']]!r}\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the LoRA answers with one of the four phrases and stops. Whether it is the right one is a matter of accuracy, which
# is measured below; a few examples prove nothing.
#
# ## Turning it up and down
#
# W + *strength* · scale · B A: at 0 the LoRA is off, at 1 it is as trained, at 2 it pushes twice as hard. The table shows how likely
# each of the four answers is for one comment.

# %% slideshow={"slide_type": "skip"}
from helpers import adapters, evaluation

row = shown[0]
print(row["text"], *template.build_answers(row).values(), sep="\n  ")
for strength in (0, 0.5, 1, 1.5, 2):
    with adapters.set_strength(loaded, strength):
        scores = evaluation.score_answers(loaded, [row], template, progress=False)[0]
        answer = loading.chat(loaded, template.build_messages(row), max_new_tokens=12)
    print(strength, " ".join(f"{math.exp(score):6.1%}" for score in scores.values()), repr(answer))

# %% [markdown] slideshow={"slide_type": "skip"}
# ## On and off, several at once
#
# The base is loaded once. LoRAs are put on, switched and taken off in a moment, since each is a few megabytes beside it.

# %% slideshow={"slide_type": "skip"}
start = time.monotonic()
adapters.switch_adapter(loaded, None)  # the base alone
adapters.switch_adapter(loaded, task.adapter)
print(f"off and on again: {time.monotonic() - start:.3f} s; on the model: {adapters.list_attached(loaded)}")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Merged is simple to serve and cannot be switched. Into 4 bits nothing can be merged."
# ## Merging
#
# B A has the shape of W, so it can be added to it once and for all. The result is a model folder like any other: it needs no PEFT,
# and everything that takes models takes it. It is also as large as a model, and cannot be switched off.
#
# Into 4-bit weights nothing can be merged: their few bits have no room for the small difference. There are two roads. Serve base and LoRA
# together, or merge into the full-precision model and quantise the result; where `make gptq` was run, the next cell does that too.

# %% slideshow={"slide_type": "skip"}
import shutil
from helpers import KitError, adapters, weights

for old in weights.models_folder().glob(f"{task.adapter}-merged*"):  # of an earlier run
    shutil.rmtree(old)
merged = []
try:
    merged.append(adapters.merge_adapter(task.adapter, f"{task.adapter}-merged"))
except KitError as refusal:
    print(refusal)
if merged and (weights.models_folder() / f"{lane.folder}-GPTQ").is_dir():
    merged.append(weights.quantize(merged[0].name).path)
for path in merged:
    print(f"{path.name:36} {sum(file.stat().st_size for file in path.iterdir()) / 1e6:.0f} MB")

# %% [markdown] slideshow={"slide_type": "skip"}
# Is anything lost on the way? The same rows, judged with each.

# %% slideshow={"slide_type": "skip"}
judged = test[:64]
results = {"LoRA on its base": evaluation.evaluate(loaded, judged, template, progress=False)}
adapters.switch_adapter(loaded, None)
results = {"base": evaluation.evaluate(loaded, judged, template, progress=False)} | results

# %% slideshow={"slide_type": "-"}
del loaded, plain, tensors
for path in merged:
    results[path.name] = evaluation.evaluate(loading.load_model(path.name), judged, template, progress=False)
    machine.free_memory()
for name, result in results.items():
    low, high = result.interval
    print(f"{name:36} {result.accuracy:.1%} of {result.rows} rows, 95 % interval {low:.0%} to {high:.0%}")

# %% slideshow={"slide_type": "skip"}
for path in merged[:1]:
    off = abs(results["LoRA on its base"].accuracy - results[path.name].accuracy)
    checks.confirm(off <= 2 / len(judged), "merged, it judges as base and LoRA do, but for two rows at most", "merge again, into its own base")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="One base, many LoRAs: the client picks by name. This is how one GPU serves a class."
# ## Over an API
#
# The server from lesson 3 takes adapters with `--lora`, one or several. No model is left in this notebook: two copies would be one too many.
# Where `OPENAI_BASE_URL` names a server, none is started, and that one is asked (without the LoRA, if it does not list it).

# %% slideshow={"slide_type": "skip"}
from helpers import clients, tutorial

server = tutorial.reach_server(lane.folder, lane.model, lane.revision, loras=[task.adapter])
print(server.command)
print(server.raw_url, server.openai_url)

# %% [markdown] slideshow={"slide_type": "-"}
# **The OpenAI way.** The adapter has a name, and the client picks it with `model`. The same call reaches the base under its own name.

# %% slideshow={"slide_type": "-"}
client = clients.make_openai_client(server.openai_url, server.api_key)
print("models:", [model.id for model in client.models.list()])
for model in (server.choose_model(task.adapter), server.model):
    reply = client.chat.completions.create(model=model, messages=template.build_messages(shown[0]), temperature=0, max_tokens=12)
    print(f"{model:24} {reply.choices[0].message.content!r}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **The raw way of 2023.** The instruction goes into `context_instruct`, the task into `user_input`. There is no model to pick: what was
# started with `--lora` answers. Its default `repetition_penalty` of 1.1 would make the names in the prompt less likely
# as an answer, so it is set to 1, which is none.

# %% slideshow={"slide_type": "skip"}
system, user = template.build_messages(shown[0])
chosen = {"context_instruct": system["content"], "max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1}
if server.raw_url:
    history = clients.chat_raw(user["content"], url=server.raw_url, **chosen)
    print(repr(clients.last_reply(history)))

# %% [markdown] slideshow={"slide_type": "skip"}
# **Judging over the API.** The judge only needs a function that asks, so the same measurement reaches any server that speaks this
# dialect. In a terminal it is `python -m helpers.evaluation --url URL --model college-preferences ...`; the same line will
# judge a vLLM server.

# %% slideshow={"slide_type": "skip"}
name = server.choose_model(task.adapter)
ask = lambda messages: clients.ask_openai(client, messages, model=name, temperature=0, max_tokens=12)
remote = evaluation.evaluate_over_url(ask, test[:16], template, progress=False)
print(f"{name}: {remote.accuracy:.0%} of {remote.rows} rows right over the API")

# %% slideshow={"slide_type": "skip"}
server.stop()
checks.confirm(not server.runs_here(), "no server of this notebook runs any more, and its memory is free", "server.stop()")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking: a panel
#
# Choose a LoRA, press *Apply*, and ask the same question before and after: `adapters.attach_adapter`, `adapters.set_strength`,
# `adapters.detach_adapter` and `loading.chat`. The base is loaded when it is first needed.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import LoraPanel

LoraPanel(lane.folder, template.build_messages(shown[0]))

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking and typing: the WebUI
#
# In 2023, whose programs do not read today's files:
#
# 1. Export base and LoRA: `python -m helpers.weights export SmolLM2-135M-Instruct --for webui-2023` and
#    `python -m helpers.adapters export college-preferences --for webui-2023`. Put them into `models/` and `loras/` of `text-generation-webui`.
# 2. **Model** tab: load the base with the *Transformers* loader. Below it, *LoRA(s)*: refresh, choose the LoRA, *Apply LoRAs*.
# 3. Or at the start; with a GPU, leave out `--cpu`:
#
# ```bash
# python server.py --model SmolLM2-135M-Instruct --lora college-preferences --cpu --api --extensions openai
# ```
#
# Today's WebUI takes both folders as they are, in `user_data/models/` and `user_data/loras/`, and has one API, started with `--api`:
#
# ```bash
# python server.py --model SmolLM2-135M-Instruct --lora college-preferences --api
# ```
#
# | | 2023 | today |
# |---|---|---|
# | LoRA folder | `loras/` | `user_data/loras/` |
# | weights | `adapter_model.bin` | `adapter_model.safetensors` |
# | picked over the API | at the start, or `POST /api/v1/model` with `args.lora`: the model is loaded again | `POST /v1/internal/lora/load` with `lora_names` |
# | several at once | no: it fails, or only the first works; the kit's server takes several | the same |
# | on GPTQ weights | AutoGPTQ, with a patch | gptqmodel with optimum |
#
# ## Taking it elsewhere
#
# Each program wants the folder a little differently. PEFT of 2023 fails at every setting that came later; llama.cpp wants one GGUF file;
# vLLM reads the folder as it is, but wants to know the rank and the number of LoRAs beforehand.

# %% slideshow={"slide_type": "skip"}
from helpers import adapters, find_home

for program in ("webui-2023", "webui"):
    path = adapters.export_adapter(task.adapter, program)
    print(f"{program}: {path.relative_to(find_home())}\n   {', '.join(sorted(file.name for file in path.iterdir()))}")

# %% [markdown] slideshow={"slide_type": "skip"}
# The line for vLLM, here for two machines with four GPUs each: the layers are split across the GPUs of a machine
# (`--tensor-parallel-size`), and the model across the machines (`--pipeline-parallel-size`), which Ray joins. Every GPU of a machine
# gets the same number of attention heads, so a model with 9 of them is split across 3 of 4 GPUs.

# %% slideshow={"slide_type": "skip"}
print(*adapters.build_vllm_command([task.adapter], gpus=4, machines=2), sep="\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# In a terminal: `python -m helpers.adapters export college-preferences --for webui-2023` (or `webui`, `llama.cpp`, `vllm`).
#
# A folder that travels should say what it is. This one has a *model card*, written from what was measured (`report.html` shows the curve, too):

# %% slideshow={"slide_type": "skip"}
print((folder.path / "README.md").read_text(encoding="utf-8"))

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Links of the tutorial, and what became of them
#
# | 2023 | today |
# |---|---|
# | [The example repository inwonakng/llm-usergroup-examples](https://github.com/inwonakng/llm-usergroup-examples): the script and the template that lesson 4 renews | its calls no longer match trl, transformers and openai; the mended form is lesson 4 |
# | [OpenAI's API reference](https://platform.openai.com/docs/api-reference) | `openai.ChatCompletion` became `client.chat.completions` with version 1.0 |
# | [PEFT](https://huggingface.co/docs/peft), [TRL](https://huggingface.co/docs/trl) | the same names, moved arguments: the table in lesson 4 |
# | the talk's video and slides | the notebooks carry their content; ask your organiser for the recording |

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs as it stands and does not pass yet. Change it until the line below it turns green. A solution is folded away behind each.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 1. Change a value
#
# The line for vLLM, on two machines.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
machines = 1
line = adapters.build_vllm_command([task.adapter], machines=machines)[-1]
checks.confirm("--pipeline-parallel-size 2" in line, "the model is split across two machines", "one value says how many")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
machines = 2
line = adapters.build_vllm_command([task.adapter], machines=machines)[-1]
checks.confirm("--pipeline-parallel-size 2" in line, "the model is split across two machines", "one value says how many")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# An old WebUI of 2023 is to load the LoRA. Export it for that one.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
path = adapters.export_adapter(task.adapter, "webui")
checks.confirm((path / "adapter_model.bin").is_file(), "PEFT of 2023 reads this folder", "name the program of 2023")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
path = adapters.export_adapter(task.adapter, "webui-2023")
checks.confirm((path / "adapter_model.bin").is_file(), "PEFT of 2023 reads this folder", "name the program of 2023")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# The norm of what the LoRA adds to one layer: of `scale * B @ A`.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
from helpers.adapters import read_tensors


def measure_norm(a, b, scale):
    return 0.0


a, b = (read_tensors(folder.weights)[f"base_model.model.model.layers.0.mlp.up_proj.lora_{half}.weight"] for half in "AB")
found = measure_norm(a, b, config["lora_alpha"] / config["r"])
checks.confirm(math.isclose(found, norms.loc[0, "up_proj"], rel_tol=1e-3), "the norm is the one in the figure", "square, add up, take the root")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def measure_norm(a, b, scale):
    return float(((scale * b @ a) ** 2).sum()) ** 0.5


found = measure_norm(a, b, config["lora_alpha"] / config["r"])
checks.confirm(math.isclose(found, norms.loc[0, "up_proj"], rel_tol=1e-3), "the norm is the one in the figure", "square, add up, take the root")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 4. Find the bug
#
# Another program saved the LoRA under the base's own names. This is to give them PEFT's names, and the LoRA loads and changes nothing.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def name_as_peft(name):
    return f"base_model.{name}"


saved = [name.removeprefix("base_model.model.") for name in read_tensors(folder.weights)]
mended = {name_as_peft(name) for name in saved}
checks.confirm(mended == set(read_tensors(folder.weights)), "every name has its layer", "print a name of the file that works beside a mended one")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def name_as_peft(name):
    return f"base_model.model.{name}"


mended = {name_as_peft(name) for name in saved}
checks.confirm(mended == set(read_tensors(folder.weights)), "every name has its layer", "print a name of the file that works beside a mended one")

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="The road once more, and where to go on: lesson 1 tonight, an own CSV tomorrow. Questions."
# ## Recap
#
# - An adapter folder is small and useless without its base; it records which one that is.
# - Loading without an error proves nothing. A fingerprint does.
# - Merged weights are simple to serve and cannot be switched; LoRAs on one base can, in a moment.
# - In the OpenAI dialect an adapter is picked by its name; the raw API serves what was loaded.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Check yourself
#
# <details><summary>PEFT prints a warning about missing keys, and the answers look like the base's. What happened?</summary>
# The names in the file did not match the model's layers: another base, or weights saved by another wrapper. B stayed zero.
# </details>
#
# <details><summary>Why is the LoRA asked with the template of training?</summary>
# It learned to answer that text. Another wording is another question.
# </details>

# %% slideshow={"slide_type": "skip"}
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **That is the whole road:** weights, loading, an API, training, and your own LoRA behind the API. Back to
# [Lesson 1](01_weights.ipynb), with a model and a CSV of your own.
