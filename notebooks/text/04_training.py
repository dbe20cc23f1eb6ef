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

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="The longest part. The task: which of two colleges does the writer of a comment prefer?"
# # Lesson 4: training a LoRA
#
# ## What you will do
#
# 1. Turn a CSV and a YAML template into prompts.
# 2. Split the rows so that no comment of the test was ever trained on.
# 3. Measure what the untrained model can do, and what a trivial answer gets.
# 4. Train a LoRA with TRL and PEFT, and see where the time goes.
# 5. Save it, judge it on unseen comments, and say honestly what it learned.
#
# Prerequisites: lesson 2 (what a model, a tokenizer and a chat template are). Everything this lesson needs is made when it is missing.

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | lane | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 3.5 | 5.0 GB | 0.3 GB | 2026-11-28 on CPU, 2 cores, float32, commit 29745b189eb2 |
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

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="A row becomes a prompt and a completion. Training and use must share this text to the letter."
# ## From a row to a prompt
#
# The task: read a forum comment and say which of two colleges its writer prefers. Each row of the CSV has the comment, two options
# and a **label**, the right answer as a number: 0 no preference, 1 option A, 2 option B, 3 both equally.
#
# The colleges are invented and the comments were written for this kit: `data/college_preferences/README.md` tells how.

# %% slideshow={"slide_type": "skip"}
import pandas as pd

from helpers import PROJECT, tasks, tutorial

task = tutorial.pick_task()
table = pd.read_csv(PROJECT / task.data)
print(f"{len(table)} rows, {table['text'].nunique()} different comments")
table.head(3)

# %% [markdown] slideshow={"slide_type": "skip"}
# A language model reads text, so every row becomes a text: a **prompt** (what the model is given) and a **completion** (what it
# should answer). A YAML file says how. It has the same three keys as in the 2023 tutorial:
#
# - `instruction`: what to do, the same for every row;
# - `task`: the row itself, with `{placeholders}` for the columns;
# - `label`: the answer's words for each number.

# %% slideshow={"slide_type": "skip"}
import yaml

