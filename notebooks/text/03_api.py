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

# %% [markdown] minutes=0.5 slideshow={"slide_type": "slide"} speaker="So far the model lived in our notebook. Now any program can ask it."
# # Lesson 3: one model, two APIs
#
# ![Map of the five lessons. Lesson 4, above: a CSV becomes prompts, prompts train a LoRA. Below: weights (lesson 1) become a loaded model (lesson 2), the LoRA is put on it (lesson 5), and a server answers a client (lesson 3). The weights also go, frozen, into the training. You are here: lesson 3, API.](images/map-3.svg)
#
# ## What you will do
#
# 1. Start a server with two dialects: the raw API of 2023 and today's OpenAI style.
# 2. Hold the same conversation in both, from Python and with [curl](glossary.md#curl).
# 3. Distinguish what the model reads from what a web page shows.
# 4. See how sure the model was of each token.
# 5. Get JSON that always has the right form, and a tool call.
#
# Prerequisites: lesson 2 (what a chat template is). If you skipped lesson 1, the model is downloaded here.

# %% [markdown] slideshow={"slide_type": "skip"} tags=["cost"]
# **What it takes**, with the weights already there:
#
# | [lane](glossary.md#lane) | minutes | memory | disk | measured |
# |---|---|---|---|---|
# | tiny | 0.5 | 4.6 GB | 0.3 GB | 2026-11-29 on CPU, 2 cores, bfloat16, commit 5104f27ead75 |
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
from helpers import clients, tutorial
from helpers.common import lanes, machine
from helpers.tutorial import checks

lane = lanes.pick_lane().value
print("The server will have the model", lane.folder)

# %% [markdown] minutes=1 slideshow={"slide_type": "slide"} speaker="Follow one question through the picture. You know everything in the middle from lesson 2. The server listens on this computer only. Say so: people worry about it, and rightly."
# ## A server
#
# An [API](glossary.md#api) lets other programs use the model. Follow one question from left to right.
#
# ![The path of a request. A client sends JSON with messages over HTTP. In the server a chat template makes them one text, and the tokenizer makes that 23 tokens. The model, with its LoRA, gives the next token, which is appended to the tokens, again and again, until the token that ends the answer. Each token becomes text and goes back to the client at once as a line of the stream, or all of it at the end.](images/request.svg)

# %% [markdown] slideshow={"slide_type": "skip"}
# A program sends a request over HTTP, the protocol of web pages, and gets the answer as JSON, a text form of lists and dictionaries. The next cell
# starts the server, with the command that it prints. Each dialect has a [port](glossary.md#port), the number of its door: 5000 raw, 5001
# OpenAI style, or a free one if that is taken. Only this computer can reach 127.0.0.1.

# %% slideshow={"slide_type": "-"} tags=["remove-input"]
server = tutorial.reach_server(lane.folder, lane.model, lane.revision)
print(server.command)
if server.note:  # a usual port is taken
    print(server.note)
print(f"raw: {server.raw_url}   OpenAI: {server.openai_url}")

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="This API left the WebUI in November 2023. It is here because much code still speaks it, and because it shows so plainly that the server keeps nothing: the client sends the whole history each time. The messages differ from lesson 2's, and so does the answer."
# ## The raw API of 2023
#
# The 2023 tutorial asked text-generation-webui (the WebUI) like this: the usual parameters, the question, and the earlier turns, each a pair of user and model.

# %% slideshow={"slide_type": "skip"}
from helpers.clients import DEFAULT_CHAT_PARAMS  # in 2023: from chat_api

instruction = "Answer in as few words as you can."
chat_history = [
    [
        "You are a helpful assistant. You will answer questions I ask you. "
        "Reply with Yes if you understand.",
        "Yes, I understand",
    ]
]

# %% slideshow={"slide_type": "-"}
params = dict(
    **DEFAULT_CHAT_PARAMS,
    user_input="What color is the sky?",
    history=dict(internal=chat_history, visible=chat_history),
    context_instruct=instruction,
)

# %% slideshow={"slide_type": "-"}
import requests

