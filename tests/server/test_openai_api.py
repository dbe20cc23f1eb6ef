"""The OpenAI-style API through OpenAI's own client."""

import asyncio
import json
from concurrent.futures import Future

import openai
import pytest
import requests
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from support.server import make_tiny_service, serve_app
from support.tiny import make_byte_tokenizer

from helpers.generation.engine import Engine
from helpers.generation.request import Generation, Piece, Token
from helpers.server.openai_api import make_openai_app
from helpers.server.openai_sampling import add_to_seed
from helpers.server.service import Service


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serve_app(make_openai_app(make_tiny_service(tmp_path_factory.mktemp("home")))) as address:
        yield address + "/v1"


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 12}
TEXT = {"model": "tiny", "prompt": "Once upon", "temperature": 0, "max_tokens": 12}
LONG_PROMPT = "x" * 3000  # longer than the context


def chat(client, **settings):
    return client.chat.completions.create(**{**CHAT, **settings})


def complete(client, **settings):
    return client.completions.create(**{**TEXT, **settings})


def list_texts(reply):
    """The texts of a reply's choices, in their order."""
    return [choice.message.content if hasattr(choice, "message") else choice.text for choice in reply.choices]


def read_text(reply):
    """The text of a reply's only choice."""
    (text,) = list_texts(reply)
    return text


def read_stream(chunks):
    """(text of each choice, why each choice ended, usage of the last chunk) of a streamed reply."""
    texts, reasons, usage = {}, {}, None
    for chunk in chunks:
        usage = chunk.usage
        for choice in chunk.choices:
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return [texts[i] for i in sorted(texts)], [reasons[i] for i in sorted(reasons)], usage


def test_model_is_found_by_its_name(client):
    assert [model.id for model in client.models.list()] == ["tiny", "shift", "twist"]
    assert client.models.retrieve("twist").id == "twist"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("x")
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("ask", [chat, complete])
def test_model_name_selects_the_base_an_adapter_or_the_default(client, ask):
    replies = {name: ask(client, model=name) for name in ("tiny", "shift", "twist", "x")}
    named = {name: reply.model for name, reply in replies.items()}
    assert named == {"tiny": "tiny", "shift": "shift", "twist": "twist", "x": "shift"}
    texts = {name: read_text(reply) for name, reply in replies.items()}
    assert len(set(texts.values())) == 3
    assert texts["x"] == texts["shift"]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("chat/completions", CHAT, ChatCompletion),
        ("chat/completions", {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 2}, ChatCompletion),
        ("completions", TEXT, Completion),
        ("completions", {**TEXT, "n": 2, "logprobs": 1}, Completion),
    ],
)
def test_whole_replies_have_the_shape_of_openais_own_types(url, path, body, kind):
    reply = requests.post(f"{url}/{path}", json=body, timeout=30).json()
    assert kind.model_validate(reply, strict=False).to_dict(exclude_unset=True) == reply
    assert not kind.model_validate(reply).model_extra


