"""GGUF files in float32, with which llama.cpp computes the same as transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFReader, GGUFValueType, GGUFWriter, TokenType, get_tensor_name_map
from gguf.quants import dequantize
from safetensors.numpy import load_file

from helpers.adapters.gguf import order_rows
from support.tiny import CHAT_TEMPLATE

BYTES, BOS, EOS = 256, 256, 257  # token ids of support.tiny: a token for each byte, then the special ones
ZERO_BYTE = "\u0100"  # byte 0 as a byte-level vocabulary writes it


def make_tiny_gguf(folder: Path, model_folder: Path, architecture: str = "llama") -> Path:
    """Writes `folder`/tiny.gguf from a folder of make_tiny_model; returns the folder."""
    config = json.loads((model_folder / "config.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(folder / "tiny.gguf", architecture)
    add_sizes(writer, config)
    add_vocabulary(writer, model_folder, config["vocab_size"])
    add_weights(writer, model_folder, config)
    finish(writer)
    return folder


def add_sizes(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """The settings of the model."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def add_vocabulary(writer: GGUFWriter, model_folder: Path, size: int) -> None:
    """The byte tokenizer. Ids that it does not have get a name like <258>."""
    spec = json.loads((model_folder / "tokenizer.json").read_text())
    names = {number: name for name, number in spec["model"]["vocab"].items()}
    names |= {entry["id"]: entry["content"] for entry in spec["added_tokens"]}
    kinds = [TokenType.NORMAL if number < BYTES else TokenType.CONTROL for number in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(number, f"<{number}>") for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{ZERO_BYTE} {ZERO_BYTE}"])  # llama.cpp requires a merge; no text has this one
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_weights(writer: GGUFWriter, model_folder: Path, config: dict[str, Any]) -> None:
    """The tensors, under llama.cpp's names and with the rows of queries and keys in its order."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(model_folder / "model.safetensors").items():
        for module, count in heads.items():
            if module in name:
                tensor = order_rows(tensor, count)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(tensor))


def write_float_gguf(source: Path, folder: Path) -> Path:
    """Writes `folder`/float.gguf, the model in the file `source` in float32; returns the folder.

    llama.cpp rounds what it multiplies quantised weights with; with these it computes as transformers.
    """
    reader = GGUFReader(source)
    folder.mkdir(parents=True, exist_ok=True)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(folder / "float.gguf", architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue  # the writer sets them itself
        kind = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    finish(writer)
    return folder


def finish(writer: GGUFWriter) -> None:
    """Writes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