params["do_sample"] = False  # always the likeliest token (greedy), so that the answer is the same each time
if server.raw_url:
    response = requests.post(f"{server.raw_url}/api/v1/chat", json=params, timeout=120)
    history = response.json()["results"][0]["history"]
    for said, replied in history["internal"]:
        print(f"user:  {said}\nmodel: {replied}")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the reply is the whole history plus a new row. The server keeps nothing: to go on, send the history back.
#
# <details><summary>The same request from a terminal, with curl</summary>
#
# ```bash
# curl http://127.0.0.1:5000/api/v1/chat -H "Content-Type: application/json" -d '{
#   "user_input": "What color is the sky?",
#   "history": {
#     "internal": [["You are a helpful assistant. You will answer questions I ask you. Reply with Yes if you understand.",
#                   "Yes, I understand"]],
#     "visible": [["You are a helpful assistant. You will answer questions I ask you. Reply with Yes if you understand.",
#                  "Yes, I understand"]]
#   },
#   "mode": "instruct", "context_instruct": "Answer in as few words as you can.",
#   "max_new_tokens": 200, "do_sample": false, "repetition_penalty": 1.1
# }'
# ```
#
# </details>

# %% slideshow={"slide_type": "skip"}
from html import unescape

if server.raw_url:
    raw_answer = unescape(history["visible"][-1][1])
    checks.publish("answer.raw", raw_answer, f"over the raw API: {raw_answer}")
    rows = len(history["internal"])
    checks.confirm(rows == 2, "the history has a second row", "print response.text")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Two sides of a history
#
# `internal` is for the model, `visible` for a web page. Here they disagree.
#
# **Predict:** which dog will the model name?

# %% slideshow={"slide_type": "skip"}
guess = "Max"  # yours: Max or Rex

# %% slideshow={"slide_type": "skip"}
disagree = {
    "internal": [["My dog is called Rex.", "Nice name!"]],
    "visible": [["My dog is called Max.", "Nice name!"]],
}
asked = "What is <b>my dog</b> called?"

# %% slideshow={"slide_type": "skip"}
if server.raw_url:
    told = clients.chat_raw(asked, disagree, url=server.raw_url, do_sample=False)
    for side, rows in told.items():
        print(side, *rows, sep="\n  ")
    checks.compare_guess(guess, "Rex" if "Rex" in told["internal"][-1][1] else "Max")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** only `internal` went into the prompt. The new row of `visible` has `&lt;b&gt;` for `<b>`, so that nobody can smuggle a script into
# a page. Your program reads `internal`, or undoes the escapes with `unescape`.

# %% [markdown] minutes=1.5 slideshow={"slide_type": "slide"} speaker="The dialect that won: vLLM, llama.cpp and the WebUI speak it. Let the room guess before you show the answer: same model, same conversation, no sampling, so is it the same as over the raw API? The culprit is one default: the full stop was already used, and a repetition penalty of 1.1 makes it less likely."
# ## The OpenAI style
#
# The same conversation as a list of **messages**, each with a [role](glossary.md#role): system (how to behave), user, or assistant (the model).

# %% slideshow={"slide_type": "-"}
from openai import OpenAI

client = OpenAI(base_url=server.openai_url, api_key=server.api_key)
messages = [
    {"role": "system", "content": instruction},
    {"role": "user", "content": chat_history[0][0]},
    {"role": "assistant", "content": chat_history[0][1]},
    {"role": "user", "content": "What color is the sky?"},
]

# %% [markdown] slideshow={"slide_type": "skip"}
# **Predict:** same model, same conversation, no sampling. The same answer as over the raw API?

# %% slideshow={"slide_type": "skip"}
guess = "same"  # yours: same or different

# %% slideshow={"slide_type": "fragment"}
reply = client.chat.completions.create(
    model=server.model, messages=messages, temperature=0, max_tokens=200
)
answer = reply.choices[0].message.content
checks.publish("answer.openai", answer, f"over the OpenAI-style API: {answer}")