def test_chunks_have_the_shape_of_openais_own_type_and_end_with_done(url):
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    reply = requests.post(f"{url}/chat/completions", json=body, timeout=30)
    lines = [line for line in reply.text.split("\n\n") if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert not any(ChatCompletionChunk.model_validate(chunk).model_extra for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert {chunk["usage"] for chunk in chunks[:-1]} == {None}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("ask", [chat, complete])
def test_stream_says_what_the_whole_reply_says(client, ask):
    settings = {"n": 2, "seed": 3, "temperature": 1}
    whole = ask(client, **settings)
    streamed = ask(client, stream=True, stream_options={"include_usage": True}, **settings)
    texts, reasons, usage = read_stream(streamed)
    assert texts == list_texts(whole)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_stream_has_no_usage_unless_it_was_asked_for(client):
    assert all("usage" not in chunk.to_dict() for chunk in chat(client, stream=True))


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_both_names_limit_the_tokens(client, field):
    reply = chat(client, **{"max_tokens": openai.omit, field: 3})
    assert reply.usage.completion_tokens == 3
    assert reply.choices[0].finish_reason == "length"


@pytest.mark.parametrize("as_sent", [lambda stop: stop, lambda stop: ["no such text", stop]])
@pytest.mark.parametrize("ask", [chat, complete])
def test_stop_ends_the_answer_and_is_not_returned(client, ask, as_sent):
    text = read_text(ask(client))
    stop = text[2:4]
    reply = ask(client, stop=as_sent(stop))
    assert read_text(reply) == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    texts, _, _ = read_stream(ask(client, stop=as_sent(stop), stream=True))
    assert texts == list_texts(reply)


def test_temperature_zero_repeats_and_a_seed_repeats_a_draw(client):
    greedy = read_text(chat(client))
    assert read_text(chat(client, seed=5)) == greedy
    drawn = [read_text(chat(client, temperature=1.5, seed=seed)) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert read_text(chat(client, temperature=1.5, seed=5, top_p=0)) == greedy


def test_n_answers_are_those_of_the_following_seeds(client):
    reply = chat(client, temperature=1, n=3, seed=7)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert list_texts(reply) == [read_text(chat(client, temperature=1, seed=seed)) for seed in (7, 8, 9)]
    assert reply.usage.prompt_tokens == chat(client).usage.prompt_tokens
    assert reply.usage.completion_tokens <= 36


def test_seed_stays_within_64_bits():
    assert add_to_seed(2**63 - 1, 1) == -(2**63)
    assert add_to_seed(-4, 1) == -3
    assert add_to_seed(None, 3) is None


def test_logprobs_of_a_chat_have_each_token_and_its_rivals(client):
    choice = chat(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    spelled = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert spelled.startswith(choice.message.content)
    for token in tokens:  # greedy: the likeliest was taken
        likeliest = token.top_logprobs[0]
        assert len(token.top_logprobs) == 3
        assert token.logprob == likeliest.logprob <= 0
        assert token.bytes == likeliest.bytes


def test_chat_has_rivals_and_logprobs_only_if_asked_for(client):
    assert chat(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(client).choices[0].logprobs is None


def test_logprobs_come_with_the_pieces_of_a_stream_too(client):
    whole = chat(client, logprobs=True).choices[0].logprobs.content
    chunks = [chunk.choices[0].logprobs for chunk in chat(client, logprobs=True, stream=True)]
    assert [token for logprobs in chunks if logprobs for token in logprobs.content] == whole


def test_logprobs_of_a_completion_have_the_older_shape(client):
    logprobs = complete(client, logprobs=2).choices[0].logprobs
    lists = (logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset)
    assert [len(each) for each in lists] == [12] * 4
    for token, logprob, top in zip(*lists[:3], strict=True):
        assert top[token] == logprob == max(top.values())
        assert len(top) == 2
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)


@pytest.mark.parametrize("ask", [chat, complete])
def test_logit_bias_forces_a_token_and_penalties_discourage_it(client, ask):
    letter = str(make_byte_tokenizer().convert_tokens_to_ids("a"))
    assert read_text(ask(client, logit_bias={letter: 100})) == "a" * 12
    plain = read_text(ask(client, logit_bias={letter: 8}))
    penalized = read_text(ask(client, logit_bias={letter: 8}, frequency_penalty=2))
    assert plain.count("a") > penalized.count("a")
    assert read_text(ask(client, presence_penalty=2)) != read_text(ask(client))


def test_several_prompts_are_answered_in_their_order(client):
    settings = {"n": 2, "seed": 1, "temperature": 1}
    one = list_texts(complete(client, prompt="One", **settings))
    two = list_texts(complete(client, prompt="Two", **settings))
    reply = complete(client, prompt=["One", "Two"], **settings)
    assert list_texts(reply) == one + two
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.usage.prompt_tokens == 6


def test_completion_has_16_tokens_by_default(client):
    reply = complete(client, max_tokens=openai.omit, logit_bias={"257": -100})  # 257 would end it early
    assert reply.usage.completion_tokens == 16


def test_echo_returns_the_prompt_too(client):
    plain = list_texts(complete(client, prompt=["One", "Two"]))
    echoed = ["One" + plain[0], "Two" + plain[1]]
    assert list_texts(complete(client, prompt=["One", "Two"], echo=True)) == echoed
    texts, _, _ = read_stream(complete(client, prompt=["One", "Two"], echo=True, stream=True))
    assert texts == echoed


TOOL = {"type": "function", "function": {"name": "f"}}
OTHER_TOOL = {"type": "function", "function": {"name": "g"}}
NOT_ENFORCEABLE = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
STRICT_TOOL = {"type": "function", "function": {"name": "f", "strict": True, "parameters": NOT_ENFORCEABLE}}
REQUIRED = "missing_required_parameter"
ODD = {"role": "user", "content": "x", "refusal": "Ada"}
PICTURE = {"role": "user", "content": [{"type": "image_url"}]}
TOO_LONG = {"role": "user", "content": LONG_PROMPT}


@pytest.mark.parametrize(
    ("settings", "param", "code"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", "literal_error"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": OTHER_TOOL}, "tool_choice", "invalid_value"),
        ({"tools": [STRICT_TOOL]}, "tools", "invalid_value"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"extra_body": {"nonsense": 1}}, "nonsense", "unknown_parameter"),
        ({"n": 0}, "n", "greater_than_equal"),
        ({"n": 65}, "n", "less_than_equal"),
        ({"top_p": 1.1}, "top_p", "less_than_equal"),
        ({"presence_penalty": 3}, "presence_penalty", "less_than_equal"),
        ({"max_tokens": 0}, "max_tokens", "greater_than_equal"),
        ({"max_tokens": 5000}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", "invalid_value"),
        ({"extra_body": {"prompt_logprobs": 1}, "stream": True}, "prompt_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "less_than_equal"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"nonsense": 1}}, "stream_options.nonsense", "extra_forbidden"),
        ({"stop": ["x"] * 33}, "stop", "too_long"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "invalid_value"),
        ({"messages": []}, "messages", "too_short"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages.0.role", "literal_error"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id", REQUIRED),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", REQUIRED),
        ({"messages": [{"role": "user"}]}, "messages.0.content", REQUIRED),
        ({"messages": [ODD]}, "messages.0.refusal", "unknown_parameter"),
        ({"messages": [PICTURE]}, "messages.0.content", "value_error"),
        ({"messages": [TOO_LONG]}, "messages", "context_length_exceeded"),
        ({"messages": [TOO_LONG], "stream": True}, "messages", "context_length_exceeded"),
    ],
)
def test_what_a_chat_cannot_do_is_a_400_that_names_it(client, settings, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **settings)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": [1, 999]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [1, 10**300]}, "prompt"),
        ({"prompt": [1] * 3000}, "prompt"),
        ({"prompt": [1, True]}, "prompt.0"),
        ({"prompt": [True]}, "prompt.0"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": ["a", 3]}, "prompt.1"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"extra_body": {"prompt_logprobs": 21}}, "prompt_logprobs"),
        ({"extra_body": {"prompt_logprobs": -1}}, "prompt_logprobs"),
        ({"extra_body": {"prompt_logprobs": 0}, "stream": True}, "prompt_logprobs"),
        ({"prompt": [[1] * 2000] * 64, "extra_body": {"prompt_logprobs": 2}}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 33, "n": 2}, "n"),
        ({"prompt": LONG_PROMPT}, "prompt"),
    ],
)
def test_what_a_completion_cannot_do_is_a_400_that_names_it(client, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **settings)
    assert caught.value.param == param


IN_PARTS = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]


