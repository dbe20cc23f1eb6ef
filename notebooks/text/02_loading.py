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

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="Now the folder becomes something that answers."
# # Lesson 2: loading a model and asking it
#
# ## What you will do
#
# 1. Find out which loader a folder needs, and why.
# 2. Load a model and its tokenizer, and watch the memory.
# 3. Read the text that a chat really is, token by token.
# 4. Generate an answer, greedily and by chance, and see why it stops.
# 5. Know the settings for larger models, and the same steps in the WebUI.
#
# Prerequisites: lesson 1 (what is in a model's folder). What it fetched is fetched here when it is missing.

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | lane | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 0.8 | 1.8 GB | 0.3 GB | 2026-11-28 on CPU, 2 cores, float32, commit 29745b189eb2 |
# | t4 | – | – | – | not run yet |
# | large | – | – | – | not run yet |
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

# %% [markdown] slideshow={"slide_type": "skip"}
# The **lane** in the last line is a set of settings for a class of machine: which model, which loader. The cells are the same in every lane.
#
# ## Which loader
#
# A **loader** is the program that reads a weight format and computes with it. This kit knows three: *transformers* for
# unquantised safetensors, *gptq* for GPTQ folders, *llama.cpp* for GGUF. The files in the folder tell which one is needed.

# %% slideshow={"slide_type": "skip"}
from helpers import KitError, loading, weights

lane = lanes.pick_lane().value
found = weights.fetch(lane.model, lane.revision)
folder = found.path
print(f"{lane.folder} is in models/, and its loader is {loading.detect_loader(found).value}")

# %% slideshow={"slide_type": "skip"}
for name in weights.list_models():
    try:
        loader, reason = loading.detect_loader(weights.find_model(name))
    except KitError as error:
        loader, reason = "none", error
    print(f"{name:60} {loader:12} ({reason})")

# %% [markdown] slideshow={"slide_type": "skip"}
# Only small files are read for this, so we can try it with a folder that holds a `config.json` and nothing else.

# %% slideshow={"slide_type": "skip"}
import json, tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as scratch:
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True}}
    Path(scratch, "config.json").write_text(json.dumps(config))
    print(*loading.detect_loader(weights.ModelFolder(Path(scratch))), sep=": ")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Three lines to remember. dtype and device are the two choices; the rest has good defaults. Show the live cell if there is time."
# ## Loading
#
# Two choices come first. The **device** is where the model computes: `cuda` (an NVIDIA GPU) or `cpu`. The **dtype** is the number format that it
# computes in. bfloat16 and float16 take half the memory of float32. bfloat16 has the range of float32, so it does not overflow; old GPUs
# such as the T4 do not have it and take float16. On a CPU without bfloat16 instructions, float32 is the fast one.

# %% slideshow={"slide_type": "skip"}
device, dtype = machine.pick_device().value, machine.pick_dtype().value
print(f"{device}: {machine.pick_device().reason}\n{dtype}: {machine.pick_dtype().reason}")

# %% [markdown] slideshow={"slide_type": "skip"}
# Look before you load: the weight files must fit into the free memory.

# %% slideshow={"slide_type": "skip"}
needed = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
free, total = machine.measure_memory().value
print(f"needed for the weights: {needed / 1e9:.2f} GB, free: {free / 1e9:.2f} GB")
checks.confirm(needed < 0.8 * free, "the model fits, with a fifth to spare", "close other programs, or set KIT_LANE=tiny and restart the kernel")

# %% slideshow={"slide_type": "-"}
from transformers import AutoModelForCausalLM, AutoTokenizer

before = machine.measure_used().value
model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device, trust_remote_code=False)
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # LLaMA 2 has no token for padding

# %% slideshow={"slide_type": "-"}
after = machine.measure_used().value
print(f"{type(model).__name__}, {model.num_parameters():,} parameters, weights {model.get_memory_footprint() / 1e6:.0f} MB")
print(f"used before: {before / 1e6:.0f} MB, after: {after / 1e6:.0f} MB ({machine.measure_used().reason})")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** on a GPU the memory grows by the size of the weights. On a CPU it may grow by less: the file is *mapped*, which means that a part
# of it enters memory when it is first used. We will measure again after the first answer. `trust_remote_code=False`:
# a folder may bring Python code of its own; it is not run.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="The one slide to take home: a chat is one text. Most bad answers of local models are a wrong template. Point at the open assistant turn at the end."
# ## What a chat really is
#
# A language model continues a text. A conversation must therefore become one text, in the notation that this model was trained on: its
# **chat template**. Here is a conversation as a list of messages, each with a **role** (who speaks). One turn is over, the second has begun.

