"""A complete model folder made on the spot: a random Llama of 2 layers and a tokenizer of single bytes. Nothing is fetched."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte (ids 0-255), <|im_start|> (256, bos) and <|im_end|> (257, eos and pad, as the embedded model has it); ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(
        models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(
        [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make_tiny_model(folder: Path, seed: int = 0, hidden: int = 32) -> Path:
    """Writes a model folder (float32, 260 x `hidden` embeddings, 2 layers, 4 heads, context 2048) that helpers.loading.model loads; returns it.

    `initializer_range` is ten times the usual, so that the random model's next byte depends on what it has read.
    """
    tokenizer = make_byte_tokenizer()
    config = LlamaConfig(
        vocab_size=260, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2048, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_adapter(folder: Path, model_folder: Path, seed: int = 1) -> Path:
    """Writes a random LoRA (rank 4, every linear layer, far from zero) for a model of make_tiny_model; returns its folder."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(
            model,
            LoraConfig(
                r=4,
                lora_alpha=16,
                target_modules="all-linear",
                init_lora_weights=False,
                task_type="CAUSAL_LM",
            ),
        )
    adapted.save_pretrained(folder)
    return folder
