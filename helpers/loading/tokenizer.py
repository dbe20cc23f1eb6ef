"""A folder's tokenizer, together with the chat template that it is used with."""

from functools import partial
from typing import cast

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from helpers.common.errors import DamagedError, UnsupportedError
from helpers.loading.chat_templates import PickedTemplate, admit_system, explain_missing, pick_template
from helpers.loading.chat_tokenizer import PROBE, PROBED, ChatTokenizer, is_control
from helpers.weights.folders import FETCH_AGAIN, ModelFolder
from helpers.weights.reading import is_panic, read_tokenizer
from helpers.weights.tokenizer_repair import needs_digit_splitting, split_digits


def load_tokenizer(folder: ModelFolder, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the left as generation needs it; a missing pad token becomes EOS,
    or what ends an answer.

    Its chat template is the one that pick_template picks. Raises DamagedError if it cannot be read, and
    NotFoundError for a `chat_template` that is not there.
    """
    return load_both(folder, chat_template)[0]


def load_both(
    folder: ModelFolder, chat_template: str | None = None, need_examples: bool = False
) -> tuple[PreTrainedTokenizerBase, PickedTemplate | None]:
    """The tokenizer and where its chat template is from; None if it has none and its family is not known.

    `need_examples` refuses a tokenizer that cannot write prompts with answers, for training and judging.
    """
    tokenizer = read_padded(folder)
    picked = set_chat_template(tokenizer, folder.name, chat_template)
    if need_examples:
        refuse_unfit(tokenizer, folder.name)
    if tokenizer.pad_token is None and picked:  # no EOS either: the chat template has another end
        ends = make_chat_tokenizer(tokenizer).end_ids
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ends[0]) if ends else None
    return tokenizer, picked


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase, model: str, chat_template: str | None = None
) -> PickedTemplate | None:
    """Gives the tokenizer the chat template that pick_template picks, and returns where that is from.

    `model` is the folder's name, which may show the family. Returns None if there is no template.
    """
    begun = tokenizer("")["input_ids"]
    picked = pick_template(
        chat_template,
        str(tokenizer.get_chat_template()) if tokenizer.chat_template else None,
        model,
        [token.content for token in tokenizer.added_tokens_decoder.values()],
        len(tokenizer),
        adds_bos=tokenizer.bos_token_id is not None and begun[:1] == [tokenizer.bos_token_id],
    )
    if picked:
        picked = admit_system(picked, partial(make_chat_tokenizer, tokenizer), model)
        tokenizer.chat_template = picked.source
    return picked


def read_padded(folder: ModelFolder) -> PreTrainedTokenizerBase:
    """The tokenizer as its files describe it; EOS pads if nothing else does. Errors as read_tokenizer."""
    tokenizer = read_tokenizer(folder, padding_side="left")
    if folder.gguf and needs_digit_splitting(folder.gguf):
        split_digits(cast(PreTrainedTokenizerFast, tokenizer))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def refuse_unfit(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """A KitError if the tokenizer cannot write examples: no chat template, or nothing that ends an answer."""
    if not tokenizer.chat_template:
        raise explain_missing(model)
    make_chat_tokenizer(tokenizer).tokenize_answers(PROBED, [PROBE])


def make_chat_tokenizer(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> ChatTokenizer:
    """The tokenizer together with its chat template, or with another `template`, Jinja.

    Raises an UnsupportedError if there is neither.
    """
    if not template and not tokenizer.chat_template:
        raise UnsupportedError(
            "This tokenizer has no chat template.", "Use the tokenizer of a chat (instruct) model."
        )
    source = template or str(tokenizer.get_chat_template())

    def encode(text: str) -> list[int]:
        try:
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        except BaseException as error:
            if not is_panic(error):
                raise
            problem = f"The tokenizer fails at a text of {len(text)} characters ({error})."
            raise DamagedError(problem, FETCH_AGAIN) from None

    return ChatTokenizer(
        source,
        tokenizer.special_tokens_map,
        find_control_tokens(tokenizer, source),
        encode,
        cast(int | None, tokenizer.eos_token_id),
        frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special),
    )


def find_control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, int]:
    """Text and id of the tokens that only the template may write."""
    added = tokenizer.added_tokens_decoder.items()
    return {
        token.content: number for number, token in added if is_control(token.content, token.special, template)
    }
