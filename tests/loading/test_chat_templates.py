"""Which chat template a model folder is used with, and why."""

import json

import pytest
from support.tiny import CHAT_TEMPLATE, make_byte_tokenizer, make_tiny_model
from transformers import AutoTokenizer

from helpers import loading
from helpers.common.errors import DamagedError, NotFoundError, UnsupportedError
from helpers.loading.chat_templates import recognise_family
from helpers.loading.tokenizer import load_both
from helpers.weights.folders import find_model

LLAMA_TOKENS = ["<unk>", "<s>", "</s>"]
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def make_folder(home):
    """A function that makes models/NAME with another chat template, or with None."""

    def make(name, template=None):
        folder = make_tiny_model(home / "models" / name)
        tokenizer = make_byte_tokenizer("<bos>", "<eos>")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        if template is None:
            (folder / "chat_template.jinja").unlink()
        return find_model(name)

    return make


@pytest.mark.parametrize(
    ("model", "tokens", "vocabulary", "family"),
    [
        ("TheBloke_Llama-2-7B-Chat-GPTQ", LLAMA_TOKENS, 32000, "llama-2"),
        ("llama2-13b", LLAMA_TOKENS, 32001, "llama-2"),
        ("Llama-2-lookalike", LLAMA_TOKENS, 50000, None),
        ("Llama-2-without-its-tokens", [], 32000, None),
        ("TheBloke_vicuna-13B-v1.5-GPTQ", LLAMA_TOKENS, 32000, "vicuna"),
        ("chavinlo_Alpaca-native", LLAMA_TOKENS, 32000, "alpaca"),
        ("TheBloke_OpenHermes-2.5", [*LLAMA_TOKENS, "<|im_start|>", "<|im_end|>"], 32002, "chatml"),
        ("gpt2", ["<|endoftext|>"], 50257, None),
    ],
)
def test_family_is_recognised_by_name_and_tokens(model, tokens, vocabulary, family):
    found, reason = recognise_family(model, tokens, vocabulary)
    assert found == family
    assert bool(reason) == bool(family)


def test_template_of_the_tokenizer_is_taken_first(make_folder):
    tokenizer, picked = load_both(make_folder("vicuna-7b", CHAT_TEMPLATE))
    assert (picked.name, tokenizer.chat_template) == ("own", CHAT_TEMPLATE)
    assert "came with the tokenizer" in picked.reason


def test_tokenizer_without_a_template_gets_its_family_s(make_folder):
    tokenizer, picked = load_both(make_folder("a-vicuna-7b"))
    assert picked.name == "vicuna" and "vicuna" in picked.reason
    assert loading.render_chat(tokenizer, TALK) == "Be brief. USER: Hi ASSISTANT: "


def test_template_that_is_asked_for_wins(make_folder, tmp_path):
    folder = make_folder("vicuna-7b", CHAT_TEMPLATE)
    assert load_both(folder, "alpaca")[1].name == "alpaca"
    assert load_both(folder, "own")[1].name == "own"
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    tokenizer, picked = load_both(folder, str(mine))
    assert picked.name == str(mine)
    assert loading.render_chat(tokenizer, TALK) == "<system>Be brief.<user>Hi<assistant>"


@pytest.mark.parametrize("asked", ["llama-3", "no/such.jinja", "own"])
def test_template_that_is_not_there_is_refused_with_those_that_are(make_folder, asked):
    with pytest.raises(NotFoundError, match="llama-2|existing") as refused:
        load_both(make_folder("tiny"), asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{% for m in messages %}", b"{{ 1 / 0 }}"])
def test_file_without_a_usable_template_is_refused(make_folder, tmp_path, content):
    file = tmp_path / "broken.jinja"
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"broken\.jinja") as refused:
        load_both(make_folder("tiny"), str(file))
    assert "\n" not in str(refused.value)


def test_unknown_family_without_a_template_can_generate_and_is_refused_for_training(make_folder):
    make_folder("gpt2")
    assert loading.load_model("gpt2").chat_template is None
    for purpose in ("training", "judging"):
        with pytest.raises(NotFoundError, match="--chat-template"):
            loading.load_model("gpt2", purpose=purpose)


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DROPS_SYSTEM = CHAT_TEMPLATE.replace(
    "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
)


@pytest.mark.parametrize("template", [NO_SYSTEM + CHAT_TEMPLATE, DROPS_SYSTEM], ids=["refuses", "drops"])
def test_without_a_system_role_the_instruction_goes_before_the_first_user_message(make_folder, template):
    tokenizer, picked = load_both(make_folder("gemma-like", template))
    both = [{"role": "user", "content": "Be brief.\n\nHi"}]
    assert loading.render_chat(tokenizer, TALK) == loading.render_chat(tokenizer, both)
    assert "no system role" in picked.reason
    begun = [TALK[0], {"role": "assistant", "content": "Hello"}, TALK[1]]
    assert loading.render_chat(tokenizer, begun).startswith("<|im_start|>user\nBe brief.<|im_end|>")


def test_kit_s_templates_begin_with_bos_if_the_tokenizer_adds_it(make_folder):
    from tokenizers.processors import TemplateProcessing

    folder = make_folder("adds-bos", None)
    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 256)]
    )
    tokenizer.save_pretrained(folder.path)
    tokenizer, _ = load_both(folder, "alpaca")
    assert loading.render_chat(tokenizer, TALK).startswith("<bos>Be brief.")


def test_unreadable_tokenizer_is_one_line_before_the_weights_are_loaded(make_folder):
    folder = make_folder("tiny", CHAT_TEMPLATE)
    (folder.path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Unheard"}}')
    with pytest.raises(DamagedError, match="tokenizer of tiny cannot be read") as refused:
        loading.load_model("tiny")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["alpaca", "vicuna", "llama-2"])
def test_kit_s_template_on_a_tokenizer_without_eos_names_what_is_missing(make_folder, name):
    folder = make_folder("tiny")
    config = json.loads((folder.path / "tokenizer_config.json").read_text())
    del config["eos_token"], config["pad_token"]
    (folder.path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="eos_token"):
        loading.load_model("tiny", purpose="training", chat_template=name)
