"""A tokenizer in the form that transformers 4.34 and tokenizers 0.14 of October 2023 read.

| today | then |
|---|---|
| merges as pairs: ["a", "b"] | as texts: "a b" |
| the class TokenizersBackend | PreTrainedTokenizerFast, which does what tokenizer.json says |
| chat_template.jinja | chat_template in tokenizer_config.json |
| extra_special_tokens | additional_special_tokens |
| spaces are not cleaned up by default | they are, unless tokenizer_config.json forbids it |
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.common.errors import UnsupportedError
from helpers.common.files import explain_odd_form, read_json, read_text, write_json
from helpers.weights._private import TOKENIZER_LEFTOVERS
from helpers.weights.folders import FETCH_AGAIN, ModelFolder

# The parts of a tokenizer.json that tokenizers 0.14 knows, by their types.
PARTS_2023 = {
    "normalizer": {
        "BertNormalizer", "Strip", "StripAccents", "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase",
        "Nmt", "Precompiled", "Replace", "Prepend",
    },
    "pre_tokenizer": {
        "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Metaspace", "Whitespace", "Sequence", "Split",
        "Punctuation", "WhitespaceSplit", "Digits", "UnicodeScripts",
    },
    "post_processor": {"RobertaProcessing", "BertProcessing", "ByteLevel", "TemplateProcessing", "Sequence"},
    "decoder": {
        "BPEDecoder", "ByteLevel", "WordPiece", "Metaspace", "CTC", "Sequence", "Replace", "Fuse", "Strip",
        "ByteFallback",
    },
    "model": {"BPE", "WordPiece", "WordLevel", "Unigram"},
}  # fmt: skip
# Settings of today with the value that means what 0.14 always does.
NEUTRAL = {"ignore_merges": False}
CLASSES_2023 = {"LlamaTokenizer": "tokenizer.model", "GPT2Tokenizer": "merges.txt"}
OTHER_FILES = ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
TOKENIZER_FILES = (*OTHER_FILES, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_tokenizer(folder: ModelFolder, target: Path) -> None:
    """Writes the folder's tokenizer into `target`. Raises UnsupportedError for what 0.14 does not know."""
    for path in (folder.path / name for name in OTHER_FILES):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    if (folder.path / "tokenizer.json").is_file():
        content = read_json(folder.path / "tokenizer.json", FETCH_AGAIN)
        with explain_odd_form(folder.path / "tokenizer.json", FETCH_AGAIN):
            converted = convert_tokenizer(folder.name, content)
        write_json(target / "tokenizer.json", converted)
    with explain_odd_form(folder.path / "tokenizer_config.json", FETCH_AGAIN):
        settings = convert_settings(folder)
    write_json(target / "tokenizer_config.json", settings)


def convert_tokenizer(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json of the model `name`, as tokenizers 0.14 reads it."""
    for key, known in PARTS_2023.items():
        for part in list_parts(content.get(key)):
            if part["type"] not in known:
                refuse(name, f"a {key} of the type {part['type']}")
    converted = replace_whole_text_metaspace(content)
    converted["model"] = convert_model(name, content["model"])
    for key in ("pre_tokenizer", "decoder"):
        converted[key] = convert_metaspaces(name, converted.get(key))
    return converted


def list_parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer.json, and the parts in it if it is a sequence."""
    if part:
        yield part
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            for inner in part.get(key, ()):
                yield from list_parts(inner)


def convert_model(name: str, model: dict[str, Any]) -> dict[str, Any]:
    """The model with merges as texts and without settings that came later."""
    converted = dict(model)
    for key, neutral in NEUTRAL.items():
        if converted.pop(key, neutral) != neutral:
            refuse(name, key)
    merges = model.get("merges")
    if merges is not None:
        if any(" " in half for pair in merges if not isinstance(pair, str) for half in pair):
            refuse(name, "tokens with a space in them")
        converted["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    return converted


def replace_whole_text_metaspace(content: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer with normalizers that do what a Metaspace does that does not split, as Llama's today.

    0.14 has only the one that splits at every space. Both write ▁ for a space, and one before the text
    unless it begins with one. Text after a special token gets one as well, as with every Llama tokenizer of
    2023, also where today's scheme "first" gives it none.
    """
    part = content.get("pre_tokenizer") or {}
    if part.get("type") != "Metaspace" or part.get("split", True):
        return dict(content)
    mark = part["replacement"]
    steps = [content["normalizer"]] if content.get("normalizer") else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": mark})
    if part.get("prepend_scheme", "always") != "never":
        start = {"Regex": rf"\A(?!{mark})(?=[\s\S])"}  # the empty place before the first character
        steps.append({"type": "Replace", "pattern": start, "content": mark})
    return {**content, "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}


def convert_metaspaces(name: str, part: Any) -> Any:
    """A part of a tokenizer.json with the settings that Metaspace had then."""
    if isinstance(part, list):
        return [convert_metaspaces(name, each) for each in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") != "Metaspace":
        return {key: convert_metaspaces(name, value) for key, value in part.items()}
    scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
    if scheme == "first" or not part.get("split", True):
        refuse(name, f"Metaspace with prepend_scheme {scheme} and split {part.get('split', True)}")
    return {**part, "prepend_scheme": scheme, "add_prefix_space": scheme == "always"}


def convert_settings(folder: ModelFolder) -> dict[str, Any]:
    """tokenizer_config.json with a class and settings of then, and with the chat template."""
    path = folder.path / "tokenizer_config.json"
    settings = read_json(path, FETCH_AGAIN) if path.is_file() else {}
    if template := read_chat_template(folder, settings):
        settings["chat_template"] = template
    if not (folder.path / "tokenizer.json").is_file() or is_of_2023(folder, settings):
        return settings
    for key in ("backend", "auto_map", *TOKENIZER_LEFTOVERS):
        settings.pop(key, None)
    extra = settings.pop("extra_special_tokens", None)
    if isinstance(extra, list) and extra:
        settings.setdefault("additional_special_tokens", extra)
    defaults = {"clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"]}
    return {**defaults, **settings, "tokenizer_class": "PreTrainedTokenizerFast"}


def is_of_2023(folder: ModelFolder, settings: dict[str, Any]) -> bool:
    """True for settings that transformers 5 has not written, with a class of then that has its file."""
    file = CLASSES_2023.get(str(settings.get("tokenizer_class")))
    return "backend" not in settings and file is not None and (folder.path / file).is_file()


def read_chat_template(folder: ModelFolder, settings: dict[str, Any]) -> str | None:
    """The chat template from its file or the settings, of several the default; None without one."""
    path = folder.path / "chat_template.jinja"
    if path.is_file():
        return read_text(path, FETCH_AGAIN)
    found = settings.get("chat_template")
    if isinstance(found, list):
        return next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found


def refuse(name: str, what: str) -> None:
    """Raises the UnsupportedError for a tokenizer that 0.14 would read otherwise or not at all."""
    problem = f"The tokenizer of {name} has {what}, which tokenizers 0.14 of 2023 does not know."
    raise UnsupportedError(problem, "Take another model, or today's WebUI, which reads the folder as it is.")
