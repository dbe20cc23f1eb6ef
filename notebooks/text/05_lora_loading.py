# ---
# jupyter:
#   jupytext:
#     formats: ipynb,text//py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 5: loading a LoRA, and serving it
#
# [![Open this lesson in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/open-llm-kit/open-llm-kit/blob/main/notebooks/05_lora_loading.ipynb)
#
# ## What you will do
#
# 1. Find out what is inside an adapter's folder.
# 2. Load it on top of its base, and prove that it changes something.
# 3. Compare the answers of base and LoRA side by side.
# 4. Serve the LoRA and ask it over both APIs.
# 5. Know how the WebUI, in 2023 and today, loads the same folder.
#
# Prerequisites: lesson 4 made `loras/college-preferences`. Without it, this lesson trains a small adapter first (about a minute).

# %%
import importlib.util, sys

if "google.colab" in sys.modules and not importlib.util.find_spec("helpers"):  # Colab has no kit yet
    # !git clone --depth 1 https://github.com/open-llm-kit/open-llm-kit && pip freeze | grep -E "^(torch|numpy)==" > /tmp/keep.txt
    # %cd open-llm-kit/notebooks
    # %pip install --quiet --constraint /tmp/keep.txt --editable ..

# %%
from helpers import checks

checks.show_cost("05_lora_loading")

# %%
from helpers import machine

for name, (value, reason) in machine.describe().items():
    print(f"{name:8} {value}  ({reason})")

# %% [markdown]
# ## What is in the folder
#
# A LoRA is no model. It is the difference that training made, as thin matrices, and a note of the base they belong to.

# %%
from helpers import loading, lora_folders, training, weights

lane = machine.pick_lane().value
weights.fetch(lane.model, lane.revision)
folder = training.ensure_adapter("college-preferences", lane)
print("in loras/:", ", ".join(lora_folders.list_adapters()))

# %%
import json

config = lora_folders.read_config(folder)
run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
for key in ("base_model_name_or_path", "peft_type", "r", "lora_alpha", "target_modules"):
    print(f"{key:24} {config[key]}")
print(f"{'trained on':24} {run['rows']} rows in {run['seconds']:.0f} s, {run['date']}, {run['device']}")

# %% [markdown]
# The weights: for each adapted layer a matrix A (r rows) and a matrix B (r columns). Their product has the shape of the layer's W.

# %%
from safetensors.torch import load_file

tensors = load_file(folder / "adapter_model.safetensors")
numbers = sum(tensor.numel() for tensor in tensors.values())
print(f"{len(tensors)} matrices, {numbers:,} numbers. The first layer's:")
for name in sorted(name for name in tensors if ".layers.0.mlp.up_proj." in name):
    print(f"{tuple(tensors[name].shape)!s:12} {name}")

# %% [markdown]
# ## Loading it
#
# First the base, then the LoRA on top. `PeftModel` puts A and B beside every W that the configuration names; W itself stays as it is.

# %%
from peft import PeftModel

loaded = loading.load_model(lane.folder)
plain = loaded.model
loaded.model = PeftModel.from_pretrained(plain, folder, adapter_name="college-preferences").eval()
print(type(plain).__name__, "->", type(loaded.model).__name__)

# %% [markdown]
# ## Does it do anything?
#
# The most common disappointment is a LoRA that loads without an error and changes nothing: PEFT only warns when the names in the file
# and the layers of the model do not match. So ask for proof, twice.
#
# 1. When the adapter was saved, its scores for a few prompts were saved too (the *fingerprint*). This is another process, started
#    later. The scores must be the same.
# 2. With the LoRA switched off, they must be different.

# %%
prints = run["fingerprint"]
same = max(proving.compare_fingerprint(loaded, entry) for entry in prints)
with loaded.model.disable_adapter():
    other = max(proving.compare_fingerprint(loaded, entry) for entry in prints)
print(f"largest difference to the trained model's logits: {same:.4f} with the LoRA, {other:.4f} without")

# %%
largest = max(abs(value) for entry in prints for value in entry["top"].values())
tolerance = 0.02 * largest  # bfloat16 keeps about three digits
checks.confirm(same <= tolerance, "the loaded LoRA is the trained one", "look for another base, dtype or template")
checks.confirm(other > tolerance, "without the LoRA the model is another", "an adapter of zeros: train it again")

# %% [markdown]
# How far does it move the model? The *KL divergence* compares two distributions over the next token; 0 means that they are equal.

# %%
print(f"KL(LoRA || base) on the first prompt: {proving.measure_change(loaded, prints[0]['messages']):.2f} nats")

# %% [markdown]
# ## Side by side
#
# Four comments that the LoRA never saw, answered freely, without and with it.

# %%
from helpers import dataset, templating

template = templating.load_template("templates/college_preferences.yaml")
rows = dataset.load_rows("data/college_preferences/dataset.csv", template)
train, test = dataset.split_rows(rows, **run["split"])
shown = sorted(test, key=lambda row: len(row["text"]))[:40:10]

# %%
for row in shown:
    messages = template.build_messages(row)
    with loaded.model.disable_adapter():
        before = loading.chat(loaded, messages, max_new_tokens=12)
    after = loading.chat(loaded, messages, max_new_tokens=12)
    print(f"{row['text']}\n  base: {before!r}\n  LoRA: {after!r}\n  true: {template.build_answers(row)[row['label']]!r}\n")

