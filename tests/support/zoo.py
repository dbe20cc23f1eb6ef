"""Tiny random models of many kinds, each with its own tokenizer and chat template, in a second.

Four have the real tokenizer of a well-known model (support.real_tokenizers). The others have a token for
each byte and the chat template of a family: one that TRL installs, or one of the kit's. They show that code
runs and which tokens it uses, never how good an answer is.
"""

import re
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
import trl
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GlmConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)

from helpers.loading.chat_templates import NAMES, TEMPLATES
from support.real_tokenizers import find_tokenizer
from support.tiny import make_byte_tokenizer

TRL_TEMPLATES = Path(trl.__file__).with_name("chat_templates")
# What a template writes as one token: <|im_end|>, <end_of_turn>, [INST] ...
CONTROL = re.compile(r"<[|｜]?[A-Za-z_▁][\w▁ ]*[|｜]?>|\[/?[A-Z]+\]")

REAL: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama2": LlamaConfig,
    "llama3_1": LlamaConfig,
    "qwen3": Qwen3Config,
    "gemma3": Gemma3TextConfig,
}
MADE: dict[str, Callable[..., PreTrainedConfig]] = {
    "qwen2_5": Qwen2Config,
    "llama3": LlamaConfig,
    "gemma": Gemma2Config,
    "phi3": Phi3Config,
    "cohere": partial(CohereConfig, logit_scale=1.0),
    "glm4moe": GlmConfig,
    "deepseekv3": LlamaConfig,
    "gptoss": MistralConfig,
    "llama-2": LlamaConfig,
    "alpaca": LlamaConfig,
    "vicuna": LlamaConfig,
    "chatml": LlamaConfig,
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}


def read_source(name: str) -> str:
    """A family's chat template: the kit's, or TRL's."""
    folder = TEMPLATES if name in NAMES else TRL_TEMPLATES
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def list_trl_templates() -> list[str]:
    """TRL's templates for texts. Those for training are the same with marks."""
    names = sorted(path.stem for path in TRL_TEMPLATES.glob("*.jinja"))
    return [name for name in names if not re.search("_training|_vl|llava|idefics|diffusion", name)]


@cache
def make_family_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A byte tokenizer with a family's chat template and the control tokens that are in it."""
    tokenizer = make_byte_tokenizer()
    source = read_source(name)
    tokens = dict.fromkeys(["<bos>", "<eos>", *CONTROL.findall(source)])
    special = [
        AddedToken(text, special=True, normalized=False) for text in tokens if not re.match("</?think", text)
    ]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.add_tokens([text for text in tokens if re.match("</?think", text)])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<bos>", "<eos>", "<eos>"
    tokenizer.chat_template = source
    return tokenizer


def make_zoo_model(name: str, folder: Path, **changes: object) -> Path:
    """Writes a complete model folder of the kind `name` (REAL or MADE); returns it."""
    folder.mkdir(parents=True)
    if name in REAL:
        files = find_tokenizer(name)
        assert files is not None
        shutil.copytree(files, folder, dirs_exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = make_family_tokenizer(name)
        tokenizer.save_pretrained(folder)
    kind = {**REAL, **MADE}[name]
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id or tokenizer.eos_token_id,
    }
    # The vocabularies of real tokenizers are large.
    narrow = {"hidden_size": 16, "num_attention_heads": 2} if name in REAL else {}
    config = kind(vocab_size=len(tokenizer), **{**SIZES, **narrow, **ids, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder
