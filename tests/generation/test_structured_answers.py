"""Both engines: an answer has the form that was asked for, and is whole."""

import contextlib
import json
import random
import re

import jsonschema
import pytest
from support.schemas import make_schema

from helpers.generation.request import GenerationRequest
from helpers.generation.structure import ANY_OBJECT, Structure, StructureRefused


def ask(engine, structure, **settings):
    """The answer to a prompt."""
    request = {"prompt": "Hello", "max_new_tokens": 60, "structure": structure, **settings}
    return engine.generate(GenerationRequest(**request))


def ask_all(engine, structures, tokens):
    """The answers to several requests at once, in their order: text and why it ended."""
    pieces = [[] for _ in structures]
    jobs = [
        engine.start(
            GenerationRequest(
                prompt="Hello", max_new_tokens=tokens, structure=structure, temperature=1.0, seed=seed
            ),
            pieces[seed].append,
        )
        for seed, structure in enumerate(structures)
    ]
    for job, found in zip(jobs, pieces, strict=True):
        reason = job.result(300).finish_reason
        yield "".join(piece.text for piece in found), reason


def check_schemas(engine, schemas, tokens):
    """Each answer is whole and valid by its schema."""
    structures = [Structure("json_schema", json.dumps(schema)) for schema in schemas]
    answers = ask_all(engine, structures, tokens)
    for schema, (text, reason) in zip(schemas, answers, strict=True):
        assert reason == "stop", text
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


def test_answers_of_any_schema_are_whole_and_valid(engine):
    check_schemas(engine, [make_schema(random.Random(seed)) for seed in range(30)], 300)


def test_any_object_is_one(engine):
    assert isinstance(json.loads(ask(engine, ANY_OBJECT, temperature=1.0, seed=3).text), dict)


@pytest.mark.parametrize(
    ("structure", "pattern"),
    [
        (Structure("regex", r"\d{3}-[a-z]+"), r"\d{3}-[a-z]+"),
        (Structure("choice", '["good", "bad", "größer"]'), "good|bad|größer"),
        (Structure("grammar", 'root ::= "a" item{2,3}\nitem ::= [0-9]+ ","'), r"a([0-9]+,){2,3}"),
    ],
)
def test_answer_matches(engine, structure, pattern):
    answer = ask(engine, structure, temperature=1.0, seed=1)
    assert re.fullmatch(pattern, answer.text, re.ASCII)


def test_answer_that_is_whole_but_might_go_on_when_its_tokens_end_says_so(engine):
    answer = ask(engine, Structure("regex", "(a|b){2,}"), max_new_tokens=7)
    assert len(answer.text) <= 7
    assert answer.finish_reason == ("length" if answer.completion_tokens == len(answer.text) else "stop")


def test_form_holds_beside_other_answers_with_penalties_and_for_each_lora(engine):
    form = Structure("regex", "[a-z]{6}")
    (letter,) = engine.tokenize("a", False)
    settings = {"frequency_penalty": 2.0, "logit_bias": {letter: -100.0}, "ban_eos": True}
    for adapter in (None, *engine.adapters):
        assert re.fullmatch("[b-z]{6}", ask(engine, form, adapter=adapter, **settings).text)


def test_stop_text_ends_a_form_early(engine):
    assert ask(engine, Structure("choice", '["a##END##"]'), stop=["##END"]).text == "a"


def test_seed_gives_the_same_answer_again(engine):
    form = Structure("regex", "[a-z]{20}")
    first, second, other = (ask(engine, form, temperature=1.0, seed=seed).text for seed in (7, 7, 8))
    assert first == second != other


def test_form_that_cannot_be_is_refused_before_the_answer_begins(engine):
    with pytest.raises(StructureRefused):
        engine.start(GenerationRequest(prompt="Hello", structure=Structure("regex", "(")), print)


# The grammars that ended llama.cpp or took it minutes, when it read them itself.
NESTED = f"root ::= {'(' * 40_000}[a]{')' * 40_000}"
WIDE = "root ::= " + " | ".join(f'"{number}"' for number in range(60_000))
DOUBLED = "\n".join(
    ["root ::= r0", *(f"r{n} ::= r{n + 1} r{n + 1} | r{n + 1}" for n in range(30)), 'r30 ::= "a"']
)
ENDLESS = "\n".join(
    ["root ::= r0", "n ::= [ ]{0,60}", *(f"r{n} ::= r{n + 1} n" for n in range(20)), 'r20 ::= "x"']
)


@pytest.mark.parametrize("grammar", [NESTED, WIDE, DOUBLED, ENDLESS, "root ::= root"])
def test_form_that_is_too_much_holds_up_nobody(engine, grammar):
    pieces = engine.stream(GenerationRequest(prompt="Hello", max_new_tokens=200, ban_eos=True))
    next(pieces)
    with contextlib.suppress(StructureRefused):  # or it is followed: on single bytes the last but one can be
        ask(engine, Structure("grammar", grammar))
    *_, whole = pieces
    assert whole.completion_tokens == 200
    assert ask(engine, None).text


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-GGUF"])
def test_200_schemas_on_the_embedded_model(name):
    from helpers.server.service import ModelChoice, Service

    service = Service()
    engine = service.load(ModelChoice(name))
    try:
        for start in range(0, 200, 50):
            schemas = [make_schema(random.Random(seed)) for seed in range(start, start + 50)]
            check_schemas(engine, schemas, 200)
    finally:
        service.unload()
