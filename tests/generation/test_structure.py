"""Answers that have the form that was asked for, whatever the model would rather say."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from llguidance.hf import from_tokenizer
from support.schemas import make_schema
from support.tiny import make_byte_tokenizer

from helpers.generation import forms
from helpers.generation.forms import Form, TextForm, walk_out
from helpers.generation.structure import ANY_OBJECT, Structure, StructureRefused, translate


@pytest.fixture(scope="module")
def tokenizer():
    """llguidance's copy of a tokenizer of single bytes: the longest way out that there is."""
    plain = make_byte_tokenizer()
    return from_tokenizer(plain, n_vocab=len(plain), eos_token=[plain.eos_token_id])


def babble(structure, tokenizer, most, seed=0):
    """The answer of a model to which all tokens are the same; None if it is cut off."""
    form, chance, tokens = Form(structure, tokenizer, most), random.Random(seed), []
    while len(tokens) < most:
        chosen = int(chance.choice(np.nonzero(form.allow())[0]))
        tokens.append(form.settle(chosen))
        if tokens[-1] == tokenizer.eos_token:
            return tokenizer.decode_bytes(tokens[:-1]).decode()
    return None


@pytest.mark.parametrize("seed", range(40))
def test_answer_of_any_schema_is_whole_and_valid(tokenizer, seed):
    schema = make_schema(random.Random(seed))
    text = babble(Structure("json_schema", json.dumps(schema)), tokenizer, 300, seed)
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


def test_any_object_is_one(tokenizer):
    assert isinstance(json.loads(babble(ANY_OBJECT, tokenizer, 60)), dict)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{3}-[a-z]+",
        r"a/b\/c+",
        "a\nb*",
        r"(good|bad) [\w]+",
        "é{2,}",
        r"[A-Z][a-z]+ \d{2}",
        r"[a-z]+@[a-z]+\.(com|org)",
        r'"x"',
    ],
)
def test_answer_matches_a_regular_expression(tokenizer, pattern):
    assert re.fullmatch(pattern, babble(Structure("regex", pattern), tokenizer, 40), re.ASCII)


def test_answer_is_one_of_the_choices(tokenizer):
    choices = ["good", "bad", 'a "quoted" one', "größer"]
    answers = {babble(Structure("choice", json.dumps(choices)), tokenizer, 40, seed) for seed in range(30)}
    assert answers == set(choices)


def test_answer_follows_a_grammar(tokenizer):
    grammar = 'root ::= "a" item{2,3} "\\u00e4"\nitem ::= [0-9]+ ","  # a list'
    assert re.fullmatch(r"a([0-9]+,){2,3}ä", babble(Structure("grammar", grammar), tokenizer, 60))


def test_form_that_does_not_fit_into_the_tokens_is_cut_off(tokenizer):
    schema = {"type": "string", "minLength": 50}
    assert babble(Structure("json_schema", json.dumps(schema)), tokenizer, 20) is None


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", "{"), ("json_schema", "[]"), ("json_schema", '{"type": "objct"}'),
        ("json_schema", '{"items": ' * 5000 + "{}" + "}" * 5000),
        ("json_schema", f'{{"const": "{"x" * 70_000}"}}'), ("regex", "(a"), ("regex", "(?=a)"),
        ("grammar", ""), ("grammar", "root ::= root"), ("grammar", "root ::= foo"),
        ("grammar", "root ::= " + "[" * 16_000),
        ("grammar", f"root ::= {'(' * 30_000}{')' * 30_000}"),
    ],
)  # fmt: skip
def test_form_that_cannot_be_is_refused_in_one_line(kind, source):
    with pytest.raises(StructureRefused) as caught:
        translate(Structure(kind, source))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def count_bytes(text):
    """As many tokens as a model needs at most."""
    return len(text.encode())


