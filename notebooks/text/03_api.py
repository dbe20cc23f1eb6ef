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

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="From a notebook to a service: other programs are to use the model."
# # Lesson 3: one model, two APIs
#
# ## What you will do
#
# 1. Start a server that answers in two dialects: the raw API of 2023 and the OpenAI-style one.
# 2. Hold the same conversation in both, and compare what is sent.
# 3. Stream an answer token by token, and see how sure the model was of each.
# 4. See why a chat history has an internal and a visible side.
# 5. Take the same client to another server, and know the WebUI's switches, then and now.
#
# Prerequisites: lesson 2 (what a chat template is). The model is fetched when it is missing.

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | lane | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 0.5 | 2.7 GB | 0.3 GB | 2026-11-28 on CPU, 2 cores, float32, commit 29745b189eb2 |
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

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="One command. It listens on this computer only; say so, people worry about it, and rightly."
# ## A server
#
# An **API** (application programming interface) lets another program use the model: it sends a request over HTTP, the protocol of web
# pages, and gets the answer back as JSON, a text form of lists and dictionaries. The program that waits for requests is the server.
#
# This cell starts one as a process of its own, as you would in a terminal. Each dialect has a **port**, the number of the door it
# listens at: 5000 raw, 5001 OpenAI-style. When one is taken (on a Mac, AirPlay sits on 5000), the notebook takes a free one.

# %% [markdown] slideshow={"slide_type": "skip"}
# In a course, one server can serve everyone: if `OPENAI_BASE_URL` names it (with `OPENAI_API_KEY` and `OPENAI_MODEL`), the cell
# starts none. It has no raw API, so the cells that need one are skipped. `KIT_UPSTREAM` in its place lets the cell start the kit's
# server in front of that one: then both dialects are there.

# %% slideshow={"slide_type": "-"}
from helpers import clients, tutorial

lane = lanes.pick_lane().value
server = tutorial.reach_server(lane.folder, lane.model, lane.revision)
print(server.command)
if server.note:  # a usual port is taken
    print(server.note)
print("raw:   ", server.raw_url)
print("OpenAI:", server.openai_url)

# %% [markdown] slideshow={"slide_type": "skip"}
# A server of this notebook listens on 127.0.0.1: only this computer can reach it. The conversation for both dialects: one earlier turn, then a question.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="This API is gone from the WebUI since November 2023. It is here because much code still speaks it, and because it shows that the server keeps nothing."
# ## The raw API of 2023
#
# The WebUI's first API took many parameters, and the history as pairs: what the user said, what the model replied.

# %% slideshow={"slide_type": "-"}
request = {
    "user_input": "What color is the sky?",
    "history": {"internal": [["Reply with Yes", "Yes"]], "visible": [["Reply with Yes", "Yes"]]},
    "mode": "instruct",
    "context_instruct": "You are a helpful assistant. Answer in one short sentence.",
    "max_new_tokens": 40,
    "do_sample": False,
}

# %% slideshow={"slide_type": "-"}
import requests