# %% slideshow={"slide_type": "-"}
messages = [
    {"role": "user", "content": "Reply with Yes"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "What color is the sky?"},
]
picked = loading.set_chat_template(tokenizer, folder.name)  # LLaMA 2's tokenizer of 2023 had none
print(f"chat template: {picked.name}, because {picked.reason}\n")
print(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it** (in the tiny lane; other models have another notation):
#
# - `<|im_start|>` opens a turn and `<|im_end|>` closes it. They are **special tokens**: one token each, never part of what someone typed.
# - The word behind `<|im_start|>` is the role.
# - We wrote no `system` turn. The template adds the publisher's own; write one yourself and it takes its place.
# - The text ends with an open `assistant` turn. `add_generation_prompt=True` put it there. What comes next is the answer.
#
# The model sees numbers. Each **token** (a word, a part of a word, or a special token) has an id, its place in the vocabulary.
#
# **Predict:** how many tokens is the conversation above?

# %% slideshow={"slide_type": "skip"}
guess = 20  # yours

# %% slideshow={"slide_type": "skip"}
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt").to(model.device)
checks.compare_guess(guess, inputs["input_ids"].shape[1], "tokens")
print("The last ones:")
for token in inputs["input_ids"][0, -13:].tolist():
    print(f"{token:6} {tokenizer.decode([token])!r}")

# %% [markdown] slideshow={"slide_type": "skip"}
# A space belongs to the word behind it, and a line break is a token too.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Why does it stop? Because it wrote EOS. Keep this in mind: lesson 4 breaks it on purpose."
# ## The answer
#
# The model gives each token of the vocabulary a score for coming next. The simplest choice is **greedy**: always take the highest.

# %% slideshow={"slide_type": "-"}
start = inputs["input_ids"].shape[1]
output = model.generate(**inputs, max_new_tokens=60, do_sample=False, temperature=None, top_p=None)
print(repr(tokenizer.decode(output[0, start:])))
print(f"used now: {machine.measure_used().value / 1e6:.0f} MB, before loading: {before / 1e6:.0f} MB")

# %% [markdown] slideshow={"slide_type": "skip"}
# `temperature=None` and `top_p=None` set the folder's defaults for sampling aside: greedy has no use for them.
#
# **Why does it stop?** Because it wrote a certain token: **EOS**, end of sequence. In training, each answer ended with it. `generate` stops at EOS, or after
# `max_new_tokens`, whichever comes first.

# %% slideshow={"slide_type": "fragment"}
stops = output[0, -1].item() == tokenizer.eos_token_id
print(f"EOS is {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}), padding is {tokenizer.pad_token!r} (id {tokenizer.pad_token_id})")
checks.confirm(stops, "the answer ended with EOS", "raise max_new_tokens: it was cut off")

# %% slideshow={"slide_type": "skip"}
short = model.generate(**inputs, max_new_tokens=3, do_sample=False, temperature=None, top_p=None)
print(repr(tokenizer.decode(short[0, start:])), "cut off, no EOS")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Padding** fills up texts of unequal length so that they fit into one rectangle. The mask tells the model which tokens are real (1). Padding stands on the
# left, because the answer continues on the right.

# %% slideshow={"slide_type": "skip"}
batch = tokenizer(["Hi", "What color is the sky?"], padding=True)
for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
    print(ids, mask)

# %% [markdown] slideshow={"slide_type": "skip"}
# Here EOS and padding are the same token. For generating that is fine. In training it is the classic mistake: a program that ignores padding
# ignores EOS as well, and the model never learns to stop. Lesson 4 takes care of it.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Let the room say which column is which before you point. The seed repeats a draw on one machine, not on all."
# ## Chance and temperature
#
# Scores become probabilities (softmax), and a token can be drawn by lot: **sampling**. The **temperature** divides the scores first. A low one makes the
# favourite nearly certain, a high one gives the others a chance. These are the probabilities of the first token of the answer:

# %% slideshow={"slide_type": "-"}
import pandas as pd
import torch

with torch.inference_mode():
    scores = model(**inputs).logits[0, -1].float()
top = scores.topk(5).indices
columns = {f"temperature {t}": [f"{p:.1%}" for p in torch.softmax(scores / t, dim=0)[top].tolist()] for t in (0.2, 1.0, 2.0)}
pd.DataFrame(columns, index=[repr(tokenizer.decode([token])) for token in top.tolist()])

# %% [markdown] slideshow={"slide_type": "skip"}
# The draw is made by a generator of random numbers. Set its **seed**, and the same draw comes again on the same machine.

# %% slideshow={"slide_type": "skip"}
for temperature, seed in ((0.2, 1), (0.2, 2), (1.5, 1), (1.5, 2)):
    torch.manual_seed(seed)
    drawn = model.generate(**inputs, max_new_tokens=24, do_sample=True, temperature=temperature, top_p=1.0)
    print(f"temperature {temperature}, seed {seed}: {tokenizer.decode(drawn[0, start:], skip_special_tokens=True)!r}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** at a low temperature the seeds nearly agree. At 1.5 a model of this size begins to ramble.

# %% slideshow={"slide_type": "skip"}
torch.manual_seed(2)
again = model.generate(**inputs, max_new_tokens=24, do_sample=True, temperature=1.5, top_p=1.0)
checks.confirm(torch.equal(again, drawn), "the same seed gives the same answer", "run the cell above again, then this one")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same as one call
#
# `load_model` does what you did: it finds the folder, detects the loader, compares sizes with the free memory, chooses device and dtype, and loads. `chat`
# renders, generates and decodes. First the model above must go: two copies are one too many.

# %% slideshow={"slide_type": "skip"}
del model
machine.free_memory()

# %% slideshow={"slide_type": "skip"}
loaded = loading.load_model(lane.folder)
print(f"{loaded.name}: {loaded.loader.value} ({loaded.loader.reason})")
print(loading.chat(loaded, messages))

# %% [markdown] slideshow={"slide_type": "skip"}
# When something is wrong, it says so in a sentence, and what to do in another. A name that is not there, for example:

# %% slideshow={"slide_type": "skip"}
try:
    loading.load_model("no-such-model")
except KitError as error:
    print(error.remedy)

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Ask for guesses first: which is fastest here? On a CPU speed follows the bytes that are read for each token."
# ## One model, several number formats
#
# Lesson 1 counted bytes. Now measure what they buy: the same model in float32, in bfloat16, in 4 bits as **GPTQ** and in 4 bits as **GGUF**. The first three are
# loaded by transformers, the last one by **llama.cpp**. A GPTQ version of the kit's model is made in a minute, once, in a terminal:
#
# ```bash
# python -m helpers.weights gptq SmolLM2-135M-Instruct
# ```

# %% [markdown] slideshow={"slide_type": "skip"}
# Without it, or without the packages, that line is left out below. The last column is the **perplexity** of a passage of 100 words that no model has seen: the number of
# tokens among which the model hesitates, on average, before each next one. Lower is better.
#
# **Predict:** how many times as fast as float32 is the fastest of them on this machine? The measuring takes less than a minute; each format runs in
# a process of its own.

# %% slideshow={"slide_type": "skip"}
guess = 2.0  # yours

# %% slideshow={"slide_type": "skip"}
from helpers import tutorial
from helpers.tutorial import plots

loading.free(loaded)
compared = tutorial.compare_formats("SmolLM2-135M-Instruct")
pd.DataFrame(compared).drop(columns="folder").set_index("format").round({"disk_mb": 0, "load_s": 1, "memory_mb": 0, "tokens_per_s": 0, "perplexity": 1})

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
plots.show(plots.draw_formats(compared), "Bars for each number format: MB on disk, MB in memory, tokens a second, perplexity; the numbers are in the table above")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** a process counts as a whole, so Python and its libraries weigh more here than the model. The two GGUF and bfloat16 lines have the same weights, since the
# folder was made from that file: what differs is the program, and their perplexities are neighbours. GPTQ rounds once more, weights that had been
# rounded already, to a grid that does not quite fit, and pays for it. Speed on a CPU follows the bytes that must be read for each token, and the care with
# which the program reads them.

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
table = {row["format"]: row for row in compared}
fastest = max(compared, key=lambda row: row["tokens_per_s"])
print("fastest:", fastest["format"])
checks.compare_guess(guess, fastest["tokens_per_s"] / table["float32"]["tokens_per_s"], "times")
checks.confirm(table["bfloat16"]["perplexity"] < 1.02 * table["float32"]["perplexity"], "bfloat16 predicts as float32 does", "look at the table again")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Larger models: the other lanes
#
# The lanes are settings. `KIT_LANE=t4` or `KIT_LANE=large` in the environment overrides the choice.

# %% slideshow={"slide_type": "skip"}
from dataclasses import asdict

table = pd.DataFrame([asdict(lane) for lane in lanes.LANES.values()]).set_index("name")
table[["machines", "model", "revision", "loader", "gpu_gb"]]

# %% [markdown] slideshow={"slide_type": "skip"}
# The tutorial of 2023 ran the last one: LLaMA 2 70B in 4 bits on one large GPU. Its lines were of this kind:
#
# ```python
# from auto_gptq import exllama_set_max_input_length
# from transformers import AutoModelForCausalLM, AutoTokenizer
#
# name, revision = "TheBloke/Llama-2-70B-chat-GPTQ", "gptq-4bit-64g-actorder_True"
# model = AutoModelForCausalLM.from_pretrained(name, revision=revision, device_map="auto")
# model = exllama_set_max_input_length(model, 4096)
# tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
# ```
#
# They fail today at the first line. transformers 5 reads GPTQ folders through **gptqmodel** with **optimum** and refuses **auto-gptq**, whose last release is of
# March 2024 and has no wheel for Python 3.12. `exllama_set_max_input_length` gave the ExLlama kernel (the piece of GPU code
# that multiplies 4-bit weights) a larger buffer, which act-order models needed for prompts over 2048 tokens. Today's kernels size their own buffers: the line is dropped.
# The kernel is chosen with `backend`:
#
# ```python
# import torch
# from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig
#
# name, revision = "TheBloke/Llama-2-70B-chat-GPTQ", "gptq-4bit-64g-actorder_True"
# how = GPTQConfig(bits=4, backend="auto")
# model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float16, device_map="auto", quantization_config=how)
# tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
# ```
#
# `backend="auto"` takes the fastest kernel that fits. On a GPU that one is compiled at its first use, which needs NVIDIA's compiler and takes
# minutes; and through some kernels no gradient flows (the direction in which training moves a weight). So the kit's `load_model` takes
# `backend="gptq_torch"` on a GPU, and for training. To install both packages on Linux:
#
# ```bash
# pip install -c constraints.txt -e ".[gptq]"
# ```
#
# ## The same in the WebUI
#
# By clicking, in 2023:
#
# 1. Open the **Model** tab. Press the refresh button beside **Model** and choose the folder.
# 2. **Model loader**: it is proposed. For TheBloke's GPTQ folders it was *ExLlama_HF*; to train a LoRA, *Transformers*.
# 3. Set **max_seq_len** (the longest text, 4096 for LLaMA 2) and, with several GPUs, **gpu-split**.
# 4. Press **Load**. *Save settings* keeps the settings for this model.
#
# Today, the same tab:
#
# 1. Choose the folder (or a GGUF file) beside **Model**.
# 2. **Model loader**: *llama.cpp* for GGUF, *ExLlamav3* for EXL3, else *Transformers*, which takes GPTQ folders too.
# 3. Set **ctx-size**, and **gpu-layers** for llama.cpp (-1 is automatic).
# 4. Press **Load**.
#
# In the terminal, in 2023:
#
# ```bash
# python server.py --model TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True --loader exllama_hf --max_seq_len 4096
# ```
#
# Today:
#
# ```bash
# python server.py --model TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True --loader Transformers --ctx-size 4096
# ```
#
# ## What changed since 2023
#
# | | 2023 | today |
# |---|---|---|
# | GPTQ in transformers | auto-gptq | gptqmodel with optimum |
# | which kernel | `use_exllama`, `disable_exllama` | `backend` in `GPTQConfig` |
# | number format | `torch_dtype=` | `dtype=` |
# | the WebUI's loaders | Transformers, ExLlama and ExLlamav2 (each with _HF), AutoGPTQ, GPTQ-for-LLaMa, llama.cpp, llamacpp_HF, ctransformers, AutoAWQ | llama.cpp, Transformers, ExLlamav3, ExLlamav3_HF, TensorRT-LLM |
# | `quantize_config.json` in the folder | ExLlama_HF | Transformers |
# | `--wbits`, `--groupsize`, `--pre_layer` | settings for GPTQ | gone: the program ends with an error |
# | `--gpu-memory`, `--auto-devices` | share a model between GPU and CPU | gone: `--gpu-layers` (llama.cpp), `--gpu-split`, `--cpu-memory` |
# | `--max_seq_len`, `--n_ctx` | the longest text | `--ctx-size`; the old names still work |
# | tokenizer | the slow one unless `--use_fast` | the fast one unless `--no_use_fast` |
# | model folder | `models/` | `user_data/models/` |
# | chat template | `instruction-templates/` and name patterns | in the model's folder, as Jinja |
#
# ## Out of memory
#
# Loading compares sizes first, but text needs memory too. When it runs out:
#
# 1. Free what you no longer use: `del loaded`, then `machine.free_memory()`. In a notebook, restarting the kernel is the surest way.
# 2. Look who else is there: `nvidia-smi` for the GPU, the task manager for the rest.
# 3. Use a smaller number format: 16 bits instead of 32, a 4-bit version instead of 16.
# 4. Shorten: fewer `max_new_tokens`, a shorter history, a smaller batch.
# 5. Take a smaller model. The table of lesson 1 says which one fits.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking: a panel
#
# The kit's own **Model** tab, made of the calls of this lesson and the last: *Download* is `weights.fetch`, *Load* is `loading.load_model`, *Ask* is
# `loading.chat`, *Unload* is `loading.free`. Nothing happens before you press something, and the notebook stays usable while a panel works. On a
# page that only shows the file, a picture stands in its place. By keyboard: Tab goes on, Space presses a button or opens a list, in which arrows and
# Enter choose.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import ModelPanel

ModelPanel(lane.model, lane.revision)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs as it stands and does not pass yet. Change it until the line below it turns green. A solution is folded away behind each.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 1. Change a value
#
# Find a temperature at which the favourite first token has more than 99 of 100 chances.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
temperature = 1.0
chance = torch.softmax(scores / temperature, dim=0).max().item()
checks.confirm(chance > 0.99, "the favourite is nearly certain", "a lower temperature favours it more")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
temperature = 0.05
chance = torch.softmax(scores / temperature, dim=0).max().item()
checks.confirm(chance > 0.99, "the favourite is nearly certain", "a lower temperature favours it more")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# Give this conversation a system message of your own, in which the word *pirate* occurs.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
talk = [{"role": "user", "content": "Who are you?"}]
text = loading.render_chat(tokenizer, talk)
checks.confirm("pirate" in text, "the prompt has your system message", "put a message with the role system first")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
talk = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Who are you?"}]
text = loading.render_chat(tokenizer, talk)
checks.confirm("pirate" in text, "the prompt has your system message", "put a message with the role system first")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# How many tokens does a conversation take, with everything that the template adds?

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def count_tokens(messages):
    return len(str(messages).split())


wanted = [loading.tokenize_chat(tokenizer, talk)["input_ids"].shape[1] for talk in (talk, messages)]
checks.confirm([count_tokens(talk), count_tokens(messages)] == wanted, "both are counted", "render first, then let the tokenizer cut")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def count_tokens(messages):
    return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


checks.confirm([count_tokens(talk), count_tokens(messages)] == wanted, "both are counted", "render first, then let the tokenizer cut")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 4. Find the bug
#
# With this prompt a model tends to write the *user's* next turn instead of an answer. One argument is missing.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
prompt = tokenizer.apply_chat_template(messages, tokenize=False)
checks.confirm(prompt == loading.render_chat(tokenizer, messages), "the prompt asks for an answer", "compare how the two texts end")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
checks.confirm(prompt == loading.render_chat(tokenizer, messages), "the prompt asks for an answer", "compare how the two texts end")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Recap
#
# - The files of a folder tell the loader; device and dtype are yours to choose, with a reason.
# - A chat is one text with special tokens. The tokenizer has the template: use it, do not imitate it.
# - Greedy takes the best token, sampling draws one; temperature sets how daring, seed makes it repeatable.
# - A model stops because it wrote EOS.
#
# ## Check yourself
#
# <details><summary>You leave <code>add_generation_prompt=True</code> out. What will the model do?</summary>
# The text ends after the user's turn. The model continues it, and may write another turn of the user instead of an answer.
# </details>
#
# <details><summary>A model goes on and on until it is cut off. Name two causes.</summary>
# It was trained without EOS, or the program waits for another token than the one the model writes (a wrong template or a wrong EOS).
# </details>
#
# <details><summary>Why float16 on a T4, and bfloat16 on an H100?</summary>
# The T4 has no bfloat16. Where both exist, bfloat16 is safer: its range is that of float32.
# </details>

# %% slideshow={"slide_type": "skip"}
del inputs, output, short, drawn, again
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 3](03_api.ipynb) puts the model behind an API, so that other programs can ask it.