# %% [markdown]
# **Read it:** the LoRA answers with one of the four phrases and stops. Whether it is the right one is a matter of accuracy, which
# lesson 4 measured; a few examples prove nothing.
#
# ## Over an API
#
# The server from lesson 3 takes adapters with `--lora`. The model in this notebook goes first: two copies are one too many.

# %%
del loaded, plain, tensors
machine.free_memory()

# %%
from helpers import clients

server = clients.start_server(lane.folder, loras=["college-preferences"])
print(server.command)
print(server.raw_url, server.openai_url)

# %% [markdown]
# **The OpenAI way.** The adapter has a name, and the client picks it with `model`. The same call reaches the base under its own name.

# %%
client = clients.make_openai_client(server.openai_url)
print("models:", [model.id for model in client.models.list()])
for model in ("college-preferences", lane.folder):
    reply = client.chat.completions.create(model=model, messages=template.build_messages(shown[0]), temperature=0, max_tokens=12)
    print(f"{model:24} {reply.choices[0].message.content!r}")

# %% [markdown]
# **The raw way of 2023.** The instruction goes into `context_instruct`, the task into `user_input`. There is no model to pick: what was
# started with `--lora` answers. Its default `repetition_penalty` of 1.1 would make the names in the prompt less likely
# as an answer, so it is set to 1, which is none.

# %%
system, user = template.build_messages(shown[0])
chosen = {"context_instruct": system["content"], "max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1}
history = clients.chat_raw(user["content"], url=server.raw_url, **chosen)
print(repr(clients.last_reply(history)))

# %% [markdown]
# Accuracy can be measured over an API too: the judge only needs a function that asks. A dozen rows show that the road is open.

# %%
from helpers import evaluation

ask = lambda messages: clients.ask_openai(client, messages, model="college-preferences", temperature=0, max_tokens=12)
remote = evaluation.evaluate_over_url(ask, test[:12], template, progress=False)
print(f"{remote.accuracy:.0%} of {remote.rows} rows right over the API")

# %%
server.stop()
checks.confirm(server.process.poll() is not None, "the server is gone, and its memory with it", "server.stop()")

# %% [markdown]
# ## The same by clicking and typing: the WebUI
#
# In 2023:
#
# 1. Put the folder into `text-generation-webui/loras/`.
# 2. **Model** tab: load the base with the *Transformers* loader. Below it, *LoRA(s)*: refresh, choose the LoRA, *Apply LoRAs*.
# 3. Or at the start:
#
# ```bash
# python server.py --model SmolLM2-135M-Instruct --lora college-preferences --api --extensions openai
# ```
#
# Today's WebUI is the same with two differences: the folder is `user_data/loras/`, and there is one API, started with `--api`:
#
# ```bash
# python server.py --model SmolLM2-135M-Instruct --lora college-preferences --api
# ```
#
# | | 2023 | today |
# |---|---|---|
# | LoRA folder | `loras/` | `user_data/loras/` |
# | weights | `adapter_model.bin` | `adapter_model.safetensors` |
# | picked over the API | at the start, or `POST /api/v1/model` with `args.lora`: the model is loaded anew | `POST /v1/internal/lora/load` with `lora_names` |
# | several at once | merged with weight 1 each, equal ranks only | the same |
# | on GPTQ weights | AutoGPTQ, with a patch | gptqmodel with optimum |
#
# A LoRA on a GPTQ base cannot be merged into it: 4-bit numbers have no room for the small difference. Serve base and adapter
# together, as above, or merge into the unquantised base.
#
# ## Links of the tutorial, and what became of them
#
# | 2023 | today |
# |---|---|
# | [The example repository inwonakng/llm-usergroup-examples](https://github.com/inwonakng/llm-usergroup-examples): the script and the template that lesson 4 renews | its calls no longer match trl, transformers and openai; the mended form is lesson 4 |
# | [OpenAI's API reference](https://platform.openai.com/docs/api-reference) | `openai.ChatCompletion` became `client.chat.completions` with version 1.0 |
# | [PEFT](https://huggingface.co/docs/peft), [TRL](https://huggingface.co/docs/trl) | the same names, moved arguments: the table in lesson 4 |
# | the talk's video and slides | the notebooks carry their content; ask your organiser for the recording |
#
# ## Recap
#
# - An adapter folder is small and useless without its base; it records which one that is.
# - Loading without an error proves nothing. A fingerprint does.
# - In the OpenAI dialect an adapter is picked by its name; the raw API serves what was loaded.
#
# ## Check yourself
#
# <details><summary>PEFT prints a warning about missing keys, and the answers look like the base's. What happened?</summary>
# The names in the file did not match the model's layers: another base, or weights saved by another wrapper. B stayed zero.
# </details>
#
# <details><summary>Why is the LoRA asked with the template of training?</summary>
# It learned to answer that text. Another wording is another question.
# </details>

# %%
machine.free_memory()

# %% [markdown]
# **That is the whole road:** weights, loading, an API, training, and your own LoRA behind the API. Back to
# [Lesson 1](01_weights.ipynb), with a model and a CSV of your own.
