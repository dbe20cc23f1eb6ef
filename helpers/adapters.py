"""LoRA adapters: list, attach them to a loaded model, and tell whether they change anything."""

from pathlib import Path

import torch
from peft import PeftModel

from helpers import CommandParser, run_command
from helpers.loading import LoadedModel, tokenize_chat
from helpers.lora_folders import check_base, find_adapter, list_adapters, loras_folder, read_config
from helpers.quantizing import import_gptqmodel

import_gptqmodel()  # here, once and quietly: PEFT imports it anyway when it builds a LoRA layer


def attach_adapter(loaded: LoadedModel, name: str, base: Path | None = None) -> LoadedModel:
    """Puts the LoRA loras/NAME onto the loaded model under its own name and makes it the active one; returns `loaded`.

    More than one can be attached; PEFT switches between them. A and B take the base's dtype: casts around every layer would cost more than
    the LoRA itself. KitError when its recorded base model is another one.
    """
    folder = find_adapter(name, base)
    check_base(folder, loaded.name)
    if isinstance(loaded.model, PeftModel):
        loaded.model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)
        loaded.model.set_adapter(name)
    else:
        loaded.model = PeftModel.from_pretrained(loaded.model, folder, adapter_name=name, autocast_adapter_dtype=False)
    loaded.model.eval()
    return loaded


def compute_logits(loaded: LoadedModel, messages: list[dict[str, str]]) -> torch.Tensor:
    """Logits of the reply's first token after the messages: float32, (vocabulary,)."""
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    with torch.inference_mode():
        return loaded.model(**inputs, logits_to_keep=1).logits[0, -1].float()


def measure_change(loaded: LoadedModel, messages: list[dict[str, str]]) -> float:
    """How far the active adapter moves the first token's distribution: KL(adapter || base) in nats; 0 for an adapter that does nothing."""
    adapted = compute_logits(loaded, messages).log_softmax(-1)
    with loaded.model.disable_adapter():
        base = compute_logits(loaded, messages).log_softmax(-1)
    return float((adapted.exp() * (adapted - base)).sum())


def take_fingerprint(loaded: LoadedModel, messages: list[dict[str, str]], count: int = 5) -> dict:
    """What a model answers a prompt with, to compare later: {"messages", "top": {token id: logit}} of the reply's likeliest first tokens."""
    top = compute_logits(loaded, messages).topk(count)
    return {"messages": messages, "top": {str(int(i)): round(float(v), 4) for i, v in zip(top.indices, top.values, strict=True)}}


def compare_fingerprint(loaded: LoadedModel, fingerprint: dict) -> float:
    """Largest difference, in logits, between a saved fingerprint and what the loaded model says to the same prompt now."""
    logits = compute_logits(loaded, fingerprint["messages"])
    return max(abs(float(logits[int(token)]) - value) for token, value in fingerprint["top"].items())


def main(arguments: list[str]) -> None:
    """`python -m helpers.adapters list`."""
    parser = CommandParser(prog="python -m helpers.adapters", description="The LoRAs in loras/.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name, base model, rank and size of each")
    parser.parse_args(arguments)
    for name in list_adapters():
        config, size = read_config(loras_folder() / name), sum(p.stat().st_size for p in (loras_folder() / name).glob("*.safetensors"))
        print(f"{name:30} base {Path(config['base_model_name_or_path'] or '?').name:30} rank {config['r']:4} {size / 1e6:7.1f} MB")
    if not list_adapters():
        print(f"No LoRA in {loras_folder()} yet: train one with notebook 04 or python -m helpers.training.")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
