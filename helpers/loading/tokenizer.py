"""A folder's tokenizer, together with the chat template that it is used with."""

from functools import partial
from typing import cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from helpers.common.arguments import LARGEST
from helpers.common.errors import DamagedError, UnsupportedError
from helpers.loading.chat_templates import PickedTemplate, admit_system, explain_missing, pick_template
from helpers.loading.chat_tokenizer import PROBE, PROBED, ChatTokenizer, is_control
from helpers.weights.architecture import make_config
from helpers.weights.folders import FETCH_AGAIN, ModelFolder
from helpers.weights.quiet import hold_stderr
from helpers.weights.reading import check_tokenizer_texts, is_panic
from helpers.weights.tokenizer_repair import needs_digit_splitting, split_digits

TRIED = "Hello, 2 naïve words:\n\t東京 \U0001f600 ab"  # letters that are rare are unknown to some tokenizers


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
    tokenizer = read_tokenizer(folder)
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


def read_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    """The tokenizer as its files describe it. Raises DamagedError if they cannot be read."""
    if not folder.gguf:
        check_tokenizer_texts(folder)
    source = {"gguf_file": folder.gguf.name} if folder.gguf else {}
    try:
        with hold_stderr():
            tokenizer = AutoTokenizer.from_pretrained(
                folder.path, padding_side="left", trust_remote_code=False, **source
            )
            try_out(tokenizer)
    except ImportError:  # a package is missing, which the caller explains
        raise
    except BaseException as error:  # the library's own errors are of all kinds: its parser is written in Rust
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if (folder.path / "config.json").is_file() and not folder.gguf:
            make_config(folder)  # in which transformers looks up the tokenizer's class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedError(
            f"The tokenizer of {folder.name} cannot be read ({reason}).", FETCH_AGAIN
        ) from None
    if folder.gguf and needs_digit_splitting(folder.gguf):
        split_digits(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def try_out(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises an error of any kind if the tokenizer cannot be used, or leaves out what it is given."""
    tokenizer("")  # which shows settings of another kind, such as a text as model_max_length
    text, whole = tokenizer(TRIED, add_special_tokens=False)["input_ids"], tokenizer(TRIED)["input_ids"]
    tokenizer.decode(whole)
    if not 0 < len(text) <= len(whole):
        raise ValueError(f"of a text it makes {len(text)} tokens, and {len(whole)} with the special ones")
    if max(whole) >= LARGEST:
        raise ValueError(f"a token has the number {max(whole)}")


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
