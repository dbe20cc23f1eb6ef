"""How a request becomes the token ids of its prompt, within limits of length. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import takewhile

from helpers.common.arguments import shorten
from helpers.common.errors import UsageError
from helpers.generation.request import GenerationRequest
from helpers.loading.chat_templates import explain_missing
from helpers.loading.chat_tokenizer import BREAK, ChatTokenizer, encode_marked
from helpers.loading.rendering import measure
from helpers.loading.tools import Messages, ToolForm, ToolTemplate

# Characters for each token of the context that are tokenized at most. A text has about four, and only runs of
# the same character have more than ten.
CHARACTERS_PER_TOKEN = 32
UNKNOWN_CONTEXT = 2**31 - 1  # tokens, of a model that does not tell its context


class PromptTooLong(UsageError):
    """The prompt leaves no room for an answer in the model's context."""


class UnknownToken(UsageError):
    """A token id that the model does not have."""


class UnknownPromptToken(UnknownToken):
    """The same, in a prompt."""


class Prompts(ABC):
    """A model's chat template and tokenizer. Subclasses set the attributes."""

    name: str  # the model's folder name
    context: int  # tokens that prompt and answer may have together
    vocabulary_size: int  # the model's token ids are 0 to vocabulary_size - 1
    chat: ChatTokenizer | None = None  # the chat template and the tokenizer; None without a template
    bos_id: int | None = None  # the token that a text begins with, if the model has one
    counts_exactly: bool = True  # whether `count_tokens` counts; it estimates otherwise
    _tool_template: ToolTemplate | None = None

    @abstractmethod
    def encode(self, text: str, add_special: bool) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens; for subclasses that are faster with all at once."""
        return [self.encode(text, False) for text in texts]

    @property
    def tool_template(self) -> ToolTemplate:
        """The chat template with tools. Raises a NotFoundError if the model has no template."""
        if self.chat is None:
            raise explain_missing(self.name)
        if self._tool_template is None or self._tool_template.chat is not self.chat:
            self._tool_template = ToolTemplate(self.chat)
        return self._tool_template

    @property
    def call_form(self) -> ToolForm:
        """How the text of an answer writes calls of tools."""
        return self.tool_template.visible_form

    def render(
        self, messages: Messages, continue_last: bool = False, tools: Sequence[object] | None = None
    ) -> str:
        """The prompt that the model's chat template makes of the messages, for `tokenize`.

        Control tokens inside a message are marked, to be read as text. Raises a UsageError if the template
        rejects the messages, and a NotFoundError if the model has none.
        """
        return self.tool_template.render_marked(messages, continue_last, tools)

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """The text's token ids, with the special tokens that the tokenizer adds if `add_special` is true.

        BOS is not put before a text that begins with it.
        """
        known = self._encode_parts(text)
        ids = encode_marked(known.__getitem__, text, lambda part: self.encode(part, add_special))
        doubled = add_special and self.bos_id is not None and ids[:2] == [self.bos_id, self.bos_id]
        return ids[1:] if doubled else ids

    def _encode_parts(self, text: str) -> dict[str, list[int]]:
        """What `encode_marked` asks for behind the first BREAK, in one call and each text once."""
        _, *parts = text.split(BREAK)
        if not parts:
            return {}
        asked = {"\n"}
        for part in parts:
            asked |= {part, "\n" + part}
        texts = list(asked)
        return dict(zip(texts, self.encode_all(texts), strict=True))

    def measure_longest(self, tokens: int) -> int:
        """How many characters of a text are looked at where only so many tokens of it can matter."""
        return CHARACTERS_PER_TOKEN * max(1, tokens)

    def cut_text(self, text: str, keep_last: int | None) -> str:
        """The end of the text, as far as its last `keep_last` tokens can reach; None keeps all.

        Raises PromptTooLong for a text that is kept and can by far not fit into the context.
        """
        if keep_last is not None:
            return text[-self.measure_longest(keep_last) :]
        self._refuse_length(len(text))
        return text

    def _refuse_length(self, characters: int) -> None:
        longest = self.measure_longest(self.context)
        if characters > longest:
            raise PromptTooLong(
                f"The prompt has {characters} characters, and more than {longest} never fit into a context "
                f"of {self.context} tokens.",
                "Shorten it.",
            )

    def _render_request(self, messages: Messages, request: GenerationRequest) -> str:
        """The text of a request's messages. Raises PromptTooLong before it writes what cannot fit."""
        if len(messages) > self.context:  # each has one token at least
            raise PromptTooLong(
                f"There are {len(messages)} messages, and the context has {self.context} tokens.",
                "Send fewer messages.",
            )
        if request.keep_last is None:
            texts = [message["content"] or "" for message in messages]
            calls = [message.get("tool_calls") for message in messages]
            self._refuse_length(sum(map(len, texts)) + measure([calls, request.tools or []]))
        return self.render(messages, request.continue_last, request.tools)

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, with the special ones that the tokenizer adds."""
        return len(self.tokenize(text))

    def read_prompt(self, request: GenerationRequest) -> list[int]:
        """The token ids of a request's prompt.

        Raises PromptTooLong, UnknownPromptToken, and UsageError for an empty prompt or messages that the
        template rejects.
        """
        if request.prompt_ids is not None:
            return self._check_known(self.truncate_prompt(request.prompt_ids, request.keep_last))
        if request.prompt is not None:
            text, add_special = request.prompt, request.add_special_tokens
        elif request.messages is not None:
            # The template has written the special tokens.
            text, add_special = self._render_request(request.messages, request), False
        else:
            raise UsageError("The request has neither messages nor a prompt.", "Give it one of them.")
        ids = self.tokenize(self.cut_text(text, request.keep_last), add_special)
        return self.truncate_prompt(ids, request.keep_last)

    def read_text(self, request: GenerationRequest) -> str:
        """The text of a request's prompt; empty for messages."""
        return request.prompt or self.decode(request.prompt_ids or [])

    def _check_known(self, ids: list[int]) -> list[int]:
        for number in ids:
            if not 0 <= number < self.vocabulary_size:
                raise UnknownPromptToken(*explain_unknown(number, self.vocabulary_size))
        return ids

    def truncate_prompt(self, ids: list[int], keep_last: int | None) -> list[int]:
        """The last `keep_last` ids of a prompt, at least one; None keeps all.

        Raises UsageError for an empty prompt and PromptTooLong for one that leaves no room for an answer.
        """
        if keep_last is not None:
            ids = ids[-max(1, keep_last) :]
        if not ids:
            raise UsageError("The prompt has 0 tokens.", "Write a prompt.")
        if len(ids) >= self.context:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens, and the model takes at most {self.context - 1}.",
                "Shorten it.",
            )
        return ids


def explain_unknown(number: int, vocabulary_size: int) -> tuple[str, str]:
    """What is wrong with a token id that the model does not have, and what to do."""
    problem = f"There is no token {shorten(number)}; the model has tokens 0 to {vocabulary_size - 1}."
    return problem, "Use token ids of its own tokenizer."


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both prompts begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