# %% slideshow={"slide_type": "fragment"} tags=["remove-input"]
if server.raw_url:
    print(f"raw API: {raw_answer}\nOpenAI:  {answer}")
    checks.compare_guess(guess, "same" if raw_answer == answer else "different")
    print("repetition_penalty in the raw request:", params["repetition_penalty"])

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the prompt is the same. But the raw API's defaults have a [repetition penalty](glossary.md#repetition-penalty) of 1.1: tokens that were already used, such as the
# full stop, become less likely. Before you compare two models, compare their parameters.

# %% slideshow={"slide_type": "skip"}
if server.raw_url:
    same = clients.chat_raw(**{**params, "repetition_penalty": 1}, url=server.raw_url)
    is_same = clients.last_reply(same).strip() == answer.strip()
    claim = "without the penalty both dialects give the same answer"
    checks.confirm(is_same, claim, "compare the two requests field by field")

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>The same request with curl</summary>
#
# ```bash
# curl http://127.0.0.1:5001/v1/chat/completions -H "Content-Type: application/json" -d '{
#   "model": "SmolLM2-135M-Instruct",
#   "messages": [
#     {"role": "system", "content": "Answer in as few words as you can."},
#     {"role": "user", "content": "You are a helpful assistant. You will answer questions I ask you. Reply with Yes if you understand."},
#     {"role": "assistant", "content": "Yes, I understand"},
#     {"role": "user", "content": "What color is the sky?"}
#   ],
#   "temperature": 0, "max_tokens": 200
# }'
# ```
#
# </details>
#
# <details><summary>The same request as the 2023 tutorial wrote it, with openai 0.28</summary>
#
# ```python
# openai.api_key = "dummy"
# openai.api_base = "http://localhost:5001/v1"
# response = openai.ChatCompletion.create(model="x", messages=messages)
# print(response["choices"][0]["message"]["content"])
# ```
#
# </details>
#
# An unknown model name, such as `x`, gets whatever model is loaded, as in the [WebUI](glossary.md#webui); with `--strict-model` it gets a 404, as at OpenAI.
#
# | | raw API, 2023 | OpenAI style |
# |---|---|---|
# | address ([localhost](glossary.md#localhost)) | `POST http://localhost:5000/api/v1/chat` | `POST http://localhost:5001/v1/chat/completions` |
# | the question | `user_input` | the last message |
# | earlier turns | `history.internal`, pairs | messages with roles |
# | how to behave | `context_instruct` | a message with the role system |
# | length | `max_new_tokens` | `max_tokens` |
# | no sampling | `do_sample: false` | `temperature: 0` |
# | repetition penalty | 1.1 by default | none |
# | streaming | websocket, `ws://localhost:5005/api/v1/chat-stream` | `stream: true` |
# | the answer | `results[0].history.visible[-1][1]`, escaped | `choices[0].message.content`, plain |

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Streaming
#
# With `stream=True` the server sends each piece at once, as [server-sent events](glossary.md#streaming) (`"stream": true` and `curl -N`).
# Each piece is followed by a bar. The first one and the last ones are empty.
#
# **Predict:** how many pieces will the answer have?

# %% slideshow={"slide_type": "skip"}
guess = 1  # yours

# %% slideshow={"slide_type": "skip"}
stream = client.chat.completions.create(
    model=server.model, messages=messages, temperature=0, max_tokens=40, stream=True
)
pieces = 0
for chunk in stream:
    print(piece := chunk.choices[0].delta.content or "", end="|", flush=True)
    pieces += bool(piece)
print()
checks.compare_guess(guess, pieces, "pieces")

# %% [markdown] slideshow={"slide_type": "skip"}
# The raw API streams over a [websocket](glossary.md#streaming), a connection that stays open. Each message has the whole history so far.

# %% slideshow={"slide_type": "skip"}
if server.streaming_url:
    for grown in clients.stream_chat_raw(**params, url=server.streaming_url):
        print(grown["internal"][-1][1], end="\r", flush=True)
    print(grown["internal"][-1][1])