if server.raw_url:
    response = requests.post(f"{server.raw_url}/api/v1/chat", json=request, timeout=120)
    history = response.json()["results"][0]["history"]
    print("status", response.status_code)
    for said, replied in history["internal"]:
        print(f"user:  {said}\nmodel: {replied}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the reply is the whole history with a new row at the end. The server keeps nothing: whoever wants to go on sends the
# history back. `do_sample: False` takes the likeliest token each time (*greedy*), so the answer repeats.

# %% slideshow={"slide_type": "skip"}
from html import unescape

if server.raw_url:
    checks.publish("answer.raw", unescape(history["visible"][-1][1]))
    checks.confirm(len(history["internal"]) == 2, "the history has a second row", "look at the reply's `results`")

# %% [markdown] slideshow={"slide_type": "skip"}
# The 2023 example sent some thirty parameters. The ones that still mean something are in `clients.DEFAULT_CHAT_PARAMS`; the rest is
# accepted, and the reply's field `ignored` names it. Nothing is dropped in silence.

# %% slideshow={"slide_type": "skip"}
if server.raw_url:
    reply = requests.post(f"{server.raw_url}/api/v1/chat", json={**request, "mirostat_mode": 2, "max_new_tokens": 1}, timeout=120)
    print("ignored:", reply.json()["ignored"])
print(clients.DEFAULT_CHAT_PARAMS)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Internal and visible
#
# `internal` is what the model reads. `visible` is what a web page may show: the characters that HTML gives a meaning to are escaped,
# so a user cannot smuggle a script into the page. A program wants the plain text: `unescape` it, or read `internal`.

# %% slideshow={"slide_type": "skip"}
if server.raw_url:
    tricky = clients.chat_raw("Is 1 < 2 & <b>2 > 1</b>?", url=server.raw_url, max_new_tokens=8, do_sample=False)
    print("internal:", tricky["internal"][-1][0])
    print("visible: ", tricky["visible"][-1][0])

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="The dialect that won. The same client talks to vLLM, llama.cpp and the WebUI; only base_url changes."
# ## The OpenAI-style API
#
# The same conversation as a list of **messages**, each with a **role**: system (how to behave), user, assistant (the model). The
# official client works with any server that speaks this dialect; only `base_url` differs. The kit's server asks for no key unless it was started with one.

# %% slideshow={"slide_type": "-"}
from openai import OpenAI

client = OpenAI(base_url=server.openai_url, api_key=server.api_key)
messages = [
    {"role": "system", "content": request["context_instruct"]},
    {"role": "user", "content": "Reply with Yes"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "What color is the sky?"},
]

# %% slideshow={"slide_type": "-"}
reply = client.chat.completions.create(model=server.model, messages=messages, temperature=0, max_tokens=40)
checks.publish("answer.openai", reply.choices[0].message.content)
print(f"answered by {reply.model}, ended because of {reply.choices[0].finish_reason!r}")
print(f"{reply.usage.prompt_tokens} tokens read, {reply.usage.completion_tokens} written")

# %% [markdown] slideshow={"slide_type": "skip"}
# The tutorial of 2023 sent `model="x"`. The kit's server answers an unknown name with what is loaded, as the WebUI does; started with
# `--strict-model`, it says 404, as OpenAI and vLLM do. `client.models.list()` tells the names it knows.

# %% slideshow={"slide_type": "skip"}
print("models:", [model.id for model in client.models.list()])

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="Do not read the table out. Point at one line: the repetition penalty of 1.1 that nobody asked for."
# ## Side by side
#
# | | raw API, 2023 | OpenAI-style |
# |---|---|---|
# | address | `POST /api/v1/chat`, port 5000 | `POST /v1/chat/completions`, port 5001 |
# | the question | `user_input` | the last message |
# | earlier turns | `history.internal`, pairs | messages with roles |
# | how to behave | `context_instruct` | a message with the role system |
# | length | `max_new_tokens` | `max_tokens` |
# | no sampling | `do_sample: false` | `temperature: 0` |
# | repetition penalty | 1.1 unless you say otherwise | none |
# | the answer | `results[0].history.visible[-1][1]`, escaped | `choices[0].message.content`, plain |

# %% [markdown] slideshow={"slide_type": "skip"}
# Both become the same prompt for the same model. The wording can still differ: the raw API's default `repetition_penalty` of 1.1 makes
# a token that was already used less likely. Set it to 1 and compare.

# %% slideshow={"slide_type": "skip"}
if server.raw_url:
    same = clients.chat_raw(**{**request, "repetition_penalty": 1}, url=server.raw_url)
    checks.confirm(
        clients.last_reply(same).strip() == reply.choices[0].message.content.strip(),
        "without the penalty both dialects give the same answer",
        "compare the two requests field by field",
    )

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Streaming
#
# A long answer takes a while. With `stream=True` the server sends each piece as soon as it is there (as *server-sent events*, lines
# that begin with `data:`). The bars mark where one piece ends.
#
# **Predict:** an answer of at most 24 tokens: in how many pieces will it come?

# %% slideshow={"slide_type": "skip"}
guess = 3  # yours

# %% slideshow={"slide_type": "skip"}
stream = client.chat.completions.create(model=server.model, messages=messages, temperature=0, max_tokens=24, stream=True)
pieces = 0
for chunk in stream:
    print(piece := chunk.choices[0].delta.content or "", end="|", flush=True)
    pieces += bool(piece)
print()
checks.compare_guess(guess, pieces, "pieces")

# %% [markdown] slideshow={"slide_type": "skip"}
# The raw API streamed over a **websocket**, a connection that stays open in both directions, at a port of its own (5005). Each message
# brought the whole history so far, so that a page had only to show it.

# %% slideshow={"slide_type": "skip"}
if server.streaming_url:
    for grown in clients.stream_chat_raw(**request, url=server.streaming_url):
        print(grown["internal"][-1][1], end="\r", flush=True)
    print(grown["internal"][-1][1])

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="Greedy takes the longest bar. With log-probabilities one can also judge without generating: lesson 4 does."
# ## How sure was it?
#
# For each token the model computes a probability of every token it knows. `logprobs` sends them along, as natural logarithms: here the
# five likeliest first tokens of the answer to a question with more than one right answer.

# %% slideshow={"slide_type": "skip"}
import math

question = [{"role": "user", "content": "Name one color, in one word."}]
sure = client.chat.completions.create(model=server.model, messages=question, temperature=0, max_tokens=1, logprobs=True, top_logprobs=5)
rivals = sure.choices[0].logprobs.content[0].top_logprobs
shares = {repr(rival.token): math.exp(rival.logprob) for rival in rivals}

# %% slideshow={"slide_type": "-"}
from helpers.tutorial import plots

words = ", ".join(f"{token} {share:.1%}" for token, share in shares.items())
plots.show(plots.draw_shares(shares, "probability as the first token"), f"Bars: {words}")
print(words)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** greedy decoding takes the longest bar. Sampling draws: a **temperature** below 1 makes the long bars longer, above 1 it
# evens them out. A **seed** makes a draw repeatable.
#
# **Predict:** the next cell asks seven times. How many *different* lines will come?

# %% slideshow={"slide_type": "skip"}
guess = 7  # yours

# %% slideshow={"slide_type": "skip"}
lines = set()
for temperature, seed in [(0, 1), (0, 2), (0.7, 1), (0.7, 1), (0.7, 2), (1.8, 1), (1.8, 2)]:
    drawn = clients.ask_openai(client, question, server.model, temperature=temperature, seed=seed, max_tokens=12)
    print(f"temperature {temperature:3}  seed {seed}  {drawn!r}")
    lines.add(drawn)
checks.compare_guess(guess, len(lines), "different lines")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** at temperature 0 the seed has nothing to decide. Above it, the same seed gives the same line, another seed may give another.
# At 1.8 unlikely tokens come up often enough to spoil the text.
#
# ## A chat box
#
# The same streaming call behind a field to type in. It needs a running notebook: on a web page that only shows the file it is not there.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial import panels

print("The chat box stands below this line while the notebook runs: type a question, press Enter.")
panels.ChatBox(client, server.model, temperature=0.2, max_tokens=80)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## When something is wrong
#
# A server of one's own gets wrong requests too. Here is what it says to two of them.

# %% slideshow={"slide_type": "skip"}
from helpers import KitError

if server.raw_url:
    bad = requests.post(f"{server.raw_url}/api/v1/chat", json={"history": {"internal": []}}, timeout=30)
    print(bad.status_code, bad.json()["error"]["message"])
try:
    clients.ask_openai(client, messages, server.model, top_p=7)
except KitError as error:
    print(error.problem)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## One client, another server
#
# Here is a second server: the same model as a GGUF file in llama.cpp (lesson 2), where that is installed. Nothing changes for the
# client but the address. (With `OPENAI_BASE_URL` there is no second one: both are the one that it names.)

# %% slideshow={"slide_type": "skip"}
other_name = "SmolLM2-135M-Instruct-GGUF" if importlib.util.find_spec("xllamacpp") else "SmolLM2-135M-Instruct"
other = tutorial.reach_server(other_name, "smollm2-135m-instruct")

# %% slideshow={"slide_type": "skip"}
for each in (server, other):
    client = OpenAI(base_url=each.openai_url, api_key=each.api_key)
    reply = client.chat.completions.create(model=each.model, messages=messages, temperature=0, max_tokens=40)
    print(f"{reply.model}: {reply.choices[0].message.content!r}")

# %% slideshow={"slide_type": "skip"}
other.stop()

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs as it stands and does not pass yet. Change it until the line below it turns green. A solution is folded away behind each.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 1. Change a value
#
# This answer is cut off. Let it come to its own end.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
client = OpenAI(base_url=server.openai_url, api_key=server.api_key)
reply = client.chat.completions.create(model=server.model, messages=messages, temperature=0, max_tokens=3)
checks.confirm(reply.choices[0].finish_reason == "stop", "the answer ended by itself", "give it more tokens")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
client = OpenAI(base_url=server.openai_url, api_key=server.api_key)
reply = client.chat.completions.create(model=server.model, messages=messages, temperature=0, max_tokens=80)
checks.confirm(reply.choices[0].finish_reason == "stop", "the answer ended by itself", "give it more tokens")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# A program wants the user's words as they were typed, out of the visible history.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
text = "Is 1 &lt; 2 &amp; &lt;b&gt;2 &gt; 1&lt;/b&gt;?"
checks.confirm(text == "Is 1 < 2 & <b>2 > 1</b>?", "these are the words that were typed", "visible is escaped for web pages")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
text = unescape("Is 1 &lt; 2 &amp; &lt;b&gt;2 &gt; 1&lt;/b&gt;?")
checks.confirm(text == "Is 1 < 2 & <b>2 > 1</b>?", "these are the words that were typed", "visible is escaped for web pages")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# From the raw API's history to the messages of the OpenAI-style API: each pair becomes two messages, and the question comes last.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def to_messages(pairs, question):
    return [{"role": "user", "content": question}]


built = to_messages(request["history"]["internal"], request["user_input"])
checks.confirm(built == messages[1:], "both dialects say the same", "a pair is [what the user said, what the assistant replied]")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def to_messages(pairs, question):
    turns = [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair)]
    return [*turns, {"role": "user", "content": question}]


