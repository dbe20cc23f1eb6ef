from dataclasses import fields

import pytest
from support.scripted_engine import ScriptedEngine

from helpers.common.errors import UsageError
from helpers.generation.llama_engine import LlamaEngine, build_body
from helpers.generation.prompts import PromptTooLong
from helpers.generation.request import (
    OPTIONAL_FIELDS,
    Generation,
    GenerationRequest,
    Piece,
    Token,
    join_pieces,
)
from helpers.generation.sampling import HONOURED
from helpers.generation.upstream_kinds import KINDS, UNKNOWN

HONOURED_BY_ALL = {
    "messages",
    "prompt",
    "prompt_ids",
    "add_special_tokens",
    "keep_last",
    "continue_last",
    "tools",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "seed",
    "stop",
    "adapter",
    "top_logprobs",
    "echo",
    "cancelled",
}


def test_fields_that_every_engine_honours_are_not_optional():
    assert {one.name for one in fields(GenerationRequest)} - set(OPTIONAL_FIELDS) == HONOURED_BY_ALL


def test_optional_field_without_an_engine_is_known():
    assert set(OPTIONAL_FIELDS) - HONOURED - LlamaEngine.honoured == {"tfs", "top_a", "passed_on"}
    assert HONOURED | LlamaEngine.honoured <= set(OPTIONAL_FIELDS)


@pytest.mark.parametrize("kind", [*KINDS.values(), UNKNOWN], ids=lambda kind: kind.title)
def test_fields_that_an_upstream_takes_are_those_of_a_request(kind):
    assert kind.honoured <= {one.name for one in fields(GenerationRequest)}


def test_only_optional_fields_that_were_changed_are_reported():
    request = GenerationRequest(prompt="x", top_k=3, tfs=0.5, mirostat_tau=5.0, ban_eos=True)
    assert ScriptedEngine(honoured=["ban_eos"]).list_unsupported(request) == ["tfs"]


@pytest.mark.parametrize(("mode", "unsupported"), [(0, []), (2, []), (3, ["mirostat_mode"])])
def test_value_that_means_nothing_is_reported_by_an_engine_that_honours_the_field(mode, unsupported):
    request = GenerationRequest(prompt="x", mirostat_mode=mode)
    assert ScriptedEngine().list_unsupported(request) == unsupported
    assert build_body(request, [1], 9)["mirostat"] == (mode if not unsupported else 0)


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