# %% [markdown] slideshow={"slide_type": "skip"}
# ## How sure was it?
#
# At each place the model computes how likely every token is; `logprobs` sends these [log-probabilities](glossary.md#log-probability) along. Here is
# the answer about the sky, token by token, then the place where it was least sure.

# %% slideshow={"slide_type": "skip"}
import math

how = {"temperature": 0, "max_tokens": 40, "logprobs": True, "top_logprobs": 5}
reply = client.chat.completions.create(model=server.model, messages=messages, **how)
tokens = reply.choices[0].logprobs.content

# %% slideshow={"slide_type": "skip"}
for token in tokens[:12]:
    chance = math.exp(token.logprob)
    print(f"{token.token!r:10} {chance:6.1%}  {'■' * round(40 * chance)}")

# %% slideshow={"slide_type": "skip"} tags=["remove-input"]
from helpers.tutorial import plots

least = min(tokens, key=lambda token: token.logprob)
shares = {repr(rival.token): math.exp(rival.logprob) for rival in least.top_logprobs}
words = ", ".join(f"{token} {share:.1%}" for token, share in shares.items())
figure = plots.draw_shares(shares, f"probability where {least.token!r} was chosen")
plots.show(figure, f"Bars of the likeliest tokens: {words}")
print("least sure:", words)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** [greedy](glossary.md#greedy) takes the longest bar. Sampling draws: a [temperature](glossary.md#sampling) below 1 makes long bars
# longer, above 1 it evens them out, and a seed makes the draw repeatable.
#
# **Predict:** asked seven times, how many *different* lines will the model write?

# %% slideshow={"slide_type": "skip"}
guess = 7  # yours

# %% slideshow={"slide_type": "skip"}
lines = set()
for temperature, seed in [(0, 1), (0, 2), (0.7, 1), (0.7, 1), (0.7, 2), (1.8, 1), (1.8, 2)]:
    how = {"temperature": temperature, "seed": seed, "max_tokens": 12}
    drawn = clients.ask_openai(client, messages, server.model, **how)
    print(f"temperature {temperature:3}  seed {seed}  {drawn!r}")
    lines.add(drawn)
checks.compare_guess(guess, len(lines), "different lines")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** at temperature 0 the seed decides nothing. Above it, the same seed gives the same line. At 1.8 unlikely tokens spoil the text.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## JSON that always has the right form
#
# A program needs fields, not prose. Send a JSON schema, a description of the fields, and the server rules out every token
# that would break it: a [structured answer](glossary.md#structured-answer).

# %% slideshow={"slide_type": "skip"}
text = "Ada Lovelace was born in London in 1815 and wrote the first computer program."
asked = [{"role": "user", "content": f"Extract name, city and year of birth as JSON.\n\n{text}"}]
fields = {"name": {"type": "string"}, "city": {"type": "string"}, "born": {"type": "integer"}}

# %% slideshow={"slide_type": "skip"}
schema = {"type": "object", "properties": fields, "required": list(fields)}
schema["additionalProperties"] = False
form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
for name, wish in {"only asked for": {"type": "text"}, "with the schema": form}.items():
    reply = client.chat.completions.create(
        model=server.model, messages=asked, temperature=0, max_tokens=80, response_format=wish
    )
    print(f"{name}: {reply.choices[0].message.content}")

# %% slideshow={"slide_type": "skip"}
import json

try:
    person = json.loads(reply.choices[0].message.content)
except ValueError:  # a server that does not know schemas
    person = {}
checks.confirm(isinstance(person.get("born"), int), "the year is a number", "send the schema")

# %% [markdown] slideshow={"slide_type": "skip"}
# **Read it:** the first answer chose its own names for the keys, and its year is text: `person["born"] + 36` would fail. The second always works.
# But no schema knows whether the year is true.
#
# ## A tool call
#
# Small models can't multiply; your computer can. In a [tool call](glossary.md#tool-call), the model fills in the arguments of a function that you
# described; your program runs it and sends the result back.

# %% slideshow={"slide_type": "skip"}
sums = [{"role": "user", "content": "What is 17 times 23?"}]
how = {"temperature": 0, "max_tokens": 24, "stop": ["\n"]}
print("without a tool:", clients.ask_openai(client, sums, server.model, **how))

# %% slideshow={"slide_type": "skip"}
numbers = {"a": {"type": "integer"}, "b": {"type": "integer"}}
schema = {"type": "object", "properties": numbers, "required": ["a", "b"]}
schema["additionalProperties"] = False
function = {"name": "multiply", "description": "Multiplies two numbers.", "parameters": schema}
tools = [{"type": "function", "function": function}]

# %% slideshow={"slide_type": "skip"}
must = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
reply = client.chat.completions.create(
    model=server.model, messages=sums, temperature=0, max_tokens=60, **must
)
said = reply.choices[0].message
for call in said.tool_calls or []:
    print("the model calls:", call.function.name, call.function.arguments)

# %% slideshow={"slide_type": "skip"}
if said.tool_calls:
    given = json.loads(call.function.arguments)
    product = str(given["a"] * given["b"])
    result = {"role": "tool", "tool_call_id": call.id, "content": product}
    talk = [*sums, said.to_dict(), result]
    print("with its result:", clients.ask_openai(client, talk, server.model, **how))

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Both with curl</summary>
#
# ```bash
# curl http://127.0.0.1:5001/v1/chat/completions -H "Content-Type: application/json" -d '{
#   "messages": [{"role": "user", "content":
#     "Extract name, city and year of birth as JSON.\n\nAda Lovelace was born in London in 1815 and wrote the first computer program."}],
#   "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": {
#     "type": "object", "additionalProperties": false, "required": ["name", "city", "born"],
#     "properties": {"name": {"type": "string"}, "city": {"type": "string"}, "born": {"type": "integer"}}}}},
#   "temperature": 0, "max_tokens": 80
# }'
# ```
#
# ```bash
# curl http://127.0.0.1:5001/v1/chat/completions -H "Content-Type: application/json" -d '{
#   "messages": [{"role": "user", "content": "What is 17 times 23?"}],
#   "tools": [{"type": "function", "function": {"name": "multiply", "description": "Multiplies two numbers.", "parameters": {
#     "type": "object", "additionalProperties": false, "required": ["a", "b"],
#     "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}}],
#   "tool_choice": "required", "parallel_tool_calls": false, "temperature": 0, "max_tokens": 60
# }'
# ```
#
# </details>
#
# ## What else it can do
#
# - A chat page, with each request beside it as `curl` and Python: the next cell prints its address.
# - `/v1/responses`, OpenAI's newer dialect: `client.responses.create(model=..., input=...)`.
# - `structured_outputs`, vLLM's field: answers from a list (`choice`), or that fit a regular expression (`regex`) or a `grammar`.
# - `/v1/completions` continues any text or token ids; with `echo` and `logprobs` it scores the text itself.
# - `/tokenize` counts tokens; `/health` says whether the server is ready.
# - `--upstream URL` puts this server in front of an [upstream](glossary.md#upstream): vLLM, llama.cpp's server, Ollama, the WebUI.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial import panels

if server.runs_here():
    print("chat page:", server.openai_url.removesuffix("v1"))
print("The chat box is below this line while the notebook runs.")
panels.ChatBox(client, server.model, temperature=0.2, max_tokens=80)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Clients make mistakes; here is what the server says
#
# The WebUI of 2023 sent an empty reply. This server names what is wrong, and lists fields that no longer mean anything as ignored.

# %% slideshow={"slide_type": "skip"}
if server.raw_url:
    chat = f"{server.raw_url}/api/v1/chat"
    bad = requests.post(chat, json={"history": {"internal": []}}, timeout=30)
    print(bad.status_code, bad.json()["error"]["message"])
    odd = requests.post(chat, json={**params, "mirostat_mode": 2}, timeout=120)
    print(odd.status_code, "ignored:", odd.json()["ignored"])

# %% slideshow={"slide_type": "skip"}
from helpers import KitError

try:
    clients.ask_openai(client, messages, server.model, top_p=7)
except KitError as error:
    print(error.problem)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## One client, another server
#
# Now a second server, with the same model as a GGUF file in llama.cpp (lesson 2), if that is installed. For the client only the address changes.

# %% slideshow={"slide_type": "skip"}
has_llama = importlib.util.find_spec("xllamacpp")
other_name = "SmolLM2-135M-Instruct-GGUF" if has_llama else "SmolLM2-135M-Instruct"
other = tutorial.reach_server(other_name, "smollm2-135m-instruct")

# %% slideshow={"slide_type": "skip"}
for each in (server, other):
    asker = OpenAI(base_url=each.openai_url, api_key=each.api_key)
    said = clients.ask_openai(asker, messages, each.model, temperature=0, max_tokens=40)
    print(f"{each.model}: {said!r}")
other.stop()

# %% slideshow={"slide_type": "skip"}
for name, effect in {
    "OPENAI_BASE_URL": "the lesson asks that server and starts none",
    "KIT_UPSTREAM": "the kit's server goes in front of that one, with both dialects",
}.items():
    print(f"{name} is {os.environ.get(name, 'not set')}. With an address in it, {effect}.")

# %% [markdown] slideshow={"slide_type": "skip"}
# The WebUI's address is `http://127.0.0.1:5000/v1`; set `OPENAI_API_KEY` and `OPENAI_MODEL` as well if it needs them.
#
# At OpenAI itself (August 2026), reasoning models refuse `max_tokens` (send `max_completion_tokens`) and every `temperature` but 1. For new
# programs OpenAI recommends [Responses instead of Chat Completions](https://developers.openai.com/api/docs/guides/migrate-to-responses);
# OpenAI stores the replies unless you send `store=False`.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each cell runs but doesn't pass yet. Change it until its line turns green. A solution is folded away below each.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 1. Change a value
#
# This answer is cut off. Let it come to its own end.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
reply = client.chat.completions.create(
    model=server.model, messages=messages, temperature=0, max_tokens=3
)
ended = reply.choices[0].finish_reason == "stop"
checks.confirm(ended, "the answer ended by itself", "give it more tokens")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
reply = client.chat.completions.create(
    model=server.model, messages=messages, temperature=0, max_tokens=80
)
ended = reply.choices[0].finish_reason == "stop"
checks.confirm(ended, "the answer ended by itself", "give it more tokens")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 2. Change a line
#
# Get the user's words as they were typed, out of the visible history.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
text = "Is 1 &lt; 2 &amp; &lt;b&gt;2 &gt; 1&lt;/b&gt;?"
typed = text == "Is 1 < 2 & <b>2 > 1</b>?"
checks.confirm(typed, "these are the words that were typed", "visible is escaped for web pages")

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
text = unescape("Is 1 &lt; 2 &amp; &lt;b&gt;2 &gt; 1&lt;/b&gt;?")
typed = text == "Is 1 < 2 & <b>2 > 1</b>?"
checks.confirm(typed, "these are the words that were typed", "visible is escaped for web pages")

# %% [markdown] slideshow={"slide_type": "skip"}
# ### 3. Write a function
#
# Turn a raw history into messages: each pair becomes two, and the question comes last.

# %% slideshow={"slide_type": "skip"} tags=["exercise", "nbval-check-output"]
def to_messages(pairs, question):
    return [{"role": "user", "content": question}]


built = to_messages(chat_history, params["user_input"])
remedy = "a pair is [what the user said, what the assistant replied]"
checks.confirm(built == messages[1:], "both dialects say the same", remedy)

# %% cellView="form" jupyter={"source_hidden": true} slideshow={"slide_type": "skip"} tags=["solution", "nbval-check-output"]
# @title Solution
def to_messages(pairs, question):
    roles = ("user", "assistant")
    turns = [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair)]
    return [*turns, {"role": "user", "content": question}]


