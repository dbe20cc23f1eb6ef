"""A complete model folder, made on the spot: a random Llama of 2 layers with a tokenizer of single bytes.

Hundreds of tests need one, so its files and those of a LoRA are computed once per process, then only written.
"""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS = 256  # <|im_start|>; ids 0-255 are bytes
EOS = 257  # <|im_end|>, which is also the pad token, as in the embedded model

# ChatML
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_byte_tokenizer(begin: str = "<|im_start|>", end: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each byte and two special tokens, BOS and EOS: those of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(begin, special=True), AddedToken(end, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make_tiny_model(
    folder: Path, seed: int = 0, hidden: int = 32, tied: bool = True, biases: bool = False
) -> Path:
    """Writes a model folder that helpers.loading can load, and returns it.

    float32, 260 tokens, `hidden` wide, 2 layers, 4 heads, 2 KV heads, context 2048. `tied`: embed_tokens and
    lm_head are one matrix. `biases`: the attention has some.
    """
    return write_files(folder, compute_model(seed, hidden, tied, biases))


def make_tiny_adapter(folder: Path, model_folder: Path, seed: int = 1) -> Path:
    """Writes a random LoRA for the model in `model_folder`, and returns its folder.

    Rank 4, on every linear layer, with weights far from zero.
    """
    write_files(folder, compute_adapter(seed, (model_folder / "config.json").read_text()))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(model_folder)  # as PEFT does
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    return folder


@cache
def compute_model(seed: int, hidden: int, tied: bool, biases: bool) -> dict[str, bytes]:
    """The files of a model folder, by name."""
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,  # ten times the usual: otherwise the next byte hardly depends on the text
        tie_word_embeddings=tied,
        attention_bias=biases,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        make_byte_tokenizer().save_pretrained(folder)
        return read_files(Path(folder))


@cache
def compute_adapter(seed: int, base: str) -> dict[str, bytes]:
    """The files of a LoRA, by name; `base` is the text of its model's config.json."""
    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(LlamaConfig.from_dict(json.loads(base)))
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    with TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        return read_files(Path(folder))


def read_files(folder: Path) -> dict[str, bytes]:
    """The content of each file of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder, which is made if it is missing, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
