"""The splitting of digits that the conversion of a GGUF tokenizer loses."""

import pytest
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from helpers import weights
from helpers.weights.embedded import GGUF_NAME, check_tokenizer
from helpers.weights.tokenizer_repair import needs_digit_splitting, split_digits


def make_tokenizer():
    """A tokenizer of bytes and three merges: two spaces, space and 2, 2 and 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "Ġ"), ("Ġ", "2"), ("2", "0")]
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_each_digit_becomes_a_word_before_the_other_rules_apply():
    tokenizer = make_tokenizer()
    assert tokenizer.tokenize("  20") == ["Ġ", "Ġ2", "0"]
    split_digits(tokenizer)
    assert tokenizer.tokenize("  20") == ["ĠĠ", "2", "0"]


def test_splitting_of_digits_is_saved(tmp_path):
    tokenizer = make_tokenizer()
    split_digits(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize("  20") == ["ĠĠ", "2", "0"]


@pytest.mark.parametrize(("rules", "needed"), [("smollm", True), ("gpt-2", False), (None, False)])
def test_rules_in_the_file_say_whether_digits_are_split(tmp_path, rules, needed):
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    if rules:
        writer.add_tokenizer_pre(rules)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert needs_digit_splitting(tmp_path / "a.gguf") == needed


@pytest.mark.real
def test_embedded_model_has_the_repaired_tokenizer(real_model_name):
    folder = weights.find_model(real_model_name).path
    assert needs_digit_splitting(folder.with_name(f"{folder.name}-GGUF") / GGUF_NAME)
    check_tokenizer(folder)