built = to_messages(chat_history, params["user_input"])
remedy = "a pair is [what the user said, what the assistant replied]"
checks.confirm(built == messages[1:], "both dialects say the same", remedy)

# %% [markdown] slideshow={"slide_type": "skip"}
# Stop the server and free its memory.

# %% slideshow={"slide_type": "skip"}
server.stop()
checks.confirm(not server.runs_here(), "no server of this notebook runs any more", "server.stop()")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same by clicking
#
# The kit's **Session** panel: choose APIs and ports, press *Start*, copy an address.

# %% slideshow={"slide_type": "skip"}
from helpers.tutorial.panels import SessionPanel

SessionPanel(lane.folder)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## The same with the WebUI
#
# In 2023: tab **Session**, tick *api* and *openai* under *Available extensions*, press *Apply flags/extensions and restart*. Today (4.7.3) *openai* is
# no longer an extension; follow the numbers:
#
# ![The WebUI, as a drawing. Session tab: tick api among the Boolean command-line flags, press Apply flags/extensions and restart. In 2023, api and openai were ticked among the extensions.](images/webui-session.svg)
#
# People then chat in the **Chat** tab. The sliders in the **Parameters** tab are the parameters of your requests.
#
# ![The WebUI, as a drawing. Chat tab: mode instruct, a question and its answer, the field for a message and Send. In the Parameters tab, temperature and top_p.](images/webui-chat.svg)
#
# In a terminal today:
#
# ```bash
# python server.py --model llama-2-7b-chat.Q4_K_M.gguf --api
# ```
#
# In 2023, with its page at port 7860 (an environment of its own, NVIDIA GPU):
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
# | 2023 | today (WebUI 4.7.3, May 2026) |
# |---|---|
# | raw API `/api/v1/...` at port 5000, streaming at 5005 | removed in November 2023; the kit's server keeps both alive |
# | `--extensions openai`, port 5001 | the same as `--api`, port 5000 |
# | `openai.ChatCompletion.create(...)` | `client.chat.completions.create(...)` since openai 1.0 |
# | `OPENAI_API_BASE` | `OPENAI_BASE_URL` or `base_url=` |
# | no key | `--api-key`; the kit's server: `OPEN_LLM_KIT_API_KEY`, `--api-key-file` |
#
# More: [OpenAI's reference of the chat API](https://platform.openai.com/docs/api-reference/chat),
# [the WebUI's wiki page on its API](https://github.com/oobabooga/text-generation-webui/wiki).
#
# ## Recap
#
# - A server lets any program use the model, and keeps nothing: each request carries the whole conversation.
# - Two dialects, one prompt: pairs and `user_input`, or messages with roles. Their defaults differ.
# - `internal` is for the model, `visible` for a page.
# - `logprobs` says how sure it was. A schema makes the form certain, not the facts.
#
# ## Check yourself
#
# **1. Where does the server keep your conversation?**
#
# - a) in the model's weights
# - b) in its memory, until you stop it
# - c) nowhere
#
# <details><summary>Answer</summary>
#
# **c**: each request carries all of it. Not b: a chat page remembers, but only because it sends everything again.
#
# </details>
#
# **2. Your program shows `&lt;` where the user typed a bracket. What did it read?**
#
# - a) `internal`
# - b) `choices[0].message.content`
# - c) `visible`, without `unescape`
#
# <details><summary>Answer</summary>
#
# **c**: `visible` is escaped for web pages. Not b: the OpenAI style sends plain text.
#
# </details>
#
# **3. The likeliest token has 40%. How often is it taken at temperature 0?**
#
# - a) always
# - b) in 40% of the answers
# - c) it depends on the seed
#
# <details><summary>Answer</summary>
#
# **a**: greedy takes the longest bar, however short. Not b: that is sampling at temperature 1. Not c: nothing is drawn.
#
# </details>
#
# **4. Your JSON schema has a field `born`, an integer. What can you rely on?**
#
# - a) the answer has `born`, and it is a number
# - b) the year is right
# - c) both
#
# <details><summary>Answer</summary>
#
# **a**: tokens that would break the form are ruled out. Not c: a wrong year has the right form.
#
# </details>

# %% slideshow={"slide_type": "skip"}
machine.free_memory()

# %% [markdown] slideshow={"slide_type": "skip"}
# **Next:** [Lesson 4, training a LoRA](04_training.ipynb).
