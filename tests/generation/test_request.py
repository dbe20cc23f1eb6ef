from dataclasses import fields

import pytest
from support.scripted_engine import ScriptedEngine

from helpers.common.errors import UsageError
from helpers.generation.engine import PromptTooLong
from helpers.generation.llama_engine import LlamaEngine
from helpers.generation.request import (
    OPTIONAL_FIELDS,
    Generation,
    GenerationRequest,
    Piece,
    Token,
    join_pieces,
)
from helpers.generation.sampling import HONOURED

HONOURED_BY_ALL = {
    "messages",
    "prompt",
    "add_special_tokens",
    "keep_last",
    "continue_last",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "typical_p",
    "repetition_penalty",
    "seed",
    "stop",
    "adapter",
    "top_logprobs",
    "cancelled",
}


def test_fields_that_every_engine_honours_are_not_optional():
    assert {one.name for one in fields(GenerationRequest)} - set(OPTIONAL_FIELDS) == HONOURED_BY_ALL


def test_optional_field_without_an_engine_is_known():
    assert set(OPTIONAL_FIELDS) - HONOURED - LlamaEngine.honoured == {"tfs", "top_a"}
    assert HONOURED | LlamaEngine.honoured <= set(OPTIONAL_FIELDS)


def test_only_optional_fields_that_were_changed_are_reported():
    request = GenerationRequest(prompt="x", top_k=3, tfs=0.5, mirostat_tau=5.0, ban_eos=True)
    assert ScriptedEngine(honoured=["ban_eos"]).list_unsupported(request) == ["tfs"]


def test_pieces_are_joined_with_their_tokens():
    tokens = [Token(b"a", -1.0), Token(b"b", -2.0)]
    pieces = [Piece("", tuple(tokens[:1])), Piece("ab", tuple(tokens[1:])), Piece("c")]
    assert join_pieces(Generation("", 1, 2, "stop"), pieces) == Generation("abc", 1, 2, "stop", tokens)


@pytest.mark.parametrize(("adapters", "default"), [([], None), (["b", "a"], "b")])
def test_first_adapter_is_the_default(adapters, default):
    engine = ScriptedEngine()
    engine.adapters = adapters
    assert engine.default_adapter == default


@pytest.mark.parametrize(
    ("keep_last", "kept"), [(None, [1, 2, 3, 4]), (9, [1, 2, 3, 4]), (2, [3, 4]), (0, [4])]
)
def test_prompt_is_truncated_to_its_last_tokens(keep_last, kept):
    assert ScriptedEngine(context=5).truncate_prompt([1, 2, 3, 4], keep_last) == kept


def test_prompt_must_leave_room_for_an_answer():
    with pytest.raises(PromptTooLong) as refused:
        ScriptedEngine(context=4).truncate_prompt([1, 2, 3, 4], None)
    assert "4" in str(refused.value)
    with pytest.raises(UsageError):
        ScriptedEngine(context=4).truncate_prompt([], 2)
