"""What the events of llama.cpp say about tokens that are parts of a character."""

import pytest

from helpers.generation.llama_answer import Answer, can_begin
from helpers.generation.request import GenerationRequest, Token

PROMPT = [1, 2]


def make_entry(number, data, logprob, top=None):
    """A token as llama.cpp lists it."""
    entry = {"id": number, "bytes": list(data), "logprob": logprob}
    return entry if top is None else {**entry, "top_logprobs": top}


def make_event(text, predicted, entry=None, finish_reason=None):
    """An event after `predicted` tokens of the answer."""
    choice = {"text": text, "logprobs": entry and {"content": [entry]}, "finish_reason": finish_reason}
    return {"choices": [choice], "timings": {"predicted_n": predicted}}


class Listing:
    """Stands for llama.cpp's list of next tokens: these, likeliest first, after whichever tokens."""

    def __init__(self, *entries):
        self.entries = entries
        self.asked = []  # the ids before

    def __call__(self, before, matches):
        self.asked.append(list(before))
        return [entry for entry in self.entries if matches(entry)]


def read(events, listing, top=0, stop=()):
    """(text, tokens, reason) of an answer."""
    pieces = []
    request = GenerationRequest(prompt="x", top_logprobs=top, stop=list(stop))
    answer = Answer(request, PROMPT, pieces.append, lambda: False, listing)
    for event in events:
        if not answer.take(event):
            break
    reason = answer.finish()
    text = "".join(piece.text for piece in pieces)
    return text, [token for piece in pieces for token in piece.tokens], reason


def test_character_of_two_tokens_is_split_into_them():
    second = make_entry(38887, b"\x99\x82", -1.25)
    whole = make_entry(38887, "🙂".encode(), -1.25, top=[second, make_entry(242, b"\x98", -2.0)])
    listing = Listing(make_entry(198, b"\n", -0.5), make_entry(10813, b"\xf0\x9f", -3.75))
    text, tokens, reason = read([make_event("🙂", 2, whole), make_event("", 2, None, "stop")], listing, top=2)
    assert (text, reason) == ("🙂", "stop")
    assert tokens == [
        Token(b"\xf0\x9f", -3.75),
        Token(b"\x99\x82", -1.25, ((b"\x99\x82", -1.25), (b"\x98", -2.0))),
    ]
    assert listing.asked == [PROMPT]


def test_missing_tokens_are_found_one_after_another():
    last = make_entry(13, b"\x82", -1.0)
    whole = make_entry(13, "🙂".encode(), -1.0, top=[last])
    parts = [make_entry(number, bytes([byte]), -2.0) for number, byte in ((10, 0xF0), (11, 0x9F), (12, 0x99))]
    text, tokens, _ = read([make_event("🙂", 4, whole)], listing := Listing(*parts))
    assert text == "🙂"
    assert b"".join(token.data for token in tokens) == "🙂".encode()
    assert [len(token.data) for token in tokens] == [1, 1, 1, 1]
    assert listing.asked == [PROMPT, [*PROMPT, 10], [*PROMPT, 10, 11]]


def test_token_that_is_not_among_the_listed_ones_is_looked_up():
    whole = make_entry(13, "é".encode(), -9.0, top=[make_entry(5, b"x", -0.5)])
    listing = Listing(make_entry(10, b"\xc3", -2.0), make_entry(13, b"\xa9", -9.0))
    _, tokens, _ = read([make_event("é", 2, whole)], listing)
    assert tokens == [Token(b"\xc3", -2.0), Token(b"\xa9", -9.0)]


def test_special_token_without_bytes_is_left_out():
    events = [
        make_event("a", 1, make_entry(7, b"a", -1.0, [])),
        make_event("", 2, make_entry(0, b"", -3.0, [])),
    ]
    assert read(events, Listing()) == ("a", [Token(b"a", -1.0)], "length")


def test_answer_ends_at_a_stop_string():
    events = [make_event(text, place) for place, text in enumerate(("one ", "#", "# two", "three"), 1)]
    assert read(events, Listing(), stop=["##"]) == ("one ", [], "stop")


@pytest.mark.parametrize(
    ("own", "following", "expected"),
    [
        (b"abc", 0, True),
        (b"ab", 0, False),
        (b"a", 2, True),
        (b"ab", 2, False),  # one byte is left for two tokens
        (b"ab", 1, True),
        (b"b", 1, False),
        (b"", 1, False),
        (b"a", 5, True),  # special tokens among those that follow have no bytes
    ],
)
def test_first_token_of_some_bytes_leaves_enough_for_the_others(own, following, expected):
    assert can_begin(b"abc", following, make_entry(1, own, -1.0)) is expected
