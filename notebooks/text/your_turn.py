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

# %% [markdown]
# # Your turn: a LoRA on your own data
#
# Bring a table: questions with answers, or texts with a label. You will look at it, try the task yourself, train a LoRA, compare it
# with simpler ways to answer, and end with a page to hand in. Run it once as it is; then put in your own file and run it again.
#
# Your rows stay on this computer. Words that are new to you are in the [glossary](glossary.md).

# %%
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

# %% [markdown]
# ## 1. Name your file
#
# CSV, TSV, Excel, JSON lines and Parquet all work. The example has 150 notes from an invented repair café: was the thing repaired or not, or
# is it waiting for a part? For a file of your own, write `template = None`: the kit then writes a first template. Give it a new `name`, too.

# %% tags=["yours"]
name = "your-turn"  # your LoRA will be loras/your-turn
data = "data/repair_notes/dataset.csv"  # your file
template = "templates/repair_notes.yaml"  # or None
source, licence = "", ""  # where do the rows come from, and who may use them?
rows_to_train, passes, rows_to_judge = 120, 4, 60  # at most; a fifth of the rows is held out to judge

# %% [markdown]
# ## 2. Look at it
#
# A template turns each row into a prompt and an answer. If the kit wrote yours, it is in `runs/your_turn/`: read it, change what does not
# fit, and run this cell again. If your labels are numbers, write the words that they mean.

# %%
from helpers import adapters, find_home, loading, tasks, training, tutorial, weights
from helpers.common import lanes, machine
from helpers.common.paths import find_file
from helpers.tutorial import checks, game, hand_in, own_task, plots

template = template or own_task.keep_template(data, name)
print(find_file(template, "template").read_text(encoding="utf-8") if template else "Chats need no template.")

# %% [markdown]
# Would anything stop or spoil a training? The most urgent comes first, and the last lines estimate what it takes.

# %%
lane = lanes.pick_lane().value
weights.fetch(lane.model, lane.revision)
changed = {"max_rows": rows_to_train, "epochs": passes, "checkpoint_steps": 0}
settings = training.pick_settings(lane.name).replace(changed)
checked = tasks.check_data(data, template, lane.folder, settings)
print(*tasks.describe_check(checked), sep="\n")
checks.confirm(checked.trainable, "nothing would stop a training", "fix what is listed above")

# %% [markdown]
# And this is what the model sees of two rows. It learns only what is framed.

# %%
for row in tasks.preview_rows(data, template, lane.folder, rows=2).rows:
    plots.show_tokens(*zip(*row.tokens))

# %% [markdown]
# ## 3. Play first
#
# Five rows that nobody trains on: what would you answer? If this is hard for you, it will be hard for a small model.
# (With free answers there is nothing to tick. Answer the two rows above in your head.)

# %%
task = tasks.load_task_data(data, template)
train, judged = own_task.pick_rows(task, settings, rows_to_judge)
rounds = game.pick_rounds(judged, task.template) if own_task.has_labels(task.template) else []
game.show_rounds(rounds, task.template)

# %%
answers = [None] * len(rounds)  # yours, such as [1, 0, 2, 2, 0]
if rounds:
    game.keep_answers(answers, rounds, "your_turn")

# %% [markdown]
# ## 4. Train
#
# First the numbers to beat: two ways to answer that need no model (the most frequent answer, and counting words; for free answers, the most similar question), and the model as it is. Then the training; its curve grows below the cell.

# %%
loaded = loading.load_model(lane.folder, purpose="training")
board = own_task.start_board(task.template, train, judged)
own_task.add_model(board, "base", "the model before your training", loaded)
folder = find_home() / "loras" / name
run = training.train_lora(loaded, task, settings, folder, progress=False, callbacks=[tutorial.LiveLoss()])

# %% [markdown]
# ## 5. Judge
#
# Everyone answers the same held-out rows. Look at the intervals before you cheer. The gain says whether the LoRA beats the bag of words: is the whole
# interval above zero? (With free answers, the rival is the answer to the most similar question.) With little data, counting words often wins. Then try more rows or more passes.

# %%
own_task.add_model(board, "LoRA", "the model after your training", loaded)
print(board.describe_rows())
board.tabulate()

# %% [markdown]
# ## 6. Ask it
#
# One held-out row, without and with your LoRA. Put words of your own into any of its columns, such as `{"text": "The zip is stuck again."}`.

# %%
own_words = {}
asked = {**judged[0], **own_words}
base, lora = adapters.answer_both_ways(loaded, task.template.build_messages(asked), max_new_tokens=48)
print(f"{task.template.build_messages(asked)[-1]['content']}\n  base: {base!r}\n  LoRA: {lora!r}")

# %% [markdown]
# ## 7. Hand in
#
# What surprised you? One sentence. Then run the cell: the page below is also in `runs/your_turn/results.md`. No text of your rows is on it.

# %%
from IPython.display import Markdown

surprise = ""
said = hand_in.Sayings(source, licence, surprise)
Markdown(hand_in.write_results(task, board, run, said, own_task.count_right(board, rounds, answers)))

# %%
del loaded
machine.free_memory()

# %% [markdown]
# **Next:** more rows and more passes usually help. To put your LoRA behind an API, see
# [Lesson 5](05_lora_loading.ipynb).