@pytest.mark.parametrize(
    "settings",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"user": "ada", "metadata": {"course": "1"}, "store": False, "service_tier": "auto"},
        {"stop": None, "n": None, "stream_options": None, "logit_bias": None, "presence_penalty": 0},
        {"extra_body": {"functions": None}},
        {"messages": [{"role": "user", "content": IN_PARTS, "refusal": None}]},
        {"extra_body": {"top_k": 1, "repetition_penalty": 1.0, "mode": "instruct"}},
    ],
)
def test_what_changes_nothing_is_accepted(client, settings):
    assert list_texts(chat(client, **settings)) == list_texts(chat(client))


def test_best_of_is_accepted_if_as_many_answers_are_returned(client):
    assert len(complete(client, n=2, best_of=2, seed=1).choices) == 2


def test_developer_is_another_word_for_system(client):
    def ask(role):
        return read_text(chat(client, messages=[{"role": role, "content": "Be brief."}, *CHAT["messages"]]))

    assert ask("developer") == ask("system") != read_text(chat(client))


def test_async_client_gets_the_same_answers_at_the_same_time(url, client):
    names = ("tiny", "shift", "twist")

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as awaited:
            whole = [awaited.chat.completions.create(**{**CHAT, "model": name}) for name in names]
            chunks = await awaited.chat.completions.create(**CHAT, stream=True)
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
            return [read_text(reply) for reply in await asyncio.gather(*whole)], streamed

    answers, streamed = asyncio.run(ask_all())
    assert answers == [read_text(chat(client, model=name)) for name in names]
    assert streamed == answers[0]


