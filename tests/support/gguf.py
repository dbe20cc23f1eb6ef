"""A GGUF file of the tiny random Llama, float32, so that llama.cpp and transformers compute the same."""

import json
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, GGUFReader, GGUFValueType, GGUFWriter, TokenType, get_tensor_name_map
from gguf.quants import dequantize
from safetensors.numpy import load_file

from helpers.adapters.gguf import order_rows
from support.tiny import CHAT_TEMPLATE


def make_tiny_gguf(folder: Path, model_folder: Path, architecture: str = "llama") -> Path:
    """Writes `folder`/tiny.gguf from a folder of make_tiny_model; returns the folder."""
    config = json.loads((model_folder / "config.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(folder / "tiny.gguf", architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_vocabulary(writer, model_folder, config["vocab_size"])
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(model_folder / "model.safetensors").items():
        for module, heads in (
            ("q_proj", config["num_attention_heads"]),
            ("k_proj", config["num_key_value_heads"]),
        ):
            tensor = order_rows(tensor, heads) if module in name else tensor
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def add_vocabulary(writer: GGUFWriter, model_folder: Path, size: int) -> None:
    """The byte tokenizer; ids that it lacks get a name, and llama.cpp the merge that it insists on: of two zero bytes, which no text has."""
    spec = json.loads((model_folder / "tokenizer.json").read_text())
    special = {entry["content"]: entry["id"] for entry in spec["added_tokens"]}
    names = {number: name for name, number in {**spec["model"]["vocab"], **special}.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(number, f"<{number}>") for number in range(size)])
    writer.add_token_types(
        [TokenType.NORMAL if number < 256 else TokenType.CONTROL for number in range(size)]
    )
    writer.add_token_merges(["\u0100 \u0100"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_float_gguf(source: Path, folder: Path) -> Path:
    """Writes `folder`/float.gguf: the same model with its weights de-quantised to float32; returns the folder.

    llama.cpp multiplies quantised weights with rounded activations; with these it computes as transformers does.
    """
    reader = GGUFReader(source)
    folder.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(folder / "float.gguf", str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder
