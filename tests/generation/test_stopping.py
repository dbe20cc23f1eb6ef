import pytest

from helpers.generation.request import Token
from helpers.generation.stopping import StopFilter, StopGate


@pytest.mark.parametrize("size", range(1, 12))
def test_stop_string_is_found_wherever_the_text_is_cut(size):
    text = "some text###END and more"
    stop = StopFilter(["###END"])
    passed = [stop.push(text[place : place + size]) for place in range(0, len(text), size)]
    assert "".join(passed) + stop.finish() == "some text"
    assert stop.stopped


def test_beginning_of_a_stop_string_is_held_back_until_it_is_decided():
    stop = StopFilter(["###END"])
    assert [stop.push("a ##"), stop.push("# b"), stop.push(" #"), stop.finish()] == ["a ", "### b", " ", "#"]


def test_first_of_several_stop_strings_ends_the_text():
    stop = StopFilter(["END", "", "STOP"])
    assert stop.push("one STOP two END") == "one "
    assert stop.push("three") + stop.finish() == ""


def test_tokens_wait_with_the_text_that_is_held_back():
    pieces = []
    gate = StopGate(["##"], pieces.append)
    a, hash_sign, b = (Token(data, -1.0) for data in (b"a", b"#", b"b"))
    for token in (a, hash_sign, b):
        gate.push(token.data.decode(), (token,))
    gate.finish()
    assert [(piece.text, piece.tokens) for piece in pieces] == [("a", (a,)), ("#b", (hash_sign, b))]


def test_token_of_a_stop_string_is_not_passed_on():
    pieces = []
    gate = StopGate(["##"], pieces.append)
    for text in ("a", "#", "#"):
        gate.push(text, (Token(text.encode(), -1.0),))
    gate.finish()
    assert gate.stopped
    assert [piece.text for piece in pieces] == ["a"]
    assert [token.data for piece in pieces for token in piece.tokens] == [b"a"]