built = to_messages(request["history"]["internal"], request["user_input"])
checks.confirm(built == messages[1:], "both dialects say the same", "a pair is [what the user said, what the assistant replied]")

# %% [markdown] slideshow={"slide_type": "skip"}
# The servers go, and their memory with them.

# %% slideshow={"slide_type": "skip"}
server.stop()
checks.confirm(not server.runs_here(), "no server of this notebook runs any more, and its memory is free", "server.stop()")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking: a panel
#
# The kit's own **Session** tab: choose the APIs and their ports, press *Start*, copy an address into a client. It makes the calls that
# `clients.start_server` makes, but takes the very ports that you choose, and says so when one is in use. Nothing is started before that.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import SessionPanel

SessionPanel(lane.folder)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same with the WebUI
#
# In a terminal, outside of Jupyter, the server above is:
#
# ```bash
# python -m helpers.server --model SmolLM2-135M-Instruct --api --extensions openai
# ```
#
# The WebUI of 2023 was started with the same switches; its page then was at port 7860. It needs versions of then, so it gets an
# environment of its own, here for an NVIDIA GPU:
#
# ```bash
# git clone https://github.com/oobabooga/text-generation-webui
# cd text-generation-webui
# git checkout snapshot-2023-10-29
# python3.11 -m venv venv
# source venv/bin/activate
# pip install "torch~=2.1.0" --index-url https://download.pytorch.org/whl/cu121
# pip install -r requirements.txt -r extensions/openai/requirements.txt fastapi~=0.104.1 starlette~=0.27.0 pydantic~=2.4.2 huggingface_hub~=0.17.3
# python server.py --model TheBloke_Llama-2-7B-Chat-GPTQ --api --extensions openai
# ```
#
# By clicking, in 2023: tab **Session**, tick *api* and *openai* under *Available extensions*, press *Apply flags/extensions and restart*.
#
# Today it has one API, in the OpenAI style, at port 5000:
#
# ```bash
# python server.py --model TheBloke_Llama-2-7B-Chat-GPTQ --api
# ```
#
# | 2023 | today |
# |---|---|
# | raw API `/api/v1/...` at 5000, streaming at 5005 | removed in November 2023; the kit's server keeps both alive for this lesson |
# | `--extensions openai`, port 5001 | the same as `--api`, port 5000 |
# | `openai.ChatCompletion.create(...)` | `client.chat.completions.create(...)` since openai 1.0 |
# | `OPENAI_API_BASE` | `OPENAI_BASE_URL`, or `base_url=` as above |
# | no key, wrong requests end in an empty reply | a key (`OPEN_LLM_KIT_API_KEY` or `--api-key-file`); errors say what is wrong |
#
# The same client code runs against all of them: the kit's server, the WebUI, vLLM, llama.cpp's server, and OpenAI itself. Only
# `base_url`, the key and the model's name change.
#
# Links: [OpenAI's reference of the chat API](https://platform.openai.com/docs/api-reference/chat) describes every field;
# [the WebUI's wiki page on its API](https://github.com/oobabooga/text-generation-webui/wiki) has examples for today's version.
#
# ## Recap
#
# - A server turns a model into something every program can use; the client sends the whole conversation each time.
# - Two dialects, one prompt: pairs and `user_input`, or messages with roles.
# - `visible` is for pages, `internal` for programs.
# - Streaming shows the answer while it is written.
#
# ## Check yourself
#
# <details><summary>Where does the server keep the conversation?</summary>
# Nowhere. Each request carries all of it.
# </details>
#
# <details><summary>Your client shows &amp;lt; where the user typed a bracket. Which field did it read?</summary>
# The visible history, without undoing the escapes.
# </details>
#
# <details><summary>Which single line changes when you move from this server to another one?</summary>
# The one with base_url (and the key, if the other asks for one).
# </details>

# %% slideshow={"slide_type": "skip"}
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 4, training a LoRA](04_training.ipynb).