def test_room_for_the_way_out_is_counted_in_the_tokens_of_the_model():
    schema = {"type": "object", "properties": {"a name that is long": {"type": "string"}}}
    structure = Structure("json_schema", json.dumps({**schema, "required": list(schema["properties"])}))
    tight, roomy = (TextForm(structure, 20, count) for count in (count_bytes, lambda text: len(text) // 4))
    assert tight.settle("{", 1) == "{" and tight.way_out is None  # 25 bytes to its end
    assert roomy.settle("{", 1) == "{" and roomy.way_out is not None
    begun = '"a name that is long": "and'
    assert roomy.settle(begun, 7) == begun
    assert roomy.settle(" so on and on", 18) == " so on and on"
    assert roomy.settle(" and on", 20) == '"}' and roomy.ended


def test_text_of_another_program_is_followed_and_ended():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = TextForm(Structure("json_schema", json.dumps(schema)), 20, count_bytes)
    assert form.settle('{"a": "größ', 8) == '{"a": "größ'
    assert not form.ended
    assert form.settle("er und größer", 18) == '"}'
    assert form.ended


LONG = '{"a": "hello", "b": "and so on'
OPEN = Structure("json_schema", '{"type": "object", "additionalProperties": {"type": "string"}}')


@pytest.mark.parametrize("most", [60, 500, 520, 5000])
def test_answer_with_room_is_not_led_out(tokenizer, most):
    form, text_form = Form(OPEN, tokenizer, most), TextForm(OPEN, most, count_bytes)
    tokens = tokenizer.tokenize_str(LONG)
    assert [form.settle(token) for token in tokens] == tokens
    assert text_form.settle(LONG, len(tokens)) == LONG and not text_form.ended


def test_part_that_takes_long_to_close_is_begun_while_there_is_room():
    wide = {"type": "object", "properties": {f"k{n}": {"type": "null"} for n in range(60)}}
    wide["required"] = list(wide["properties"])
    structure = Structure("json_schema", json.dumps({"type": "object", "properties": {"wide": wide}}))
    begun = '{"wide": {"k0": null'
    assert TextForm(structure, 5000, count_bytes).settle(begun, 20) == begun  # 700 bytes to its end
    assert TextForm(structure, 500, count_bytes).settle(begun, 20) == "{}"


def test_text_that_the_form_does_not_allow_is_refused():
    with pytest.raises(StructureRefused):
        TextForm(ANY_OBJECT, 20, count_bytes).settle("Here is", 1)


def chain(count):
    """A grammar of so many rules, each of which is the next one."""
    rules = [f"r{number}: r{number + 1}" for number in range(count)]
    return "\n".join(["start: r0", *rules, f'r{count}: "a"'])


def nest(count):
    """A schema whose definitions refer to each other in a chain."""
    parts = {f"a{number}": {"items": {"$ref": f"#/$defs/a{number + 1}"}} for number in range(count)}
    return json.dumps({"$defs": {**parts, f"a{count}": {}}, "$ref": "#/$defs/a0"})


PATTERNS = [{"type": "string", "pattern": f".*a{number}.*"} for number in range(40)]


@pytest.mark.parametrize(
    "structure",
    [
        Structure("grammar", chain(4000)),  # these two overflow the stack
        Structure("json_schema", nest(1200)),
        Structure(
            "json_schema", json.dumps({"allOf": PATTERNS})
        ),  # this one takes exponential time and memory
        Structure("grammar", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
    ],
    ids=["chain of rules", "chain of definitions", "patterns", "brackets of GBNF"],
)
def test_form_that_would_end_or_hold_up_the_process_is_refused(structure):
    with pytest.raises(StructureRefused, match="too much time, memory or depth"):
        translate(structure)
    translate(Structure("regex", "a+"))  # the next one is read as before


def test_deep_chain_of_rules_is_read():
    translate(Structure("grammar", chain(300)))


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure("json_schema", '{"type": "array", "minItems": 100000000}'), "minItems is more than 10000"),
        (Structure("regex", "a{2,100000000}"), "repeats a part more than 10000 times"),
        (Structure("grammar", 'root ::= "a"{100000000}'), "repeats a part more than 10000 times"),
        (Structure("grammar", r'root ::= "\UFFFFFFFF"'), "is not a character"),
        (Structure("grammar", r'root ::= "\ud800"'), "is not a character"),
        (Structure("regex", "[z-a]"), "invalid character class range"),
        (Structure("regex", "(?=a)b"), "look-around"),
    ],
)
def test_refusal_says_why(structure, reason):
    with pytest.raises(StructureRefused, match=reason):
        translate(structure)


def test_limit_that_no_answer_reaches_changes_nothing(tokenizer):
    structure = Structure("json_schema", '{"type": "string", "maxLength": 1000000000}')
    assert isinstance(json.loads(babble(structure, tokenizer, 40)), str)


def test_any_character_may_be_in_a_choice(tokenizer):
    choice = 'a\x7f\x00"\\/\n'
    assert babble(Structure("choice", json.dumps([choice])), tokenizer, 40) == choice


def test_way_out_is_kept_from_token_to_token(tokenizer, monkeypatch):
    searches = []
    monkeypatch.setattr(
        forms, "walk_out", lambda *args, **more: searches.append(1) or walk_out(*args, **more)
    )
    pattern = "[acegikmoqsuwyACEGIKMOQSUWY02468]{400}"
    assert re.fullmatch(pattern, babble(Structure("regex", pattern), tokenizer, 500))
    assert len(searches) <= 2  # of 400 tokens
