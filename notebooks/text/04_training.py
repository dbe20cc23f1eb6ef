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

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="The heart of the talk. Say what will happen: first you do the task, then a model learns it, live, in about four minutes."
# # Lesson 4: training a LoRA
#
# ## What you will do
#
# 1. Do the task yourself, and remember your score.
# 2. Turn a table into prompts, and split it so that the test stays honest.
# 3. Train a LoRA in a few minutes, and write one by hand while you wait.
# 4. See what it learned that counting words cannot.
# 5. Put every figure on one [scoreboard](glossary.md#scoreboard), with its margin of error.
#
# Prerequisites: lesson 2 (what a model, a tokenizer and a chat template are). If a file is missing, the lesson makes it.
#
# ![Map of the five lessons. Lesson 4, above: a CSV becomes prompts, prompts train a LoRA. Below: weights (lesson 1) become a loaded model (lesson 2), the LoRA is put on it (lesson 5), and a server answers a client (lesson 3). The weights also go, frozen, into the training. You are here: lesson 4, training.](images/map-4.svg)

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | [lane](glossary.md#lane) | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 5.4 | 3.9 GB | 0.3 GB | 2026-11-29 on CPU, 2 cores, bfloat16, commit 5104f27ead75 |
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

# %% [markdown] minutes=2.5 slideshow={"slide_type": "slide"} speaker="Read comment 1 aloud and let the room vote with raised fingers: 0, 1, 2 or 3. Then one or two more; the rest is for home. The comments and the colleges are invented, and written for this lesson. Write the room's votes on the board; they come back. (Right are 3, 2, 3, 0, 1.)"
# ## You first
#
# Somebody writes about two colleges. Whose side are they on? Here are five comments, and under each the four answers. *Equal*: they find both equally good or bad. *No preference*: the
# comment does not say.
# Soon a model will be asked the same five.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
from helpers import tasks, tutorial
from helpers.tutorial import game

task = tutorial.pick_task()
data = tasks.load_task_data(task.data, task.template)
template, train, test = data.template, data.train, data.test
rounds = game.pick_rounds(test, template)
game.show_rounds(rounds, template)

# %% slideshow={"slide_type": "skip"}
mine = [None, None, None, None, None]  # your answers: the numbers in bold, such as [1, 0, 2, 3, 1]
game.keep_answers(mine, rounds, task.name)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** you asked yourself two questions. *Is there a preference?* Words such as *same* or *both* give that away. *Whose side is it?* For that you had to read: the same
# words can praise either college.

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="A row becomes a prompt and a completion. Training and use must have exactly the same text: a LoRA that was trained on other words answers a question that nobody asks."
# ## From a row to a prompt
#
# The comments come from a CSV. Each row has a comment, two options, and a **label**: the right answer, as a number. A language model
# reads text, so a YAML file turns each row into a **[prompt](glossary.md#prompt)** (what the model is given) and a **completion** (what it should say).

# %% slideshow={"slide_type": "skip"}
import pandas as pd
import yaml

from helpers import PROJECT

pd.set_option("display.max_colwidth", None)  # tables show whole sentences

table = pd.read_csv(PROJECT / task.data)
print(f"{len(table)} rows, {table['text'].nunique()} different comments")
recipe = yaml.safe_load((PROJECT / task.template).read_text(encoding="utf-8"))
for key in ("instruction", "task", "label"):
    print(f"\n{key}:\n{recipe[key]}")

# %% [markdown] slideshow={"slide_type": "skip"}
# The three keys are those of the 2023 tutorial: `instruction` is the same for every row, `task` has `{placeholders}` for the columns, `label` gives each number its words. `tasks.load_template` fills all
# of them in one pass.
#
# The model was trained on chats in a fixed notation, its [chat template](glossary.md#chat-template). Below is the text that it really reads. It stops where the assistant is
# about to speak. What follows, the answer and the token that ends it, is the completion.

# %% slideshow={"slide_type": "-"}
from helpers import loading, weights

lane = lanes.pick_lane().value
weights.fetch(lane.model, lane.revision)
loaded = loading.load_model(lane.folder)
example = template.build_example(rounds[0])
print(loaded.tokenizer.apply_chat_template(example["prompt"], tokenize=False, add_generation_prompt=True))

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Collect guesses before the number appears. Ask who has checked this in a project of their own."
# ## An honest test
#
# A model must be judged on comments that it has never seen. But one comment fills several rows, one for each pair of colleges it speaks
# of. Draw rows at random, and the same comment lands in the training and in the test: a [leak](glossary.md#leak).
#
# **Predict:** for what share of the test rows would that happen? (0 to 1)

# %% slideshow={"slide_type": "skip"}
guess = 0.1  # yours

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
import math, random

rows = train + test
shuffled = random.Random(0).sample(rows, len(rows))
cut = len(rows) // 5
seen = {row["text"] for row in shuffled[cut:]}
leaked = sum(row["text"] in seen for row in shuffled[:cut])
print(f"rows drawn at random: {leaked} of {cut} test rows have a comment that is also trained on")
checks.compare_guess(guess, leaked / cut, "%")
print(f"split by comment: {len(tasks.find_leaks(train, test))} of {len(test)} test rows; {len(train)} rows to train on")

# %% slideshow={"slide_type": "skip"}
from helpers import find_home

# load_task_data has split by comment (grouped), with the labels in equal shares (stratified).
files = tasks.write_split(find_home() / "runs" / task.name, template, train, test)
print(*(path.relative_to(find_home()) for path in files))
print("labels in training:", tasks.count_labels(train), "in the test:", tasks.count_labels(test))
checks.confirm_split(train, test)

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Three ways to answer without a LoRA. Let the room guess before the table appears: whose side, by counting words? It is a coin. *Right side* counts only the comments that prefer a college. That base and majority have the same share is a coincidence: the base also gives other answers, and is right as rarely. Brackets hold 95% intervals; gain means percentage points more than the bag of words."
# ## The numbers to beat
#
# - **[Majority](glossary.md#majority-class)**: always give the most frequent answer.
# - **Base**: the model before training. It need not write anything: its verdict is the answer that it finds most likely of the four.
# - **[Bag of words](glossary.md#bag-of-words)**: a classic. It knows which words a comment has, and nothing about who is compared with whom.
#
# **Predict:** of the comments that take a side, how often does the bag of words find the right one? (0 to 1)

# %% slideshow={"slide_type": "skip"}
guess = 0.7  # yours

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
from helpers import evaluation

base_scores = evaluation.score_answers(loaded, test, template, progress=False)
bag_scores = tasks.score_bag_of_words(train, test)
board = evaluation.Scoreboard(test, template)
board.add_majority()
board.add_scores("base", "the model before training", base_scores)
board.add_scores("bag of words", "counts words and pairs of words; fitted on the training rows", bag_scores)
display(board.tabulate())
print(board.describe_rows())
checks.compare_guess(guess, board.get_shares("right side").get("bag of words", (0.5, 0))[0], "%")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** *right answer* counts all four answers. *[Right side](glossary.md#pairwise-accuracy)* takes only the comments that prefer a college, and asks which of the two scores higher: a coin gets 50%. The bag of words
# is far above the base on the first, and no better than a coin on the second. Base and majority are level by chance. Brackets hold the 95% interval, how far off a figure from so few rows could be
# ([Wilson](glossary.md#interval)); `gain` is the difference from the bag of words, in percentage points.
#
# ## Training, the stock way
#
# Three objects, from the two libraries that everybody uses, PEFT and TRL: the LoRA's shape ([rank](glossary.md#rank) and [alpha](glossary.md#alpha)), the settings ([learning rate](glossary.md#learning-rate), [epochs](glossary.md#epoch), [schedule](glossary.md#schedule) and more), and the trainer that joins them with model and rows. *SFT* means supervised
# [fine-tuning](glossary.md#fine-tuning): learning from examples with answers. A [LoRA](glossary.md#lora) is a small addition to the model, the only part that is trained. You'll take one apart in a moment.

# %% slideshow={"slide_type": "skip"}
import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from helpers import training

chosen = training.pick_settings(lane.name)
examples = training.build_dataset(train, template, chosen, loaded.tokenizer)
chosen = training.settle_batch(loaded.model, chosen, examples).value  # the lane `large` fits it to the card
print(f"rank {chosen.lora_r}, alpha {chosen.lora_alpha}, learning rate {chosen.learning_rate}, {chosen.batch_size} rows per step")
lora = LoraConfig(
    r=chosen.lora_r,
    lora_alpha=chosen.lora_alpha,
    lora_dropout=chosen.lora_dropout,
    target_modules=training.list_targets(loaded.model),
    layers_to_transform=training.list_blocks(loaded.model, chosen.targets),  # `tiny`: the three quarters of the layers nearest the output
    task_type="CAUSAL_LM",
)

# %% slideshow={"slide_type": "skip"}
config = SFTConfig(
    output_dir=find_home() / "runs" / "live",
    num_train_epochs=chosen.epochs,
    per_device_train_batch_size=chosen.batch_size,
    gradient_accumulation_steps=chosen.accumulation,
    learning_rate=chosen.learning_rate,
    lr_scheduler_type=chosen.schedule,
    warmup_steps=chosen.warmup_ratio,
    weight_decay=chosen.weight_decay,
    max_grad_norm=chosen.max_grad_norm,
    completion_only_loss=True,
    seed=chosen.seed,
    disable_tqdm=True,
    **training.describe_hardware(loaded.model),
)

# %% slideshow={"slide_type": "skip"}
import time

trainer = SFTTrainer(
    model=loaded.model,
    args=config,
    train_dataset=examples,
    processing_class=loaded.tokenizer,
    peft_config=lora,
)
trainer.args.max_steps = 2  # enough to see that it works
start = time.monotonic()
trainer.train()
stock_rate = 2 * chosen.batch_size / (time.monotonic() - start)
print(f"{stock_rate:.1f} rows a second, so all {len(train)} rows take {len(train) / stock_rate / 60:.0f} minutes")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Only the framed tokens are learned, the end of the turn among them. Many scripts of 2023 lost that token, because it also served as padding, and their models rambled on. Start the training now: in *Now for real*, the cell with `SharedPrefixTrainer`. It takes about four minutes, so go on talking. If it fails, nothing is lost: the next slides show a finished run."
# ### What the loss sees
#
# The [loss](glossary.md#loss) says how wrong the model was about each token. Below is one row. Only the framed tokens count: the answer, and `<|im_end|>`,
# which ends it. The rest is read but not learned.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
from helpers.tutorial import plots
batch = next(iter(trainer.get_train_dataloader()))
ids, labels = batch["input_ids"][0], batch["labels"][0]
tokens = [loaded.tokenizer.decode(token) for token, kept in zip(ids, batch["attention_mask"][0]) if kept]
plots.show_tokens(tokens, learned=[label != -100 for label in labels])

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** without `<|im_end|>` the model would never learn to stop, and that token is easily lost. Rows of a batch are filled up with
# *padding*, which must not be learned. In 2023, padding was recognised by its token. Everyone
# used the end-of-turn token for it (`pad = eos`), so the real end of each answer was ignored as well. (A label of -100 means: not learned.)

# %% slideshow={"slide_type": "skip"}
end = loading.make_chat_tokenizer(loaded.tokenizer).end_ids[0]
by_token = batch["labels"].masked_fill(batch["input_ids"] == end, -100)
for name, taught in {"by its place": batch["labels"], "by its token": by_token}.items():
    print(f"padding known {name}: {int((taught == end).any(1).sum())} of {len(taught)} rows teach the end")
checks.confirm_endings(batch["labels"], end)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Now for real
#
# One line changes: `SFTTrainer` becomes `SharedPrefixTrainer`, the kit's own. What rows have in common, the [shared prefix](glossary.md#shared-prefix), it computes once. The [gradients](glossary.md#gradient) stay the same. **Start it, and read on while
# it runs.**
#
# <details><summary>How it got faster, and why the result is the same</summary>
#
# ![A tree of 8 token sequences. All begin with the instruction, 66 tokens. It branches into two rows about one comment, and each row branches into its four possible answers. Row by row these are 920 tokens to compute, as a tree 191. In a training batch of 8 rows, 515 instead of 996.](images/prefix.svg)
#
# Every prompt begins with the same instruction, and the weights don't change within a step. So the trainer lays a batch out as a tree: first what all rows share, then the branches. A
# token sees its way back to the root and nothing else, so each row gets what it would have got alone. A test compares loss and gradients with SFTTrainer's: they agree to within 1e-5.
# Each at its best, the kit's trainer is about four times as fast here (`benchmarks/results.md`); the rate of the two stock steps includes their start. (The picture shows judging, with four answers for each row.)
# </details>

# %% slideshow={"slide_type": "skip"}
loaded = loading.load_model(lane.folder)  # a fresh base: the two steps above are forgotten
torch.manual_seed(chosen.seed)  # A is drawn at random, the same way in every run
config.max_steps = -1  # all the rows
trainer = training.SharedPrefixTrainer(
    model=loaded.model,
    args=config,
    train_dataset=examples,
    processing_class=loaded.tokenizer,
    peft_config=lora,
    callbacks=[tutorial.LiveLoss(), training.LossGuard()],  # the curve; an end if the loss runs away
)
result = trainer.train()
rate = result.metrics["train_samples_per_second"]
print(f"SharedPrefixTrainer: {rate:.1f} rows a second, SFTTrainer: {stock_rate:.1f}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the steep fall at the start is the *form* of the answer: one of four phrases, then stop. The slow, noisy rest is the task.
# A loss alone does not say whether anything was understood. The test will.

# %% [markdown] minutes=2 slideshow={"slide_type": "slide"} speaker="W, a matrix of the model, stays, B A is added. Count the numbers with the room: 331,776 against 18,432. B starts at zero, so training begins with exactly the base model. Then look at the loss, which is falling meanwhile: steep at first, while it learns the form of an answer."
# ## Meanwhile: what a LoRA is
#
# ![A layer with a LoRA. Its input x goes two ways: through W, 576 by 576 numbers and frozen, and through A, which turns 576 numbers into 16, then B, which turns 16 into 576. The second way is multiplied by 2 and added to the first. W has 331,776 numbers, A and B together 18,432. B starts at 0, so step 0 changes nothing.](images/lora.svg)
#
# Training all weights would need several times the model's memory. A LoRA (low-rank adaptation) leaves every matrix W alone and adds the
# product of two thin ones: `W + (alpha / r) * B @ A`. The [rank](glossary.md#rank) r is their width. B starts at zero, so training starts from exactly the base. (The 2023 script set `init_lora_weights=False`. Then B is random, and training starts from a damaged model.)

# %% slideshow={"slide_type": "skip"}
# Ten lines of torch are enough to write one.
class LoraLinear(torch.nn.Module):
    def __init__(self, linear, r, alpha):
        super().__init__()
        self.linear, self.scale = linear, alpha / r
        self.A = torch.nn.Parameter(torch.randn(r, linear.in_features))
        self.B = torch.nn.Parameter(torch.zeros(linear.out_features, r))

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.A.T @ self.B.T)


# %% slideshow={"slide_type": "skip"}
parts = {name: part for name, part in trainer.model.named_modules() if hasattr(part, "lora_A")}
name, layer = list(parts.items())[-2]  # one of them, as PEFT built it and trained it
W, A, B = layer.base_layer, layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
by_hand = LoraLinear(W, chosen.lora_r, chosen.lora_alpha)
inputs, outputs = W.in_features, W.out_features
kind = {"device": A.device, "dtype": loaded.model.dtype}
by_hand.A.data, by_hand.B.data = by_hand.A.data.to(**kind), by_hand.B.data.to(**kind)
x = torch.randn(1, inputs).to(**kind)
print("at step 0 it changes nothing:", torch.equal(by_hand(x), W(x)))
by_hand.A.data, by_hand.B.data = A.to(**kind), B.to(**kind)
apart = (by_hand(x) - layer(x)).norm() / layer(x).norm()
moved = (layer(x) - W(x)).norm() / W(x).norm()
print(f"with the trained A and B: {moved:.1%} away from W, {apart:.2%} away from PEFT's layer (rounding)")
print(f"{name.rpartition('.')[2]}: W has {inputs * outputs:,} numbers, A and B together {A.numel() + B.numel():,}")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Save it
#
# A LoRA is a small folder: A and B, their shape and the name of the base, and `run.json` with everything that was measured. It appears under its name
# only when it is complete. An older one is kept as `college-preferences-previous`.

# %% slideshow={"slide_type": "skip"}
from helpers import adapters
folder = find_home() / "loras" / task.adapter
with training.save_run(trainer, loaded, data, chosen, folder) as fresh:
    trainer.model.save_pretrained(fresh)
print(*(f"{path.name:30} {path.stat().st_size / 1e6:8.3f} MB" for path in sorted(folder.iterdir())), sep="\n")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Back to the five comments and the votes on the board. How did the room do, how did the LoRA? Five comments prove nothing: this is one of thirty random draws, taken because the LoRA has four right in it. The whole test comes next. But everybody now knows what right and wrong mean here."
# ## The same five comments
#
# You saw them before the training. Here is what three others say.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
loaded.model = trainer.model.eval()
tuned_scores = evaluation.score_answers(loaded, test, template, progress=False)
players = {"you": game.read_answers(rounds, task.name)}
for name, scores in {"base": base_scores, "bag of words": bag_scores, "live LoRA": tuned_scores}.items():
    said = evaluation.pick_predictions(scores)
    players[name] = [said[test.index(row)] for row in rounds]
game.compare_players(players, rounds, template)

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Your own training should be done: switch to it for a moment. The figures here are of an earlier run. The live LoRA, college-preferences in the other lessons, is the one of this lesson. Guess first. Then the right-hand panel: the bag of words sits on the coin's line, the LoRA does not. To get there it has to read. The last bar is the LoRA that comes with the kit, trained for a quarter of an hour."
# ## Whose side is the comment on?
#
# **Predict:** how often is the live LoRA right about the side? (0 to 1)

# %% slideshow={"slide_type": "skip"}
guess = 0.6  # yours

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
board.add_scores("live LoRA", "trained in this lesson, in one pass over the training rows", tuned_scores)
ready = tutorial.find_ready(task, lane)  # "one I baked earlier"
if ready:
    adapters.attach_adapter(loaded, ready)
    scores = evaluation.score_answers(loaded, test, template, progress=False)
    board.add_scores("15-minute LoRA", "comes with the kit: two and a half passes, all blocks, a lower learning rate", scores)
plots.show_scoreboard(board)
checks.compare_guess(guess, board.get_shares("right side").get("live LoRA", (0.5, 0))[0], "%")

# %% slideshow={"slide_type": "skip"}
base, tuned = (evaluation.summarise_scores(scores, test, template) for scores in (base_scores, tuned_scores))
adapters.add_to_run(adapters.AdapterFolder(folder), evaluation={"base": base, "lora": tuned})
better = tuned.accuracy > max(base.accuracy, base.majority_accuracy)
checks.confirm(better, "the LoRA beats base and majority", "train on more rows")
board.save(tutorial.name_board(task))
checks.publish("scoreboard", board.list_figures(), board.describe_rows())
board.tabulate()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** `gain` is a [paired gain](glossary.md#paired-gain): it compares with the bag of words row by row, and repeats that on many random re-draws of the comments, to see how much is luck. If the whole interval is above zero, the LoRA does something that counting
# words cannot. The last line is the kit's own LoRA, from a longer training. It never saw these rows either, but both recipes were chosen by looking at them, which flatters a
# little. Another seed gives another result: three of them gave 66%, 62% and 67%, and this lesson takes the first. What did the longer training buy?

# %% slideshow={"slide_type": "skip"} tags=["remove-input"]
points = [("base", 0, *board.get_shares()["base"]), ("live LoRA", result.metrics["train_runtime"] / 60, *board.get_shares()["live LoRA"])]
if ready:
    minutes = adapters.find_adapter(ready).run["seconds"] / 60
    points.append(("15-minute LoRA", minutes, *board.get_shares()["15-minute LoRA"]))
lines = {name: board.get_shares()[name][0] for name in ("majority", "bag of words")}
words = ", ".join(f"{share:.0%} after {minutes:.1f} minutes" for _, minutes, share, _ in points)
plots.show(plots.draw_accuracy_over_minutes(points, lines), f"Accuracy against minutes of training: {words}.")
print(f"Right answers on the {base.rows} test rows: {words}.")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** four times the minutes bought about ten points. (The longer recipe also has other settings.) Where does the live LoRA go wrong? In the [confusion matrix](glossary.md#confusion-matrix) each line is a true answer, each column a verdict; the diagonal is right. Below are the mistakes it was surest of. Is the label wrong, the comment hard, or the model blind? Always look.

# %% slideshow={"slide_type": "skip"}
names = [name.strip("{}").replace("_", " ") for name in template.label.values()]
display(pd.DataFrame(tuned.confusion, index=[f"truly {name}" for name in names], columns=names))
for row, verdict, gap in evaluation.find_worst(tuned_scores, test, 2):
    right, said = (template.build_answers(row)[label] for label in (row["label"], verdict))
    print(f"{template.build_messages(row)[-1]['content']}\n  right: {right}, said: {said} (surer by {gap:.1f} nats)\n")

# %% [markdown] slideshow={"slide_type": "skip"}
# Remember which rows these figures describe: comments that a language model wrote for this lesson, half of them short and plain. On the long, messy comments of a real forum a model of this size does far worse; [the appendix](04b_training_appendix.ipynb) has those figures. It also shows what the rows give away,
# chats and free answers, the WebUI's Training tab, and a panel to train on your own table by clicking.
#
# ## The same from a terminal
#
# It works for your own table and template, and on a GPU server:
#
# ```bash
# python -m helpers.training --model SmolLM2-135M-Instruct --data data/college_preferences/dataset.csv \
#   --template templates/college_preferences.yaml --output loras/college-preferences
# python -m helpers.evaluation --model SmolLM2-135M-Instruct --lora college-preferences \
#   --data data/college_preferences/dataset.csv --template templates/college_preferences.yaml --split test
# ```
#
# `--settings tiny-15-minutes` trains two and a half passes. With `KIT_LANE=large` in the environment, the cells above should train a LoRA on TheBloke's 4-bit 70B
# model, on one 80 GB GPU (not run yet).
#
# ## Exercises
#
# Each cell runs but doesn't pass yet. Change it until its line turns green. A solution is folded away below each.
#
# ### 1. Change a value
#
# Hold out more comments, so that the test has at least a quarter of all rows.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
_, held_out = tasks.split_rows(rows, test_size=0.2, seed=0)
checks.confirm(len(held_out) >= len(rows) / 4, "a quarter of the rows or more to judge on", "test_size is a share")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
_, held_out = tasks.split_rows(rows, test_size=0.3, seed=0)
checks.confirm(len(held_out) >= len(rows) / 4, "a quarter of the rows or more to judge on", "test_size is a share")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# How many numbers would a LoRA of rank 4 train in the layer looked at above? The line counts those of W.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
numbers = inputs * outputs
small = LoraLinear(W, r=4, alpha=8)
counted = small.A.numel() + small.B.numel()
checks.confirm(numbers == counted, "A and B of rank 4 are counted", "A is (r, inputs), B is (outputs, r)")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
numbers = 4 * (inputs + outputs)
small = LoraLinear(W, r=4, alpha=8)
counted = small.A.numel() + small.B.numel()
checks.confirm(numbers == counted, "A and B of rank 4 are counted", "A is (r, inputs), B is (outputs, r)")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# Compute the [accuracy](glossary.md#accuracy) from the confusion matrix.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def compute_accuracy(confusion):
    return confusion[0][0] / len(confusion)

right = math.isclose(compute_accuracy(tuned.confusion), tuned.accuracy)
checks.confirm(right, "it is the accuracy", "right verdicts are on the diagonal; divide by all rows")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def compute_accuracy(confusion):
    return sum(confusion[i][i] for i in range(len(confusion))) / sum(map(sum, confusion))
right = math.isclose(compute_accuracy(tuned.confusion), tuned.accuracy)
checks.confirm(right, "it is the accuracy", "right verdicts are on the diagonal; divide by all rows")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 4. Find the bug
#
# With these labels a model would never learn to stop. Hide the padding (where the [attention mask](glossary.md#attention-mask) is 0), not the end of the answer.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def hide_padding(batch):
    return batch["labels"].masked_fill(batch["input_ids"] == end, -100)

right = bool((hide_padding(batch) == end).any(1).all())
checks.confirm(right, "every row teaches the end of its answer", "padding is where the attention mask is 0")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def hide_padding(batch):
    return batch["labels"].masked_fill(batch["attention_mask"] == 0, -100)
right = bool((hide_padding(batch) == end).any(1).all())
checks.confirm(right, "every row teaches the end of its answer", "padding is where the attention mask is 0")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 5. An experiment of your own
#
# No solution this time. Under *Training, the stock way*, write `training.pick_settings(lane.name).replace({"lora_r": 4})`, or change something else, but one thing only. Write down what
# you expect. Then run the cells from there on again. Is the difference larger than what another seed makes?
#
# ## Recap
#
# - A template turns rows into prompts; training and use need exactly the same one.
# - [Split](glossary.md#split) by what repeats, or the test measures memory.
# - A LoRA is two thin matrices beside each W. B starts at zero, so training begins with the base.
# - The loss counts the answer only, including the token that ends it.
# - Compare with something simple, on the same rows, and say how sure you are.
#
# ## Check yourself
#
# **1. The loss falls steeply in the first steps. What has the model learned?**
#
# - a) Which college each writer prefers
# - b) The form of the answer: one of four phrases, then stop
# - c) The words that the comments have in common
#
# <details><summary>Answer</summary>
# <b>b.</b> The form is easy and the same in every row. a is tempting, but nothing yet says which of the four phrases is right.
# </details>
#
# **2. A colleague reports 90% on a test. What do you ask first?**
#
# - a) How many epochs they trained
# - b) Which rank the LoRA has
# - c) How often the most frequent answer occurs, and whether any text of the test was trained on
#
# <details><summary>Answer</summary>
# <b>c.</b> With 90% of the rows under one label, always saying that label gets 90%. a and b change a figure; they do not make it honest.
# </details>
#
# **3. Why does B start at zero?**
#
# - a) Then B A is zero, and training starts from the base model
# - b) To save memory
# - c) Because A starts at zero too
#
# <details><summary>Answer</summary>
# <b>a.</b> B takes the same memory whatever is in it. And if both were zero, no gradient would ever move either of them.
# </details>
#
# **4. The bag of words gets 46% of the answers and 52% of the sides. Which of these can't it do?**
#
# - a) Say whether there is a preference
# - b) Say whose side a comment is on
# - c) It can do both
#
# <details><summary>Answer</summary>
# <b>b.</b> 52% is a coin. The words of a comment hint at whether it takes a side at all, which is why it gets more than a quarter of the four answers.
# </details>

# %% slideshow={"slide_type": "skip"}
del loaded, trainer, parts, layer, W, by_hand
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 5, loading a LoRA](05_lora_loading.ipynb): write a comment of your own, and let your LoRA answer over an API.