recipe = yaml.safe_load((PROJECT / task.template).read_text(encoding="utf-8"))
for key in ("instruction", "task", "label"):
    print(f"{key}:\n{recipe[key]}\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# `tasks.load_template` reads the same file and fills the placeholders in one pass. The 2023 script replaced them one after the other, so a
# comment with the word `text` or a brace in it was changed on the way.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
template = tasks.load_template(task.template)
rows = tasks.load_rows(task.data, template)
example = template.build_example(rows[0])
for part, message in zip(("instruction", "task", "label"), [*example["prompt"], *example["completion"]]):
    print(f"{part} -> {message['role']}:\n{message['content']}\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# The model was trained on chats in a fixed notation, its **chat template**. The tokenizer knows it. Training must use the very text
# that the model will see later behind an API; otherwise the LoRA learns to answer a question nobody asks.

# %% slideshow={"slide_type": "skip"}
from helpers import loading, weights

lane = lanes.pick_lane().value
weights.fetch(lane.model, lane.revision)
loaded = loading.load_model(lane.folder)
prompt = loaded.tokenizer.apply_chat_template(example["prompt"], tokenize=False, add_generation_prompt=True)
print(prompt)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the text ends where the assistant is about to speak. What comes after it, the answer and the end-of-turn token, is the
# completion. Only there will the model be told how wrong it was.

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="Collect guesses from the room before the number appears. A random split of rows leaks; a grouped one does not. Ask who has checked that in a project of their own."
# ## Rows to learn from, rows to be judged on
#
# One comment stands in several rows, once for each pair of colleges that it speaks of. A split that draws rows at random puts the
# same comment on both sides: the model has then seen the test.
#
# **Predict:** for what share of the test rows is that so? (0 to 1)

# %% slideshow={"slide_type": "skip"}
guess = 0.1  # yours

# %% slideshow={"slide_type": "fragment"}
import math, random

shuffled = random.Random(0).sample(rows, len(rows))
cut = len(rows) // 5
seen = {row["text"] for row in shuffled[cut:]}
leaked = sum(row["text"] in seen for row in shuffled[:cut])
print(f"random split of rows: {leaked} of {cut} test rows have a comment that is also trained on")
checks.compare_guess(guess, leaked / cut, "%")

# %% slideshow={"slide_type": "fragment"}
split = tasks.Split(test_size=0.2, seed=0)
train, test = split.divide(rows)
data = tasks.TaskData(template, train, test, task.data, task.template, split)
leaked = len(tasks.find_leaks(train, test))
print(f"split by comment: {leaked} of {len(test)} test rows leak, {len(train)} rows to train on")
print("labels in training:", tasks.count_labels(train), "in the test:", tasks.count_labels(test))

# %% [markdown] slideshow={"slide_type": "skip"}
# The split keeps all rows of a comment together (*grouped*) and the shares of the labels alike (*stratified*). It writes
# `train.json` and `test.json` with prompt and label apart; in 2023 the rows of `test.json` ended with the answer.

# %% slideshow={"slide_type": "skip"}
from helpers import find_home

files = tasks.write_split(find_home() / "runs" / task.name, template, train, test)
print(*(path.relative_to(find_home()) for path in files), sep="\n")
checks.confirm_split(train, test)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Does the data give the answer away?
#
# A model takes the easiest way to a low loss. If one label's comments are longer, or always say *love*, it learns that and not to
# read. So look first: are there copies, phrases that come again and again, labels that stand out? And how far does one get
# *without reading*? A *bag of words* knows which words and pairs of words occur in a comment, and nothing of who is compared with whom.
#
# **Predict:** there are four labels. What share of the rows does the bag of words get right?

# %% slideshow={"slide_type": "skip"}
guess = 0.25  # yours

# %% slideshow={"slide_type": "skip"}
audit = tasks.audit_rows(rows)
print(f"copies: {audit.duplicates}, near copies: {len(audit.near_duplicates)}, five-word phrases in more than one comment: {audit.repeated_5grams:.1%}")
print(f"rows of each label: {audit.labels}, median length in words: {audit.words}")
checks.compare_guess(guess, audit.bag_of_words, "%")
print(f"bag of words: {audit.bag_of_words:.1%} right; label 1 told from label 2 in {audit.bag_pairwise:.1%} of their rows")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** words alone tell something about *whether* there is a preference (`same`, `equally`; or `anyone`, `what` of a question).
# *Which* of the two is preferred they tell about as well as a coin does: there one has to read. (The classifier was judged on
# comments that it was not fitted on, in five turns over all rows.) Lengths differ a little between labels, so a lane that
# trains on short rows draws as many of each label, all below one limit of length.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="What would a lazy answer get? Without these figures an accuracy means nothing."
# ## Before training: the numbers to beat
#
# - **Majority class:** always answer the most frequent label. No reading needed.
# - **Base model:** the model as it came.
# - **Bag of words:** the figure above. It costs a second; what a LoRA adds to it is what the training was good for.

# %% [markdown] slideshow={"slide_type": "skip"}
# A verdict is the answer that the model finds most likely of the four. Each of them is scored: the sum of the log-probabilities of its
# tokens after the prompt. Nothing is generated, so no verdict can be off the list. The interval (95 %, Wilson) says how far the
# figure could be off with so few rows.

# %% slideshow={"slide_type": "-"}
from helpers import evaluation
base_scores = evaluation.score_answers(loaded, test, template, progress=False)
base = evaluation.summarise_scores(base_scores, test, template)
checks.publish("accuracy.majority", checks.describe_accuracy(base.majority_accuracy, base.rows))
checks.publish("accuracy.base", checks.describe_accuracy(base.accuracy, base.rows))

# %% [markdown] slideshow={"slide_type": "skip"}
# What does it *say*? The same model, asked as a user would, on three comments of the test:

# %% slideshow={"slide_type": "skip"}
asked = [next(row for row in test if row["label"] == label) for label in list(template.label)[-3:]]
before = [loading.chat(loaded, template.build_messages(row), max_new_tokens=24) for row in asked]
print(*before, sep="\n---\n")

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="W stays, B A is added. B starts at zero, so training starts from the base. Count the numbers of one layer with the room."
# ## LoRA: few numbers, many layers
#
# Training all weights would need several times the model's memory. **LoRA** (low-rank adaptation) leaves every weight matrix W as it
# is and adds a product of two thin matrices, `W + (alpha / r) * B @ A`. Only A and B are trained; the **rank** r is their width.
# B starts at zero, so step 0 is exactly the base model. (The 2023 script set `init_lora_weights=False`; then it is not.)

# %% slideshow={"slide_type": "-"}
from peft import LoraConfig

from helpers import training

chosen = training.pick_settings(lane.name)
lora = LoraConfig(
    r=chosen.lora_r,
    lora_alpha=chosen.lora_alpha,
    lora_dropout=chosen.lora_dropout,
    target_modules=training.list_targets(loaded.model),
    task_type="CAUSAL_LM",
)
layer = loaded.model.model.layers[0].mlp.up_proj
inputs, outputs = layer.in_features, layer.out_features
print(f"one layer: W has {inputs * outputs:,} numbers, A and B together {chosen.lora_r * (inputs + outputs):,}")

# %% [markdown] slideshow={"slide_type": "skip"}
# The settings begin with those of the 2023 tutorial. What this lane changes, and why:

# %% slideshow={"slide_type": "skip"}
pd.set_option("display.max_colwidth", None)  # show whole sentences
pd.DataFrame(training.explain_changes(lane.name), columns=["setting", "2023", "here", "because"])

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Training, the stock way
#
# Three objects: the LoRA's shape (above), the run's settings (`SFTConfig`), and the trainer that joins them with the model and the
# rows. *SFT* is supervised fine-tuning: learning from examples with answers. Two steps are enough to see it work.

# %% slideshow={"slide_type": "skip"}
from trl import SFTConfig, SFTTrainer

examples = training.build_dataset(train, template, chosen, loaded.tokenizer)
config = SFTConfig(
    output_dir=find_home() / "runs" / "stock",
    max_steps=2,
    per_device_train_batch_size=chosen.batch_size,
    learning_rate=chosen.learning_rate,
    completion_only_loss=True,
    disable_tqdm=False,
    **training.describe_hardware(loaded.model),
)
trainer = SFTTrainer(model=loaded.model, args=config, train_dataset=examples, processing_class=loaded.tokenizer, peft_config=lora)

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Only the framed tokens are learned, the end of the turn among them. In 2023 that last token was lost, and models rambled."
# ### What the loss sees
#
# Below, each token of one row: those of the prompt carry the label -100, which means *ignore*. The answer
# and `<|im_end|>` are what the model is taught. Without that last token it would never learn to stop.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
from helpers import tutorial
from helpers.tutorial import plots

batch = next(iter(trainer.get_train_dataloader()))
ids, labels = batch["input_ids"][0], batch["labels"][0]
tokens = [loaded.tokenizer.decode(token) for token, kept in zip(ids, batch["attention_mask"][0]) if kept]
plots.show_tokens(tokens, learned=[label != -100 for label in labels])

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the framed tokens are learned, the others are only read. In 2023 the loss ran over all of them: most of what the model was taught
# was to write comments and instructions.
#
# The end of the answer, `<|im_end|>`, is easily lost. A batch is filled up to its longest row with *padding*, which must not be learned. TRL remembers
# where it put padding. In 2023 padding was known by its token, everyone took the end-of-turn token for it, and the real end of each answer
# was ignored along with the padding:

# %% slideshow={"slide_type": "skip"}
end = loading.make_chat_tokenizer(loaded.tokenizer).end_ids[0]
by_token = batch["labels"].masked_fill(batch["input_ids"] == end, -100)
for name, taught in {"padding known by its place": batch["labels"], "padding known by its token": by_token}.items():
    print(f"{name}: {int((taught == end).any(1).sum())} of {len(taught)} rows teach the end of the answer")
checks.confirm_endings(batch["labels"], end)

# %% [markdown] slideshow={"slide_type": "skip"}
# A model taught the second way never sees that an answer ends. It says the right phrase and goes on talking until the limit of tokens stops it.

# %% [markdown] slideshow={"slide_type": "skip"}
# Rows can also be **chats**: JSON lines with `messages`, which need no template. The loss is on what the assistant says, in all
# of its turns, or in the last one only if the settings say `turns: last`:

# %% slideshow={"slide_type": "skip"}
talk = ["Is Northmere any good?", "For nursing, yes.", "And for music?", "Halloran is better."]
chat = {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(talk)]}
chat_tokenizer = loading.make_chat_tokenizer(loaded.tokenizer)
for turns in ("all", "last"):
    learned = tasks.ChatForm().list_learned(chat, turns)
    for ids, mask in chat_tokenizer.tokenize_conversation(chat["messages"], learned):
        print(f"turns: {turns}")
        plots.show_tokens([loaded.tokenizer.decode(token) for token in ids], learned=mask)

# %% slideshow={"slide_type": "skip"}
import time
start = time.monotonic()
trainer.train()
stock_rate = 2 * chosen.batch_size / (time.monotonic() - start)
print(f"stock: {stock_rate:.1f} rows a second, {trainer.model.num_parameters(only_trainable=True):,} numbers trained")

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="Sharing the prompt's beginning saves most of the time. The steep fall is the form of the answer, not the task: do not be impressed by it."
# ## The same training, less work
#
# Every prompt begins with the same tokens, the instruction, and some rows go on alike. Within one step the weights do not change, so what
# rows share needs to go through the model once a batch, not once a row.

# %% [markdown] slideshow={"slide_type": "skip"}
# `SharedPrefixTrainer` is an SFTTrainer that lays a batch out as one long row, a tree: what all share, then the branches. A token sees the
# tokens on its way back to the root and nothing else, so each row's result is what it would have been alone. The model's last layer, which
# turns a position into a score for each token of the vocabulary, is computed only where there is a label. Loss and gradients stay the same to
# within 1e-5 of their size: a test holds them against the stock trainer's.
#
# What is saved is arithmetic, which is what a CPU, or a small GPU, has too little of. A large GPU with short rows has
# enough of it: there the gain was 10 % with 64 rows a batch, and with 16 a loss (`benchmarks/results.md`).
#
# (More could be shared if the comment stood before the options, since several rows have the same comment. Tried, and undone: a token sees
# only what stands before it, so the model then has to read each comment without knowing whom it will be asked about, and learns far slower.)

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
import torch

from helpers.training import SharedPrefixTrainer

loaded = loading.load_model(lane.folder)  # a fresh base: the two steps above are forgotten
torch.manual_seed(chosen.seed)  # A is drawn at random; so it is the same in every run
trainer = SharedPrefixTrainer(
    model=loaded.model,
    args=training.make_sft_config(loaded.model, chosen, find_home() / "runs" / "shared", progress=False),
    train_dataset=examples,
    processing_class=loaded.tokenizer,
    peft_config=training.make_lora_config(loaded.model, chosen),
    callbacks=[tutorial.LiveLoss(), training.LossGuard()],  # draws the curve; stops when the loss is no number or runs away
)
result = trainer.train()
print(f"ours: {result.metrics['train_samples_per_second']:.1f} rows a second, stock: {stock_rate:.1f}")

# %% [markdown] slideshow={"slide_type": "skip"}
# What saves the time? Tokens that are not computed twice. One batch, laid out both ways:

# %% slideshow={"slide_type": "skip"}
packed = next(iter(trainer.get_train_dataloader()))
print(f"as rows: {packed['labels'].numel()} tokens, scored at each of them")
print(f"as a tree: {packed['input_ids'].numel()} tokens, scored at {len(packed['places'])}")

# %% slideshow={"slide_type": "skip"}
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss: {losses[0]:.2f} in the first step, {sum(losses[-10:]) / len(losses[-10:]):.2f} on average in the last ten")

# %% [markdown] slideshow={"slide_type": "skip"}
# What has become of one layer? W is still W; beside it stand A and B now. The layer computes both ways, and the sum is what
# `W + (alpha / r) * B @ A` would give:

# %% slideshow={"slide_type": "skip"}
layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
update = (chosen.lora_alpha / chosen.lora_r) * (B @ A).detach().float()
print(f"A {tuple(A.shape)}, B {tuple(B.shape)}; rank of their product: {torch.linalg.matrix_rank(update)} of at most {min(inputs, outputs)}")
x = torch.randn(1, inputs).to(A.device, loaded.model.dtype)
from_w, from_update = layer.base_layer(x).float(), x.float() @ update.T
print(f"the update moves this layer's output by {from_update.norm() / from_w.norm():.1%}")
print(f"layer and formula differ by {(layer(x).float() - from_w - from_update).norm() / from_w.norm():.2%} (rounding)")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the steep fall is the form of the answer (one of four phrases, then stop). The slow, noisy rest is the task itself. A
# loss alone does not tell whether anything about preferences was learned. The test does.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Saving
#
# A LoRA is saved as a small folder. `adapter_model.safetensors` has A and B, `adapter_config.json` their shape and the base;
# `run.json` what was measured, `training_parameters.json` the settings as the WebUI names them. The folder appears under its name
# only when all of it is written; an older one of that name is kept as `college-preferences-previous`
# (then `-previous-2`, and so on).

# %% slideshow={"slide_type": "skip"}
from helpers import adapters

folder = find_home() / "loras" / task.adapter
with training.save_run(trainer, loaded, data, chosen, folder) as fresh:
    trainer.model.save_pretrained(fresh)
for path in sorted(folder.iterdir()):
    print(f"{path.name:30} {path.stat().st_size / 1e6:8.3f} MB")

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="Do the intervals overlap? Say what this run has shown and what it has not. Set the LoRA beside the word count, not only beside the base."
# ## After training: the judgement
#
# The same test rows, the same scoring. **Predict:** the base, the majority and the bag of words you have seen. What share will the LoRA get right?

# %% slideshow={"slide_type": "skip"}
guess = 0.6  # yours

# %% slideshow={"slide_type": "skip"}
loaded.model = trainer.model.eval()
tuned_scores = evaluation.score_answers(loaded, test, template, progress=False)
tuned = evaluation.summarise_scores(tuned_scores, test, template)
checks.publish("accuracy.lora", checks.describe_accuracy(tuned.accuracy, tuned.rows))
checks.compare_guess(guess, tuned.accuracy, "%")
adapters.add_to_run(adapters.AdapterFolder(folder), evaluation={"base": base, "lora": tuned})
checks.confirm(tuned.accuracy > max(base.accuracy, base.majority_accuracy), "the LoRA beats base and majority", "train on more rows")

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
from helpers import evaluation

compared = {"majority": (base.majority_accuracy, base.rows), "base": (base.accuracy, base.rows)}
compared |= {"bag of words": (audit.bag_of_words, audit.rows), "LoRA": (tuned.accuracy, tuned.rows)}
plots.show(plots.draw_accuracies(compared), "Bars with intervals: accuracy of majority class, base model, bag of words and LoRA; the numbers are printed below")
for name, (accuracy, count) in compared.items():
    low, high = checks.describe_accuracy(accuracy, count)["interval"]
    print(f"{name:12} {accuracy:.1%}  (95 % interval {low:.1%} to {high:.1%})")

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
low, high = evaluation.bootstrap_gain(base_scores, tuned_scores, test)
print(f"LoRA above base: {tuned.accuracy - base.accuracy:+.1%}  (95 % interval {low:+.1%} to {high:+.1%}, comments resampled)")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** beating the base and the majority is the easy part. Compare the last two bars, and look whether their intervals overlap:
# as long as they do, this run has not shown that the LoRA reads better than a word count. The comparison is not quite even: the bag of
# words was fitted on four fifths of all rows, the LoRA on those that fit into the lane's budget. And another seed moves it by several
# points.
#
# Where does it go wrong? The **confusion matrix**: each line a true label, each column a verdict.

# %% slideshow={"slide_type": "skip"}
names = list(template.label.values())
pd.DataFrame(tuned.confusion, index=[f"truly {name}" for name in names], columns=names)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the diagonal is right. Telling A from B needs more than the mood of the comment: the model must know which college is
# meant. Compare the four numbers in the middle.
#
# And the answers to the three comments from before the training, generated this time:

# %% slideshow={"slide_type": "skip"}
for row, old in zip(asked, before):
    new = loading.chat(loaded, template.build_messages(row), max_new_tokens=24)
    print(f"{row['text']}\n  right: {template.build_answers(row)[row['label']]!r}\n  before: {old!r}\n  after: {new!r}\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# A score hides its mistakes. Look at those of which the model was surest: is the label wrong, the comment hard, or the model blind?

# %% slideshow={"slide_type": "skip"}
for row, verdict, gap in evaluation.find_worst(tuned_scores, test):
    answers = template.build_answers(row)
    print(f"{row['text']}\n  right: {answers[row['label']]}, said: {answers[verdict]} (by {gap:.1f} nats)\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## What a model of this size can learn, and what not
#
# A lesson's minutes are few. `python -m benchmarks.learning` trained for a quarter of an hour, with three seeds, and judged each LoRA on comments that it
# had not seen. Then the same on comments of a real forum, those of the 2023 tutorial (not ours to give away): they are long, messy, and half of them
# have no preference. **Predict:** what macro-F1 does a LoRA reach there? (The F1 of each label, averaged: one that is never said counts 0. Always
# answering *no preference* gets 0.17.)

# %% slideshow={"slide_type": "skip"}
guess = 0.6  # yours

# %% slideshow={"slide_type": "skip"}
import json

measured = json.loads((PROJECT / "benchmarks" / "learning.json").read_text(encoding="utf-8"))
found = pd.DataFrame([line for _, run in sorted(measured.items()) for line in run["table"]]).drop_duplicates(["data", "what"])
checks.compare_guess(guess, measured["forum comments"]["table"][-1]["macro_f1"])
found[["data", "what", "rows", "accuracy", "macro_f1", "told_apart"]].round(3).astype(object).fillna("")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** `told_apart` is the share of the rows with a preference in which the right option scores above the wrong one; a coin gets 0.5.
#
# - On the kit's short, plain comments each seed's LoRA is far above the bag of words, and does what words alone cannot: it tells *who* is preferred.
# - On the forum (`college_confidential`) accuracy alone would mislead: always saying *no preference* is right in half of the rows, and the LoRA is no
#   better. In macro-F1 it is well ahead, and it finds the preferred college far more often than a coin; the bag of words does so less often.
# - It took two steps. The base of the forum's lines had learned the kit's comments first (`adapters merge`), and a second LoRA was trained on it.
#   Trained on the forum's comments alone, a model of this size did not get beyond the majority class.
# - What it cannot do: be relied on. A quarter of the plain comments and half of the forum's are judged wrongly. A larger model is for that.
#
# So measure the simple things first. A bag of words costs a second; where a LoRA is not clearly above it, take the bag of words.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Your own data
#
# Most people bring questions with answers in free text, or chats, and not a column of labels. Any table will do: CSV with any
# separator, Excel, JSON lines, Parquet. The kit's third data set is of that kind: what visitors ask the guide of an invented
# museum of clocks. Three calls come before a training; `python -m helpers.tasks` has them as commands.
#
# `suggest` writes a first template. In place of `label` it has `answer`, which names the column of the answers:

# %% slideshow={"slide_type": "skip"}
museum = "data/clock_house/dataset.csv"
print(tasks.suggest_template(museum).text)

# %% [markdown] slideshow={"slide_type": "skip"}
# `check` looks for what would stop or spoil a training, with the row and its line. It also says how long the rows are in this
# model's tokens, and estimates the time and the memory that a training would take on this machine.

# %% slideshow={"slide_type": "skip"}
checked = tasks.check_data(museum, "templates/clock_house.yaml", lane.folder, chosen.replace({"epochs": 5}))
print(*tasks.describe_check(checked), sep="\n")
checks.confirm(checked.trainable, "nothing would stop a training on these rows", "fix what is listed above")

# %% [markdown] slideshow={"slide_type": "skip"}
# `preview` shows rows as the model will see them, with what is learned framed:

# %% slideshow={"slide_type": "skip"}
for row in tasks.preview_rows(museum, "templates/clock_house.yaml", lane.folder, rows=2).rows:
    plots.show_tokens(*zip(*row.tokens))

# %% [markdown] slideshow={"slide_type": "skip"}
# ### What does it know afterwards?
#
# Each of the 50 facts is asked in six ways. The training sees some of them, the test asks in other words. Free answers are judged
# by **exact match** (the same words, whatever the case, punctuation and articles), **token F1** (shared words) and **chrF** (shared
# runs of characters). Beside the base stand two ways to answer that need no model: the most frequent answer, and the answer to the
# most similar question of the training (*nearest neighbour*).

# %% slideshow={"slide_type": "skip"}
known = json.loads((PROJECT / "benchmarks" / "free_answers.json").read_text(encoding="utf-8"))
answered = pd.DataFrame(known["table"])
means = answered.groupby("what", sort=False)[["rows", "exact_match", "token_f1", "chrf"]].mean()
print(f"means of the seeds {known['seeds']}; each seed has its own split and its own LoRA ({known['device']})")
means.round(3)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the base knows nothing of an invented museum. The LoRA does not repeat the training's questions: it answers new ones,
# so it has learned the facts. And the last line? Those are 60 questions about ten facts that it never saw. None can be right, yet it
# answers, and as surely as ever:

# %% slideshow={"slide_type": "skip"}
unseen = answered[answered["what"] == "LoRA, unseen facts"]
print(f"unseen facts: {unseen['says_another_fact'].mean():.0%} of the answers are, word for word, another fact of the museum")

# %% [markdown] slideshow={"slide_type": "skip"}
# A fine-tuned model does not know what it does not know. Facts that matter should be looked up, not trained into a model.
#
# ### When to stop
#
# With more passes over few rows a LoRA learns them by heart, and then answers new ones worse. Which pass was the best one? The test
# must not decide it: whoever picks the best state by the test has trained on the test. A third part does, the **validation** rows:
# `--validation-size 0.1` keeps them apart, watches their loss and the share of their answers that come out word for word, stops
# when their loss has not fallen for three looks, and keeps the best state. It is off in this lesson: one pass over the rows cannot
# learn them by heart, and every row is needed.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking: a panel
#
# The kit's own **Training** tab: `tasks.load_task_data`, and `training.train_lora`, which is this lesson in one call. *Suggest*, *Check*
# and *Preview* are the three calls from above, for a file of yours. *Start* trains
# in the background, with the curve and the time left; *Stop* ends it after the step at hand and saves what was learned until then. Should the kernel
# die, the next panel says so, and *Start* goes on from the last checkpoint. Nothing is trained before you press *Start*.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import TrainingPanel

TrainingPanel(task, lane)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking: the WebUI's Training tab
#
# In 2023 (text-generation-webui, the WebUI):
#
# 1. **Model** tab: load the base with the *Transformers* loader (the training tab trains nothing else).
# 2. **Training** tab, *Train LoRA*: name it `college-preferences`; *Copy parameters from* takes over the shapes of an older LoRA.
# 3. Rank, alpha, batch size, micro batch size, epochs, learning rate, cutoff length: the same words as in `settings`.
# 4. *Formatted dataset*: a JSON list in `training/datasets/` and a format file in `training/formats/`; `helpers.clients.write_dataset` makes both of our rows.
# 5. *Start LoRA training*. The folder appears in `loras/`.
#
# | | WebUI 2023 | WebUI today | this lesson |
# |---|---|---|---|
# | layers | q_proj, v_proj | all linear layers | all linear layers |
# | rank, alpha | 32, 64 | 8, 16 | see the table above |
# | loss on | every token (*train only after* had no effect) | the assistant's turns | the completion |
# | end-of-turn trained | off unless *add EOS token* | on | on |
# | rows | JSON + format file | JSON with `messages` | a table + YAML template, or `messages` |
# | saved weights | `adapter_model.bin` (a pickle) | `adapter_model.safetensors` | `adapter_model.safetensors` |
#
# ## The same in one line
#
# From a terminal, for your own table and template, on a GPU server too:
#
# ```bash
# python -m helpers.training --model SmolLM2-135M-Instruct --data data/college_preferences/dataset.csv --template templates/college_preferences.yaml --output loras/college-preferences
# python -m helpers.evaluation --model SmolLM2-135M-Instruct --lora college-preferences --data data/college_preferences/dataset.csv --template templates/college_preferences.yaml --split test
# ```
#
# Two and a half minutes are only the beginning: with `--settings tiny-15-minutes` the first command trains on all rows, two and a half times.
# `python -m benchmarks.learning` judges that with three seeds. While a training runs, `tensorboard --logdir runs/tensorboard` shows its loss.
#
# The cells above take any table with a template of labels. `data/repair_notes` and `templates/repair_notes.yaml` are
# another task, with three answers: start Jupyter with `KIT_TASK=repair_notes` in the environment, and this lesson and the next are about it.
#
# With `KIT_LANE=large` the cells above train a LoRA on TheBloke's 4-bit 70B model on one 80 GB GPU; nothing else changes.
#
# ## What changed since 2023
#
# | then | now |
# |---|---|
# | `SFTTrainer(tokenizer=...)` | `SFTTrainer(processing_class=...)` |
# | `dataset_text_field`, `max_seq_length`, `packing` given to the trainer | in `SFTConfig` (`max_length`) |
# | one text a row, loss on all of it | token ids and a `completion_mask`, loss on the completion |
# | no end-of-turn token trained, pad = end | the chat template ends every answer |
# | rows split at random, no evaluation | split by comment, accuracy with an interval |
# | AutoGPTQ below a LoRA | gptqmodel with optimum |

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs as it stands and does not pass yet. Change it until the line below it turns green. A solution is folded away behind each.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 1. Change a value
#
# Hold out more comments, so that at least a quarter of all rows are judged on.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
_, held_out = tasks.split_rows(rows, test_size=0.2, seed=0)
checks.confirm(len(held_out) >= len(rows) / 4, "a quarter of the rows or more to judge on", "test_size is the share of the comments")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
_, held_out = tasks.split_rows(rows, test_size=0.3, seed=0)
checks.confirm(len(held_out) >= len(rows) / 4, "a quarter of the rows or more to judge on", "test_size is the share of the comments")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# How many numbers would a LoRA of rank 4 train in the layer looked at above? The line counts those of W.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
numbers = inputs * outputs
checks.confirm(numbers == A.shape[1] * 4 + 4 * B.shape[0], "A and B of rank 4 are counted", "A is (r, inputs), B is (outputs, r)")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
numbers = 4 * (inputs + outputs)
checks.confirm(numbers == A.shape[1] * 4 + 4 * B.shape[0], "A and B of rank 4 are counted", "A is (r, inputs), B is (outputs, r)")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# The accuracy, out of the confusion matrix.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def compute_accuracy(confusion):
    return confusion[0][0] / len(confusion)


right = math.isclose(compute_accuracy(tuned.confusion), tuned.accuracy)
checks.confirm(right, "it is the accuracy", "right verdicts stand on the diagonal; divide by all rows")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def compute_accuracy(confusion):
    return sum(confusion[i][i] for i in range(len(confusion))) / sum(map(sum, confusion))


right = math.isclose(compute_accuracy(tuned.confusion), tuned.accuracy)
checks.confirm(right, "it is the accuracy", "right verdicts stand on the diagonal; divide by all rows")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 4. Find the bug
#
# With these labels a model would never learn to stop. The padding must be hidden, the end of the answer must not.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def hide_padding(batch):
    return batch["labels"].masked_fill(batch["input_ids"] == end, -100)


taught = (hide_padding(batch) == end).any(1)
checks.confirm(bool(taught.all()), "every row teaches the end of its answer", "padding is known by its place: the attention mask is 0 there")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def hide_padding(batch):
    return batch["labels"].masked_fill(batch["attention_mask"] == 0, -100)


taught = (hide_padding(batch) == end).any(1)
checks.confirm(bool(taught.all()), "every row teaches the end of its answer", "padding is known by its place: the attention mask is 0 there")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Recap
#
# - A template turns rows into prompts; training and use share one renderer.
# - A split by comment keeps the test honest; majority and base are the numbers to beat.
# - LoRA trains two thin matrices a layer; the base stays untouched.
# - The loss looks at the completion only, its end-of-turn token included.
#
# ## Check yourself
#
# <details><summary>Why does the loss fall steeply at first, and why does that prove little?</summary>
# The model learns the form of the answer within a few steps: four phrases and a stop. That says nothing about which phrase is right.
# </details>
#
# <details><summary>The test accuracy is 90 %. What do you ask first?</summary>
# How often the most frequent label occurs, and whether any comment of the test stood in training.
# </details>
#
# <details><summary>Why does B start at zero?</summary>
# Then B A is zero and training starts from the base model, whatever A is.
# </details>

# %% slideshow={"slide_type": "skip"}
del loaded, trainer, layer
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 5, loading a LoRA](05_lora_loading.ipynb): prove that the saved folder works, and serve it over an API.