class EuroEngine(Engine):
    """Says the euro sign, whose bytes two tokens share, and an a; honours nothing that is optional."""

    name = "euro"
    context = 100
    adapters = []
    script = (
        Piece("", (Token(b"\xe2\x82", -1.0, ((b"\xe2", -0.5),)),)),
        Piece("€a", (Token(b"\xac", -0.25), Token(b"a", -0.125))),
    )

    def encode(self, text, add_special):
        return [1]

    def decode(self, ids):
        return "€"

    def render(self, messages, continue_last=False, tools=None):
        return "prompt"

    def check(self, request):
        return [1]

    def submit(self, request, prompt, emit):
        for piece in self.script:
            emit(piece)
        job = Future()
        job.set_result(Generation("", 1, 3, "stop"))
        return job

    def count_tokens(self, text):
        return len(text)

    def read_advice(self, name, neutral):
        return neutral


class BrokenEngine(EuroEngine):
    """Fails in the middle of every answer."""

    def submit(self, request, prompt, emit):
        super().submit(request, prompt, emit)
        failed = Future()
        failed.set_exception(ZeroDivisionError())
        return failed


@pytest.fixture(scope="module")
def euro():
    with serve_app(make_openai_app(Service(engine=EuroEngine()))) as address:
        yield openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)


def test_token_with_half_a_character_is_named_by_its_bytes(euro):
    choice = chat(euro, logprobs=True, top_logprobs=1).choices[0]
    tokens = choice.logprobs.content
    assert choice.message.content == "€a"
    assert [token.token for token in tokens] == ["\\xe2\\x82", "\\xac", "a"]
    assert tokens[0].bytes == [0xE2, 0x82]
    assert tokens[0].top_logprobs[0].bytes == [0xE2]
    older = complete(euro, logprobs=1).choices[0].logprobs
    assert older.tokens == ["bytes:\\xe2\\x82", "bytes:\\xac", "a"]
    assert older.text_offset == [0, 0, 1]
    assert older.top_logprobs[0] == {"bytes:\\xe2": -0.5, "bytes:\\xe2\\x82": -1.0}


def test_offsets_continue_from_one_piece_of_a_stream_to_the_next(euro):
    logprobs = [chunk.choices[0].logprobs for chunk in complete(euro, logprobs=1, stream=True)]
    assert [each.text_offset for each in logprobs if each] == [[0], [0, 1]]


@pytest.mark.parametrize(
    "setting", [{"presence_penalty": 1}, {"frequency_penalty": 1}, {"logit_bias": {"1": 1}}]
)
def test_setting_that_the_engine_does_not_honour_is_refused_by_its_name(euro, setting):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(euro, **setting)
    assert caught.value.code == "unsupported_parameter"
    assert [caught.value.param] == list(setting)


def test_server_without_a_model_lists_none_and_asks_to_come_back():
    with serve_app(make_openai_app(Service())) as address:
        client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        assert client.models.list().data == []
        with pytest.raises(openai.APIStatusError) as caught:
            chat(client)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["Retry-After"]


def test_answer_that_fails_is_an_error_of_the_server():
    with serve_app(make_openai_app(Service(engine=BrokenEngine()))) as address:
        client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as caught:
            chat(client)
        assert caught.value.type == "server_error"
        with pytest.raises(openai.APIError) as streamed:
            list(chat(client, stream=True))
    assert "ZeroDivisionError" in str(streamed.value)
