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

# %% [markdown] slideshow={"slide_type": "skip"}
# # Appendix to lesson 4: more about training
#
# Six things that lesson 4 has no time for. Each section can be read alone:
#
# 1. Does the data give the answer away?
# 2. Learning from chats
# 3. What a model of this size can learn, and what it can't
# 4. Your own table, and free answers
# 5. The 2023 recipe, line by line
# 6. Training by clicking: the kit's panel, and the WebUI's Training tab

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

for name, (value, reason) in lanes.describe().items():
    print(f"{name:8} {value}  ({reason})")

# %% slideshow={"slide_type": "skip"}
import json

import pandas as pd

from helpers import PROJECT, loading, tasks, training, tutorial, weights
from helpers.tutorial import plots

lane, task = lanes.pick_lane().value, tutorial.pick_task()
weights.fetch(lane.model, lane.revision)
chosen = training.pick_settings(lane.name)
data = tasks.load_task_data(task.data, task.template)
pd.set_option("display.max_colwidth", None)  # show whole sentences

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Does the data give the answer away?
#
# A model takes the easiest way to a low loss. If the comments of one label are longer, or always say *love*, it learns that instead of
# reading. So look first: are there copies, phrases that come up again and again, labels that differ in length?

# %% slideshow={"slide_type": "skip"}
rows = data.train + data.test
audit = tasks.audit_rows(rows)
print(f"copies: {audit.duplicates}, near copies: {len(audit.near_duplicates)}")
print(f"five-word phrases in more than one comment: {audit.repeated_5grams:.1%}")
print(f"rows of each label: {audit.labels}, median length in words: {audit.words}")
print(f"bag of words, five turns over all {audit.rows} rows: {audit.bag_of_words:.1%} right")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** words alone say something about *whether* there is a preference (`same`, `equally`, or the `anyone` and `what` of a question), and nothing
# about *which*. Lengths differ a little between labels, but not enough to help. This figure comes from *cross-validation*: each fifth of the rows is judged by a
# bag of words that was fitted on the other four. So it differs a little from the 46.3% in lesson 4, which is of the 315 test rows alone; that words say nothing about *which* is lesson 4's *right side*.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Learning from chats
#
# Rows can also be [chats](glossary.md#chats): JSON lines with `messages`. They need no template. The loss counts what the assistant says, in all of its
# turns, or only in the last one if the settings say `turns: last`. The framed tokens are learned:

# %% slideshow={"slide_type": "skip"}
loaded = loading.load_model(lane.folder)
talk = ["Is Northmere any good?", "For nursing, yes.", "And for music?", "Halloran is better."]
chat = {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(talk)]}
chat_tokenizer = loading.make_chat_tokenizer(loaded.tokenizer)
for turns in ("all", "last"):
    learned = tasks.ChatForm().list_learned(chat, turns)
    for ids, mask in chat_tokenizer.tokenize_conversation(chat["messages"], learned):
        print(f"turns: {turns}")
        plots.show_tokens([loaded.tokenizer.decode(token) for token in ids], learned=mask)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## What a model of this size can learn, and what it can't
#
# `python -m benchmarks.learning` trained LoRAs for a quarter of an hour with three [seeds](glossary.md#seed), and judged each on comments that it had not
# seen. It did the same with comments of a real forum, those of the 2023 tutorial, which aren't ours to give away. They are long and messy, and
# half of them take no side. The table is its record:

# %% slideshow={"slide_type": "skip"}
measured = json.loads((PROJECT / "benchmarks" / "learning.json").read_text(encoding="utf-8"))
lines = [{"run": name, **line} for name, run in sorted(measured.items()) for line in run["table"]]
found = pd.DataFrame(lines).drop_duplicates(["data", "what", "accuracy"])
found[["run", "data", "what", "rows", "accuracy", "low", "high", "macro_f1", "told_apart"]].round(3).astype(object).fillna("")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** `low` and `high` are the ends of the 95% interval of the accuracy. `told_apart` is what lesson 4 calls *right side*; a coin gets 0.5. [Macro-F1](glossary.md#macro-f1) averages over the labels, so a label that is never said counts 0.
#
# - On the kit's short comments, each seed's LoRA is far above the bag of words, and finds the side, which the bag of words can't.
# - On the forum, accuracy misleads: always saying *no preference* is right in half of the rows, and **the bag of words beats the LoRA** on accuracy. The LoRA is ahead
#   on macro-F1 and on the side. That line is one seed, so treat it as a hint.
# - The forum needed two steps. The kit's comments were learned first and merged into the base (`adapters merge`), then a second LoRA was trained on top. Trained
#   on the forum's comments alone, a model of this size did not get beyond the majority.
# - A good quarter of the kit's rows and half of the forum's are still judged wrongly. A larger model may do better; this was not tried.
# - The figures differ from lesson 4's because the rows do: here a quarter of the comments is held out (393 rows), there a fifth (315).

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Your own table
#
# Most people bring questions and [free answers](glossary.md#free-answers), or chats, not a column of labels. Any table will do: CSV with any separator, Excel, JSON
# lines, Parquet. [Your turn](your_turn.ipynb) is a page for it. The example here is the kit's third data set: what visitors ask the guide of an
# invented museum of clocks. First, `suggest` writes a template:

# %% slideshow={"slide_type": "skip"}
museum = "data/clock_house/dataset.csv"
print(tasks.suggest_template(museum).text)

# %% [markdown] slideshow={"slide_type": "skip"}
# `check` looks for anything that would stop or spoil a training, and estimates its time and memory on this machine:

# %% slideshow={"slide_type": "skip"}
checked = tasks.check_data(museum, "templates/clock_house.yaml", lane.folder, chosen.replace({"epochs": 5}))
print(*tasks.describe_check(checked), sep="\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# `preview` shows rows as the model will see them:

# %% slideshow={"slide_type": "skip"}
for row in tasks.preview_rows(museum, "templates/clock_house.yaml", lane.folder, rows=2).rows:
    plots.show_tokens(*zip(*row.tokens))

# %% [markdown] slideshow={"slide_type": "skip"}
# ### What does it know afterwards?
#
# Each of 50 facts is asked in six ways; training sees some of them, the test asks in other words. Free answers are judged by **exact match** (the same words, whatever
# the case and punctuation), **token F1** (shared words) and **chrF** (shared runs of characters). Two ways to answer need no model: the most frequent answer, and the
# answer to the most similar question of the training ([nearest neighbour](glossary.md#nearest-neighbour)).

# %% slideshow={"slide_type": "skip"}
known = json.loads((PROJECT / "benchmarks" / "free_answers.json").read_text(encoding="utf-8"))
answered = pd.DataFrame(known["table"])
means = answered.groupby("what", sort=False)[["rows", "exact_match", "token_f1", "chrf"]].mean()
print(f"means over the seeds {known['seeds']}, each with its own split and LoRA ({known['device']})")
means.round(3)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the base knows nothing about an invented museum. The LoRA answers questions in words that it was not trained on, so it has learned the facts. And the
# last line? Those are 60 questions about ten facts that it never saw. None can be right, yet it answers:

# %% slideshow={"slide_type": "skip"}
unseen = answered[answered["what"] == "LoRA, unseen facts"]
print(f"unseen facts: {unseen['says_another_fact'].mean():.0%} of the answers are, word for word, another fact")

# %% [markdown] slideshow={"slide_type": "skip"}
# A fine-tuned model does not know what it does not know. Facts that matter should be looked up, not trained in.
#
# ### When to stop
#
# With many passes over few rows, a LoRA learns them by heart and answers new ones worse. Which pass was the best? The test must not decide that: whoever picks the best state by
# the test has trained on the test. So set aside a third group of rows, the [validation](glossary.md#validation) rows. `--validation-size 0.1` watches their loss, stops when it has not fallen for three checks in a row, and keeps the best state. Lesson 4 leaves it off: one pass can't learn rows by heart, and every row is needed.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The 2023 recipe, line by line
#
# First the settings. What this lane changes, and why:

# %% slideshow={"slide_type": "skip"}
pd.DataFrame(training.explain_changes(lane.name), columns=["setting", "2023", "here", "because"])

# %% [markdown] slideshow={"slide_type": "skip"}
# And the rest of the script:
#
# | the 2023 script | why it was there | today (November 2026, with the versions in `constraints.txt`) |
# |---|---|---|
# | `device_map={"": 0}` | the whole 4-bit model on GPU 0 | the kit picks the device; one GPU is enough for 70B in 4 bits |
# | `trust_remote_code=False` | Python that comes with a model is not run | the default; the kit always sets it |
# | `revision="gptq-4bit-64g-actorder_True"` | TheBloke's branch | the same |
# | `exllama_set_max_input_length` | a limit of AutoGPTQ's ExLlama kernel | gone with AutoGPTQ; gptqmodel needs no such call |
# | `model.enable_input_require_grads()` | gradient checkpointing needs an input with a gradient, and a frozen embedding has none | PEFT and the trainer do it |
# | `tokenizer.pad_token = tokenizer.eos_token` | LLaMA has no padding token | padding is known by its place, so the end of the answer stays learned |
# | `tokenizer.padding_side = "right"` | in float16, padding on the left made some losses overflow | the trainer packs rows, or pads on the right |
# | `bias="none"` | a LoRA leaves the biases alone | PEFT's default |
# | `init_lora_weights=False` | a slip: B is random, so training starts from a damaged model | PEFT's default: B is zero |
# | `optim="paged_adamw_32bit"` | moves the optimizer's memory to RAM when the GPU is full | `adamw_torch_fused`; a LoRA's optimizer is small |
# | `SFTTrainer(tokenizer=..., dataset_text_field=..., max_seq_length=..., packing=...)` | TRL of 2023 | `processing_class=...`; the rest is in `SFTConfig` (`max_length`) |
# | `.replace('text', text)` | puts the comment in | the bare word `text` was replaced, so braces stayed around every comment; all placeholders are filled in one pass |
# | one text a row, loss on all of it | simplest to write, but it mostly teaches the model to write comments | token ids and a `completion_mask`: loss on the completion |
# | `fp16=False`, `bf16=False`, `group_by_length=True` | float32 arithmetic; rows of like length in one batch, so that less is padding | the dtype that the machine multiplies fastest; rows are packed, so nothing is padding |
# | `save_steps=25`, `logging_steps=25`, `max_steps=-1`, `report_to="tensorboard"` | a [checkpoint](glossary.md#checkpoint) and a line of the log every 25 steps, all the rows, curves in TensorBoard | checkpoints by minutes; the rest as it was |
# | `num_train_epochs=5`, `gradient_accumulation_steps=1`, `weight_decay=1e-3`, `warmup_ratio=0.03` | usual values | the kit's defaults, where the table above doesn't change them |
# | rows split at random, no evaluation | usual at the time | split by comment, a scoreboard with intervals |

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Training by clicking: the kit's panel
#
# *Suggest*, *Check* and *Preview* are the three calls from above, for a file of yours. *Start* trains in the background and shows the curve and the time left. *Stop* ends it after the
# current step and saves what was learned. If the kernel dies, the next panel says so, and *Start* continues from the last checkpoint. Nothing is trained before you press *Start*.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import TrainingPanel

TrainingPanel(task, lane)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Training by clicking: the WebUI's Training tab
#
# ![The WebUI, as a drawing. Training tab: name of the LoRA, target all linear layers, rank, alpha, learning rate, epochs, the file of the data set, its template, and the button Start LoRA Training.](images/webui-training.svg)
#
# Follow the numbers: name the LoRA, choose the file and its template, start. *Target Modules* is closed at first; all linear layers are ticked in it. In 2023 (text-generation-webui, the WebUI):
#
# 1. **Model** tab: load the base with the *Transformers* loader. The Training tab trains nothing else.
# 2. **Training** tab, *Train LoRA*: name it `college-preferences`. *Copy parameters from* copies the shapes of an older LoRA.
# 3. Rank, alpha, batch size, micro batch size, epochs, learning rate, cutoff length: here `lora_r`, `lora_alpha`, `batch_size` times `accumulation`, `batch_size`, `epochs`, `learning_rate` and `max_length`.
# 4. *Formatted dataset*: a JSON list in `training/datasets/` and a format file in `training/formats/`; `helpers.clients.write_dataset` makes both from our rows.
# 5. *Start LoRA training*. The folder appears in `loras/`.
#
# | | WebUI 2023 | WebUI today (4.7.3, checked 2026-11-27) | lesson 4 |
# |---|---|---|---|
# | layers | q_proj, v_proj | all linear layers | all linear layers, in the upper three quarters of the blocks (lane `tiny`) |
# | rank, alpha | 32, 64 | 8, 16 | 16, 32 (lane `tiny`) |
# | loss on | every token (*train only after* had no effect) | the assistant's turns | the completion |
# | end of turn trained | off unless *add EOS token* | on | on |
# | rows | JSON and a format file | JSON with `messages` | a table and a YAML template, or `messages` |
# | saved weights | `adapter_model.bin` (a pickle) | `adapter_model.safetensors` | `adapter_model.safetensors` |
#
# While a training runs, `tensorboard --logdir runs/tensorboard` shows its loss.

# %% slideshow={"slide_type": "skip"}
del loaded
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Back to** [lesson 4](04_training.ipynb), or on to [lesson 5](05_lora_loading.ipynb).
