"""Calls over the raw API of 2023, whole and streamed, and how their failures are explained."""

import json

import pytest
from support.fake_webui import serve_reply, serve_websockets

from helpers import clients
from helpers.clients.remedies import SERVER_REMEDIES
from helpers.common.errors import ServerError, UsageError


def test_raw_call_sends_the_defaults_with_what_was_changed():
    history = {"internal": [["a", "b"]], "visible": [["a", "&lt;b&gt;"]]}
    reply = json.dumps({"results": [{"history": history}]}).encode()
    with serve_reply(200, reply) as (url, received):
        assert clients.chat_raw("Hi", url=url, seed=7) == history
    empty = {"internal": [], "visible": []}
    assert received == [{**clients.DEFAULT_CHAT_PARAMS, "user_input": "Hi", "history": empty, "seed": 7}]
    assert clients.last_reply(history) == "<b>"


def test_request_of_the_2023_tutorial_is_built_as_it_was_written():
    pairs = [["a", "b"]]
    params = dict(
        **clients.DEFAULT_CHAT_PARAMS,
        user_input="What color is the sky?",
        history=dict(internal=pairs, visible=pairs),
        context_instruct="Answer in one sentence.",
    )
    assert params["mode"] == "instruct" and params["history"] == {"internal": pairs, "visible": pairs}


def test_same_call_and_stream_work_with_the_webui_of_2023(old):
    first = clients.chat_raw("<b>", url=old.url)
    assert clients.last_reply(first) == "<b>!"
    second = clients.chat_raw("Hi", first, url=old.url)
    assert second["internal"] == [["<b>", "<b>!"], ["Hi", "Hi!"]]
    assert list(clients.stream_raw("Hi you there", url=old.stream_url)) == ["", "Hi", "you", "there"]
    histories = list(clients.stream_chat_raw("Hi", first, url=old.stream_url))
    assert [history["internal"][-1][1] for history in histories] == ["H", "Hi", "Hi!"]
    assert histories[-1] == second


def test_empty_reply_of_the_2023_server_is_explained():
    with serve_reply(200, b"") as (url, _), pytest.raises(ServerError, match=url) as caught:
        clients.chat_raw("Hi", url=url)
    assert caught.value.remedy == SERVER_REMEDIES["not JSON"]


def test_refusal_carries_the_servers_words():
    error = {"message": "seed: too large.", "type": "invalid_request_error", "param": "seed", "code": None}
    body = json.dumps({"error": error}).encode()
    with serve_reply(400, body) as (url, _), pytest.raises(ServerError, match="seed: too large."):
        clients.chat_raw("Hi", url=url)


def test_history_without_an_answer_is_an_error(old):
    old.webui.model = None
    try:
        with pytest.raises(ServerError):
            clients.chat_raw("Hi", url=old.url)
        with pytest.raises(ServerError):
            list(clients.stream_chat_raw("Hi", url=old.stream_url))
        with pytest.raises(ServerError, match="without an answer"):
            list(clients.stream_raw("Hi", url=old.stream_url))
        unchanged = clients.chat_raw("", url=old.url, regenerate=True)  # no row is added, so this is right
        assert unchanged["internal"] == []
    finally:
        old.webui.model = "llama"


def test_answer_without_a_word_is_no_error(old):
    assert list(clients.stream_raw("", url=old.stream_url)) == ["", ""]


def test_raw_call_to_todays_webui_is_a_404_with_a_remedy(new):
    with pytest.raises(ServerError, match="404") as caught:
        clients.chat_raw("Hi", url=new, api_key="sk")
    assert caught.value.remedy == SERVER_REMEDIES[404]


def test_other_programs_at_the_address_are_recognised(old):
    with serve_reply(200, b'{"hello": 1}') as (url, _), pytest.raises(ServerError):
        clients.chat_raw("Hi", url=url)
    with serve_reply(403, b"<html>A page</html>") as (url, _), pytest.raises(ServerError) as caught:
        clients.chat_raw("Hi", url=url)
    assert "403" in caught.value.problem and "<html>" not in caught.value.problem
    assert caught.value.remedy == SERVER_REMEDIES[403]


def test_address_without_a_scheme_is_a_usage_error():
    with pytest.raises(UsageError, match="127.0.0.1:5000"):
        clients.chat_raw("Hi", url="127.0.0.1:5000")


def test_stream_from_the_port_of_the_blocking_api_is_refused(old):
    for address in (old.url.replace("http", "ws"), old.url):
        with pytest.raises(ServerError, match=address) as caught:
            list(clients.stream_raw("Hi", url=address))
        assert "5005" in caught.value.remedy


def test_key_is_sent_as_a_bearer_token(new):
    with pytest.raises(ServerError, match="401"):
        clients.chat_raw("Hi", url=new, api_key="wrong")
    with pytest.raises(ServerError, match="404"):  # past the 401
        clients.chat_raw("Hi", url=new, api_key="sk")


def test_key_is_sent_to_the_websocket_too():
    keys = []

    def check_key(connection, request):
        keys.append(request.headers.get("Authorization"))
        return None if keys[-1] == "Bearer k" else connection.respond(401, '{"detail": "Unauthorized"}')

    def end_stream(connection):
        connection.recv()
        connection.send('{"event": "stream_end"}')

    with serve_websockets(end_stream, process_request=check_key) as url:
        assert list(clients.stream_raw("Hi", url=url, api_key="k")) == []
        with pytest.raises(ServerError, match="401") as caught:
            list(clients.stream_raw("Hi", url=url))
    assert caught.value.remedy == SERVER_REMEDIES[401]
    assert keys == ["Bearer k", None]


@pytest.mark.parametrize(
    ("params", "pieces"),
    [({"prompt": 5}, 0), ({"prompt": "a b", "stopping_strings": ["crash"]}, 3)],
    ids=["a wrong field", "a failure on the way"],
)
def test_raw_stream_that_is_closed_before_its_end_is_an_error(old, params, pieces):
    got = []
    with pytest.raises(ServerError, match="1011"):
        for piece in clients.stream_raw(url=old.stream_url, **params):
            got.append(piece)
    assert len(got) == pieces


def test_raw_stream_of_an_unknown_path_is_an_error(old):
    with pytest.raises(ServerError, match="1000"):
        list(clients.stream_raw("Hi", url=old.stream_url + "/wrong"))


def test_error_event_of_the_kits_server_keeps_its_words():
    event = {"event": "error", "message_num": 0, "error": {"message": "seed: too large.", "param": "seed"}}

    def refuse(connection):
        connection.recv()
        connection.send(json.dumps(event))

    with serve_websockets(refuse) as url, pytest.raises(ServerError, match="seed: too large."):
        list(clients.stream_raw("Hi", url=url))


def test_raw_stream_that_stalls_ends_after_the_timeout():
    def stall(connection):
        for _ in connection:
            pass

    with serve_websockets(stall) as url, pytest.raises(ServerError, match=r"\b0\.2\b"):
        list(clients.stream_raw("Hi", url=url, timeout=0.2))


def test_reader_who_stops_closes_the_raw_stream(old):
    stream = clients.stream_raw("one two three", url=old.stream_url)
    assert [next(stream), next(stream)] == ["", "one"]
    stream.close()
    assert list(clients.stream_raw("one", url=old.stream_url)) == ["", "one"]


def test_server_that_is_away_is_named(closed_url):
    with pytest.raises(ServerError, match=closed_url):
        clients.chat_raw("Hi", url=closed_url)
    socket_url = closed_url.replace("http", "ws")
    with pytest.raises(ServerError, match=socket_url):
        list(clients.stream_raw("Hi", url=socket_url))
