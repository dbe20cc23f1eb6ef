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

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="Who has loaded a LoRA that did nothing? This last lesson begins with a comment that somebody in this room writes, and ends with a LoRA that answers over an API."
# # Lesson 5: loading a LoRA, and serving it
#
# ## What you will do
#
# 1. Write a comment, and let a LoRA say whose side you are on.
# 2. Prove that a LoRA does something, instead of hoping.
# 3. See which layers it changed most, turn it up and down, and merge it.
# 4. Serve it, ask it with `curl` and Python over both APIs, and finish the scoreboard.
# 5. Take it to the WebUI, llama.cpp or vLLM.
#
# Prerequisites: lessons 2 and 3, and from lesson 4 *The numbers to beat* and *Meanwhile: what a LoRA is*. If you trained a LoRA in lesson 4, it is used here; if not, the one that comes with the kit.
#
# ![Map of the five lessons. Lesson 4, above: a CSV becomes prompts, prompts train a LoRA. Below: weights (lesson 1) become a loaded model (lesson 2), the LoRA is put on it (lesson 5), and a server answers a client (lesson 3). The weights also go, frozen, into the training. You are here: lesson 5, LoRA.](images/map-5.svg)

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | [lane](glossary.md#lane) | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 2.2 | 2.9 GB | 0.6 GB | 2026-11-29 on CPU, 2 cores, bfloat16, commit 5104f27ead75 |
#
# Not run yet in these lanes: `t4`, `large`.
#
# <!-- Written by `python -m tools.cost_boxes` from `benchmarks/tutorial.json`. `make tutorial ARGS=--in-place` records a run. -->

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

# %% slideshow={"slide_type": "skip"}
from peft import PeftModel

from helpers import adapters, loading, tasks, tutorial, weights

lane, task = lanes.pick_lane().value, tutorial.pick_task()
weights.fetch(lane.model, lane.revision)
folder = tutorial.ensure_adapter(task, lane)
data = tasks.load_task_data(task.data, task.template)
template = data.template
loaded = loading.load_model(lane.folder)
plain, base_numbers = loaded.model, loaded.model.num_parameters()
loaded.model = PeftModel.from_pretrained(plain, folder.path, adapter_name=folder.name).eval()
print(f"{folder.name} on {lane.folder}: {type(plain).__name__} became {type(loaded.model).__name__}")

# %% [markdown] minutes=3 slideshow={"slide_type": "slide"} speaker="Ask the room for a sentence about two colleges and type it in. Then run the cell: it asks twice, the second time with the options swapped. The answer must follow the name, not the place. If it does not, say so. On held-out comments, the live LoRA is wrong about one in three, the 15-minute one about one in four, and a sentence from the room may be harder. If nothing runs, use the printed example."
# ## Your own comment
#
# Change the three lines to whatever you like and run the cell. It asks twice: the second time, the two options have traded places. A model that really reads sticks to the *name*.

# %% slideshow={"slide_type": "-"}
own = {
    "alternative_a": "Elmsworth College",
    "alternative_b": "Glenhaven University",
    "text": "Everyone told me to go to Glenhaven. I picked Elmsworth and never looked back.",
}
own = tutorial.fit_row(own, template, data.test)  # with another task: one of its rows
for row in tutorial.list_orders(own, template):
    base, lora = adapters.answer_both_ways(loaded, template.build_messages(row), max_new_tokens=12)
    print(f"{template.build_messages(row)[-1]['content']}\n  base: {base!r}\n  LoRA: {lora!r}\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the base rambles, the LoRA gives one of its four answers and stops. That is the form. Whether the answer is *right* is another matter: the printed comment was chosen because it works. The live LoRA of lesson 4 is wrong on one held-out comment in three, and yours may be harder. Try a few.
#
# Loading took two steps: first the base, then `PeftModel`, which puts A and B beside each W that the folder's configuration names. W stays as it was.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## What is in the folder
#
# A [LoRA](glossary.md#lora), or [adapter](glossary.md#adapter), is not a model: it is the change that training made, as thin matrices, with a note of the base they belong to.

# %% slideshow={"slide_type": "skip"}
config, run = folder.config, folder.run
for key in ("base_model_name_or_path", "peft_type", "r", "lora_alpha"):
    print(f"{key:24} {config[key]}")
print(f"{'trained on':24} {run['rows']} rows in {run['seconds'] / 60:.1f} minutes, {run['date']}, {run['device']}")
print(f"{'weights':24} {folder.weights.stat().st_size / 1e6:.1f} MB")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Predict:** how many numbers does the LoRA have, as a share of the base's? (0 to 1)

# %% slideshow={"slide_type": "skip"}
guess = 0.2  # yours

# %% slideshow={"slide_type": "skip"}
from safetensors.torch import load_file

tensors = load_file(folder.weights)
numbers = sum(tensor.numel() for tensor in tensors.values())
print(f"{len(tensors)} matrices, {numbers:,} numbers; the base has {base_numbers:,}. One layer's:")
for name in sorted(tensors)[-2:]:
    print(f"{tuple(tensors[name].shape)!s:12} {name}")
checks.compare_guess(guess, numbers / base_numbers, "%")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Proof of several kinds, in a process that did not train it. The fingerprint is the strongest: the logits saved after training must come back."
# ## Does it do anything?
#
# The usual disappointment is that a LoRA loads without an error and changes nothing. PEFT only warns if the names in the file don't match the model's layers,
# and a LoRA of zeros loads without a word. So ask for proof:
#
# - The **weights** hold no NaN or infinity, are not all zero, and each belongs to a layer.
# - The **template** is the text that the LoRA was trained on.
# - The **[fingerprint](glossary.md#fingerprint)**: right after training, the scores of the next token ([logits](glossary.md#logits)) were saved for a few prompts. Here they must
#   come back, up to rounding.
# - The **[KL divergence](glossary.md#kl-divergence)** says how far LoRA and base disagree about the next token, in [nats](glossary.md#nats). 0 would mean not at all.

# %% slideshow={"slide_type": "skip"}
findings = adapters.prove(loaded, folder.name, template)
for finding in findings:
    print(f"{finding.claim}: {finding.seen}")

# %% slideshow={"slide_type": "-"}
checks.confirm_adapter(findings)

# %% [markdown] slideshow={"slide_type": "skip"}
# A logit of 32 is stored in steps of 0.25 in bfloat16, so a difference that small is rounding. In a terminal the same is
# `python -m helpers.adapters prove NAME`. If a proof fails, it ends with exit code 2.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Where it works
#
# How much does the LoRA change each matrix? The figure shows the size of the change relative to the matrix itself: the norm of `scale * B @ A`, divided by the norm of W.
# (A [norm](glossary.md#frobenius-norm) here is the root of the sum of all squared numbers.)
#
# **Predict:** which of the seven changes most? Four are in the attention (`q_proj`, `k_proj`, `v_proj`, `o_proj`), three in the MLP (`gate_proj`, `up_proj`, `down_proj`). Write its name.

# %% slideshow={"slide_type": "skip"}
guess = "q_proj"  # yours

# %% slideshow={"slide_type": "skip"} tags=["remove-input"]
from helpers.tutorial import plots

norms = adapters.measure_relative_norms(loaded, folder)
means = norms.mean().sort_values(ascending=False)
words = f"Mean over the layers, largest first: {', '.join(f'{name} {value:.1%}' for name, value in means.items())}."
plots.show(plots.draw_relative_norms(norms), f"Relative size of the change, by layer, for each projection. {words}")
print(words)
# Two means that differ by less than 0.2 points are as good as equal.
close = guess in means and means[guess] > means.iloc[0] - 0.002
checks.compare_guess(guess, guess if close else means.index[0])

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** a change of two or three percent is enough. (Its numbers are few, too: here they are a share of the whole base, in the picture of lesson 1 a share of all W of a larger LoRA, in that of lesson 4 a share of one W.) The lowest quarter of the layers has no LoRA in the lane `tiny`. Where is most of the change in the layers above it,
# and where in the last ones? (With our LoRA: first in `v_proj` and `o_proj`, which carry on what was read; from layer 20 on in `q_proj` and `k_proj`, which decide where to look.)
#
# ## Turning it up and down
#
# W + [strength](glossary.md#strength) · scale · B A, where the scale is alpha / r: at 0 the LoRA is off, at 1 it is as trained, at 2 it pushes twice as hard. The table shows how likely each of the four answers is for your comment. At 0 all four are close to 0%:
# the base would say something else.

# %% slideshow={"slide_type": "skip"}
import math

from helpers import evaluation

print("strength", *template.build_answers(own).values(), sep="  |  ")
for strength in (0, 0.5, 1, 1.5, 2):
    with adapters.set_strength(loaded, strength):
        scores = evaluation.score_answers(loaded, [own], template, progress=False)[0]
    print(f"{strength:8}", *(f"{math.exp(score):6.1%}" for score in scores.values()), sep="  |  ")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** half a LoRA already answers in the right form. Pushed harder, this one gets no surer: at 2, some of the probability goes to texts that are none of the four answers.
#
# ## On and off, several at once
#
# The base is loaded once. LoRAs are put on, switched and taken off in a moment, since each is only a few megabytes beside it. Below, lesson 4's LoRA (if you trained one)
# and the kit's are on the same base.

# %% slideshow={"slide_type": "skip"}
import time

ready = tutorial.find_ready(task, lane)
if ready and ready not in adapters.list_attached(loaded):
    adapters.attach_adapter(loaded, ready)
messages = template.build_messages(own)
for name in (None, *adapters.list_attached(loaded)):
    start = time.monotonic()
    adapters.switch_adapter(loaded, name)
    switched = time.monotonic() - start
    answer = loading.chat(loaded, messages, max_new_tokens=12)
    print(f"{name or 'base alone':32} {answer!r} (switched in {switched:.3f} s)")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Merging
#
# ![Merging. Before: W, 576 by 576 numbers, and beside it B, 576 by 16, and A, 16 by 576; the LoRA can be switched off. After: one matrix, 576 by 576, which is W + 2 B A; it is as large as W, and the LoRA is part of it for good.](images/merging.svg)
#
# B A has the shape of W, so it can be [added to W](glossary.md#merge) once and for all. The result is a model folder like any other: no PEFT needed, and everything that loads
# models loads it. It is also as large as a model, and can't be switched off.
#
# You can't merge into **GPTQ** weights: their few bits have no room for the small change. Serve base and LoRA together, or merge into the full-precision model and quantise that.

# %% slideshow={"slide_type": "skip"}
import shutil

from helpers import KitError

merged = None
for earlier in weights.models_folder().glob(f"{folder.name}-merged*"):  # from an earlier run
    shutil.rmtree(earlier)
try:
    merged = adapters.merge_adapter(folder.name, f"{folder.name}-merged")
    print(f"{merged.name}: {sum(file.stat().st_size for file in merged.iterdir()) / 1e6:.0f} MB")
except KitError as refusal:
    print(refusal)

# %% [markdown] slideshow={"slide_type": "skip"}
# Is anything lost on the way? The scoreboard of lesson 4 goes on: the same held-out rows, whoever answers. If you come here without lesson 4, the first lines are computed now.

# %% slideshow={"slide_type": "skip"}
import pandas as pd

pd.set_option("display.max_colwidth", None)  # tables show whole sentences
board = evaluation.Scoreboard(data.test, template)
board.load(tutorial.name_board(task))
board.lines.pop("over the API", None)  # of an earlier run; it is measured again below
score = lambda model: evaluation.score_answers(model, data.test, template, progress=False)
if not board.lines:
    board.add_majority()
    adapters.switch_adapter(loaded, None)
    board.add_scores("base", "the model before training", score(loaded))
    words = tasks.score_bag_of_words(data.train, data.test)
    board.add_scores("bag of words", "counts words and pairs of words; fitted on the training rows", words)
    adapters.switch_adapter(loaded, folder.name)
    board.add_scores(folder.name, "the LoRA of this lesson, on its base", score(loaded))

# %% slideshow={"slide_type": "skip"}
del loaded, plain, tensors
machine.free_memory()
if merged:
    board.add_scores("merged", f"{folder.name}, added to its base for good", score(loading.load_model(merged.name)))
board.tabulate()

# %% slideshow={"slide_type": "skip"}
tuned = "live LoRA" if "live LoRA" in board.lines else folder.name
if merged:
    off = abs(board.get_shares()[tuned][0] - board.get_shares()["merged"][0])
    says = "merged or not, its accuracy differs by at most 2 points"
    checks.confirm(off <= 0.02, says, "merge again, into its own base")
machine.free_memory()

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="If the server is up, run it with the room's comment. One base, many LoRAs: the client picks by name. That is how one GPU serves a class."
# ## Over an API
#
# The server from lesson 3 takes LoRAs with `--lora`, one or several. (To ask another server, set `OPENAI_BASE_URL`.)

# %% slideshow={"slide_type": "skip"}
from helpers import clients

server = tutorial.reach_server(lane.folder, lane.model, lane.revision, loras=[folder.name])
print(server.command)
print(server.raw_url, server.openai_url)

# %% [markdown] slideshow={"slide_type": "skip"}
# **With Python.** The LoRA has a name, and the client picks it with `model`. Under the base's name, the same call reaches the base.

# %% slideshow={"slide_type": "-"}
client = clients.make_openai_client(server.openai_url, server.api_key)
print("models:", [model.id for model in client.models.list()])
for model in (server.choose_model(folder.name), server.model):
    reply = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=12)
    print(f"{model:32} {reply.choices[0].message.content!r}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **With `curl`**, the same request, as you would type it in a terminal. `curl` prints the whole JSON; the cell shows only the answer in it:

# %% slideshow={"slide_type": "skip"}
body = {"model": server.choose_model(folder.name), "messages": messages, "temperature": 0, "max_tokens": 12}
tutorial.run_curl(f"{server.openai_url}/chat/completions", body, server.api_key)

# %% [markdown] slideshow={"slide_type": "skip"}
# **The raw API of 2023.** The instruction goes into `context_instruct`, which counts only with `mode: instruct`, the task into `user_input`. You can't pick a model here: the server answers with the LoRA that it was started with.
# Its `repetition_penalty` of 1.1 would make the names in the prompt less likely as an answer, so it is set to 1, which means none.

# %% slideshow={"slide_type": "skip"}
system, user = messages
chosen = {"mode": "instruct", "context_instruct": system["content"], "max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1}
if server.raw_url:
    history = clients.chat_raw(user["content"], url=server.raw_url, **chosen)
    print(repr(clients.last_reply(history)))
    body = {"user_input": user["content"], "history": {"internal": [], "visible": []}, **chosen}
    tutorial.run_curl(f"{server.raw_url}/api/v1/chat", body)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Judged over the API
#
# To judge a server, all you need is a function that asks it. In a terminal: `python -m helpers.evaluation --url URL --model NAME ...`, for a vLLM server too.
# For *right side*, the server may answer only with one of the two names: `structured_outputs` with `choice`, as vLLM calls it.

# %% slideshow={"slide_type": "skip"}
name = server.choose_model(folder.name)
ask = lambda messages, **more: clients.ask_openai(client, messages, model=name, temperature=0, max_tokens=12, **more)
said = evaluation.ask_predictions(ask, data.test, template, progress=False)
sides = evaluation.ask_sides(ask, board.on_side, template, board.pair)
board.add_predictions("over the API", f"{name}, asked over HTTP, 8 rows at a time", said, sides)
board.save(tutorial.name_board(task))

# %% slideshow={"slide_type": "skip"} tags=["remove-input"]
plots.show_scoreboard(board)
checks.publish("scoreboard", board.list_figures(), board.describe_rows())
board.tabulate()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the LoRA of this lesson was asked in several ways: on its base, merged, and over the API. They differ in a few rows only: merging rounds W, and over the API the model writes freely instead of
# choosing among four answers.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="The five comments again, the truth, base and LoRA, and the address that answered. In lesson 4 the base chose among four answers; here it writes freely, so it fails where it was right before. If the LoRA has one wrong, say so: over all rows, the live LoRA is wrong one time in three."
# ## From question to answer, in one table
#
# The five comments of lesson 4: the right answer, and what base and LoRA write over the API.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
answers = tutorial.ask_both(client, data.test, template, base=server.model, lora=name)
tutorial.show_answers(answers, server.openai_url)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the five were drawn from the shorter held-out comments. Of thirty such draws, we took one in which the LoRA has four right: that is 80%, and over
# all rows it has fewer. The base looked better in lesson 4, where it chose among the four answers. Here it writes freely.

# %% slideshow={"slide_type": "skip"}
server.stop()
checks.confirm(not server.runs_here(), "the server has stopped, and its memory is free", "server.stop()")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## By clicking: a panel
#
# Choose a LoRA, press *Apply*, and ask the same question before and after. The base is loaded when it is first needed.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import LoraPanel

LoraPanel(lane.folder, messages)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## By clicking and typing: the WebUI
#
# The WebUI of 2023 can't read today's files, so export them first:
#
# 1. Export base and LoRA: `python -m helpers.weights export SmolLM2-135M-Instruct --for webui-2023` and
#    `python -m helpers.adapters export college-preferences --for webui-2023`. Put them into `models/` and `loras/` of `text-generation-webui`.
# 2. **Model** tab: load the base with the *Transformers* loader. Below it, *LoRA(s)*: refresh, choose the LoRA, *Apply LoRAs*. (Today they are under *See more options*: 4 to 6 in the picture of [lesson 2](02_loading.ipynb).)
# 3. Or name both when you start it (with a GPU, leave out `--cpu`):
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
# | | 2023 | today (4.7.3, May 2026) |
# |---|---|---|
# | LoRA folder | `loras/` | `user_data/loras/` |
# | weights | `adapter_model.bin` | `adapter_model.safetensors` |
# | picked over the API | at the start, or `POST /api/v1/model` with `args.lora`: the model is loaded again | `POST /v1/internal/lora/load` with `lora_names` |
# | several at once | no: it fails, or only the first works | still no |
# | on GPTQ weights | AutoGPTQ, with a patch | not out of the box: gptqmodel and optimum are missing |
#
# ## Taking it elsewhere
#
# Each program expects a slightly different folder. PEFT of 2023 fails on every setting that was added later; llama.cpp needs one GGUF file;
# vLLM reads the folder as it is, but wants to know the rank and the number of LoRAs beforehand.

# %% slideshow={"slide_type": "skip"}
from helpers import adapters, find_home

for program in ("webui-2023", "webui"):
    path = adapters.export_adapter(folder.name, program)
    print(f"{program}: {path.relative_to(find_home())}\n   {', '.join(sorted(file.name for file in path.iterdir()))}")

# %% [markdown] slideshow={"slide_type": "skip"}
# The vLLM command, here for two machines with four GPUs each: the layers are split across the GPUs of a machine (`--tensor-parallel-size`), and the model across
# the machines (`--pipeline-parallel-size`), which Ray, a program for clusters, joins. Every GPU must get the same number of attention heads. This model has 9, so vLLM would refuse 4 GPUs, and the
# command takes 3 of them.

# %% slideshow={"slide_type": "skip"}
print(*adapters.build_vllm_command([folder.name], gpus=4, machines=2), sep="\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# In a terminal: `python -m helpers.adapters export college-preferences --for webui-2023` (or `webui`, `llama.cpp`, `vllm`).
#
# A folder that travels should say what it is. This one has a [model card](glossary.md#model-card), written from what was measured (`report.html` shows the curve, too):

# %% slideshow={"slide_type": "skip"}
print((folder.path / "README.md").read_text(encoding="utf-8"))

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Links of the tutorial, and what became of them
#
# | 2023 | today (checked in November 2026) |
# |---|---|
# | [The example repository inwonakng/llm-usergroup-examples](https://github.com/inwonakng/llm-usergroup-examples): script and template | its calls no longer match trl, transformers and openai; lesson 4 has a working version |
# | [OpenAI's API reference](https://platform.openai.com/docs/api-reference) | `openai.ChatCompletion` became `client.chat.completions` in version 1.0 |
# | [PEFT](https://huggingface.co/docs/peft), [TRL](https://huggingface.co/docs/trl) | the same names, moved arguments: the table in [lesson 4's appendix](04b_training_appendix.ipynb) |
# | the talk's video and slides | the notebooks have their content; the recording is with whoever organised it |

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs but doesn't pass yet. Change it until its line turns green. A solution is folded away below each.
#
# ### 1. Change a value
#
# Print vLLM's command for two machines.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
machines = 1
line = adapters.build_vllm_command([folder.name], machines=machines)[-1]
split = "--pipeline-parallel-size 2" in line
checks.confirm(split, "the model is split across two machines", "one value says how many")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
machines = 2
line = adapters.build_vllm_command([folder.name], machines=machines)[-1]
split = "--pipeline-parallel-size 2" in line
checks.confirm(split, "the model is split across two machines", "one value says how many")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# You want to load the LoRA in a WebUI of 2023. Export it for that one.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
path = adapters.export_adapter(folder.name, "webui")
weights_file = path / "adapter_model.bin"
checks.confirm(weights_file.is_file(), "PEFT of 2023 reads this folder", "name the program of 2023")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
path = adapters.export_adapter(folder.name, "webui-2023")
weights_file = path / "adapter_model.bin"
checks.confirm(weights_file.is_file(), "PEFT of 2023 reads this folder", "name the program of 2023")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# Compute the norm of what the LoRA adds to one layer: the norm of `scale * B @ A`.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
from helpers.adapters import read_tensors  # into NumPy arrays


def measure_norm(a, b, scale):
    return 0.0


expected = adapters.measure_norms(folder)  # a line for each layer, a column for each projection
number, kind = expected.index[-1], expected.columns[-1]
# In alphabetical order, so the name that ends with lora_A comes before the one with lora_B.
matrices = sorted(read_tensors(folder.weights).items())
a, b = (part for name, part in matrices if f".{number}." in name and f".{kind}." in name)
found = measure_norm(a, b, config["lora_alpha"] / config["r"])
checks.confirm(math.isclose(found, expected.loc[number, kind], rel_tol=1e-3), "the norm is right", "square, add up, take the root")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def measure_norm(a, b, scale):
    return float(((scale * b @ a) ** 2).sum()) ** 0.5


found = measure_norm(a, b, config["lora_alpha"] / config["r"])
checks.confirm(math.isclose(found, expected.loc[number, kind], rel_tol=1e-3), "the norm is right", "square, add up, take the root")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 4. Find the bug
#
# Another program saved the LoRA under the base's own names. This function should give them PEFT's names. As it is, the LoRA loads and changes nothing.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def name_as_peft(name):
    return f"base_model.{name}"


saved = [name.removeprefix("base_model.model.") for name in read_tensors(folder.weights)]
repaired = {name_as_peft(name) for name in saved}
hint = "print a name of the file that works beside a repaired one"
checks.confirm(repaired == set(read_tensors(folder.weights)), "every name has its layer", hint)

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def name_as_peft(name):
    return f"base_model.model.{name}"


repaired = {name_as_peft(name) for name in saved}
hint = "print a name of the file that works beside a repaired one"
checks.confirm(repaired == set(read_tensors(folder.weights)), "every name has its layer", hint)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Recap
#
# - A LoRA folder is small and useless without its base, and says which one that is.
# - Loading without an error proves nothing. A fingerprint does.
# - Merged weights are simple to serve and can't be switched. LoRAs on one base can, in a moment.
# - Over the OpenAI-style API a LoRA is picked by its name; the raw API serves what the server was started with.
#
# ## Check yourself
#
# **1. PEFT warns about missing keys, and the answers look like the base's. What happened?**
#
# - a) The LoRA was trained for too few steps
# - b) The names in the file don't match the model's layers
# - c) The LoRA was saved in float16, and the base is in bfloat16
#
# <details><summary>Answer</summary>
# <b>b.</b> Another base, or weights saved by another program: B stayed zero. With too few steps (a) the answers would change a little, and nothing would be missing. Number formats (c) are converted.
# </details>
#
# **2. Why is the LoRA asked with the template of its training?**
#
# - a) It learned to answer that text, and another wording is another question
# - b) PEFT refuses other templates
# - c) The LoRA contains the template and applies it itself
#
# <details><summary>Answer</summary>
# <b>a.</b> Nothing refuses another template (b), and the LoRA's weights know nothing of one (c), which is why the mistake is so common: the answers only get worse.
# </details>
#
# **3. One GPU has to serve ten LoRAs on the same base. What do you do?**
#
# - a) Merge each, and start ten servers
# - b) Merge all ten into one model
# - c) Load the base once, and let the client pick a LoRA by its name
#
# <details><summary>Answer</summary>
# <b>c.</b> a needs ten times the memory, and b adds all ten changes up, so that none of them is left as trained.
# </details>

# %% slideshow={"slide_type": "skip"}
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **You have come the whole way:** weights, loading, an API, training, and your own LoRA behind an API. Next: [a table of your own](your_turn.ipynb), or back to
# [lesson 1](01_weights.ipynb) with a model of your own.
