"""Messages to tokens: the only place where a prompt, its answer and the answer's end are made. No torch.

A chat template turns messages into one text. Everything before the place where it puts the assistant's answer
is the prompt, whatever the template calls its generation prompt. Three examples, in which the answer's tokens
begin at | and end at ¦:

    SmolLM2    ...<|im_start|>assistant\\n|Repaired<|im_end|>¦\\n
    Llama 2    <s>[INST] ... [/INST]| Repaired </s>¦    the space belongs to the answer's first token
    Qwen 3     ...<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n|Repaired<|im_end|>¦\\n

What a model is trained on, what it is judged by and what a server gives it are these tokens.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateSyntaxError

from helpers.common.errors import DamagedError, UnsupportedError, UsageError
from helpers.loading.rendering import TooMuchError, render_limited

Encode = Callable[[str], list[int]]  # a text's ids; control tokens are recognised and none is added
Message = dict[str, str]  # {"role": ..., "content": ...}
# A stand-in for the answer, to find its place in the text: a word that no template contains. Only a space
# before it can end up in its first token.
PROBE = "Quokka"
PROBED: list[Message] = [{"role": "user", "content": "Question"}]
# A noncharacter, which Unicode reserves for a program's own use: no text has it.
BREAK = "\ufdd0"


class TokenizedAnswers(NamedTuple):
    """A prompt and answers to it as token ids; an answer ends with the token that ends the turn."""

    prompt: list[int]
    answers: list[list[int]]


class LearnedTokens(NamedTuple):
    """A sequence of token ids, and a mask that is 1 for those that are learned."""

    ids: list[int]
    mask: list[int]


@dataclass
class ChatTokenizer:
    """A model's chat template and tokenizer together."""

    template: str  # Jinja
    special_tokens: Mapping[str, Any]  # what the template may name: {"bos_token": "<s>", ...}
    control_tokens: Mapping[str, int]  # tokens that only a template may write, with their ids
    encode: Encode
    eos_id: int | None
    special: frozenset[str] = frozenset()  # control tokens that are left out of an answer's text

    def render(self, messages: Sequence[Mapping[str, Any]], continue_last: bool = False) -> str:
        """The messages as text, up to where the answer begins.

        With `continue_last` the text ends inside the last message instead. Raises a UsageError if the
        template rejects the messages.
        """
        return unmark(self.render_marked(messages, continue_last))

    def tokenize(self, messages: list[Message], continue_last: bool = False) -> list[int]:
        """The token ids of the same text. Control tokens inside a message are read as text."""
        return encode_marked(self.encode, self.render_marked(messages, continue_last))

    def tokenize_answers(self, messages: list[Message], answers: Sequence[str]) -> TokenizedAnswers:
        """The messages and possible answers of the assistant as token ids.

        Raises a UsageError for what the template rejects, and an UnsupportedError if it writes an answer in
        another place than others.
        """
        begun = self.render_marked(messages)
        prompt = encode_marked(self.encode, begun)
        return TokenizedAnswers(
            prompt, [self._tokenize_answer(messages, one, begun, prompt) for one in answers]
        )

    def tokenize_conversation(self, messages: list[Message], learned: Sequence[int]) -> list[LearnedTokens]:
        """The messages as token ids, of which the assistant's messages at the places `learned` are learned.

        Each of them comes after exactly the tokens that a server gives the model before it answers there. For
        most templates that is one sequence. It is several if the template writes earlier messages in another
        way than later ones: Qwen 3 leaves the thinking out of them. Raises what tokenize_answers raises.
        """
        sequences: list[LearnedTokens] = []
        for place in learned:
            prompt, (answer,) = self.tokenize_answers(messages[:place], [messages[place]["content"]])
            mask: list[int] = []
            if sequences and prompt[: len(sequences[-1].ids)] == sequences[-1].ids:
                mask = sequences.pop().mask  # this one goes on from there
            mask = mask + [0] * (len(prompt) - len(mask)) + [1] * len(answer)
            sequences.append(LearnedTokens(prompt + answer, mask))
        return sequences

    def _tokenize_answer(
        self, messages: list[Message], answer: str, begun: str, prompt: list[int]
    ) -> list[int]:
        """The tokens of one answer after the prompt, whose text is `begun`."""
        whole = self.render_all([*messages, {"role": "assistant", "content": answer}])
        ids = encode_marked(self.encode, whole)
        if ids[: len(prompt)] == prompt:
            return self._cut(ids[len(prompt) :])
        if not whole.startswith(begun):
            problem = f"The chat template does not write '{answer[:40]}' where it writes other answers."
            raise UnsupportedError(
                problem, "Leave the template's own marks, such as </think>, out of answers."
            )
        # The answer's first character would join the prompt's last token. No model sees such a prompt.
        return self._cut(encode_after(self.encode, whole[len(begun) :]))

    @property
    def end_text(self) -> str:
        """The text of the token that ends an answer; a BREAK, which no text has, if it has none."""
        texts = {number: text for text, number in self.control_tokens.items()}
        eos = self.special_tokens.get("eos_token", BREAK)
        return texts.get(self.end_ids[0], str(eos)) if self.end_ids else BREAK

    @cached_property
    def end_ids(self) -> list[int]:
        """The token that ends an answer, in a list; [] if the model has none."""
        answer = self._probe[1]
        found = self._find_end(answer)
        if found is not None:
            return [answer[found]]
        return [] if self.eos_id is None else [self.eos_id]

    # The text

    def render_all(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[object] | None = None) -> str:
        """The whole text of the messages, with a BREAK inside each of their control tokens.

        Raises a UsageError for messages that the template rejects.
        """
        try:
            broken = [self._break_texts(check_text(message)) for message in messages]
            values = {**self.special_tokens, "tools": self._break_texts(tools)}
            return render_limited(self.template, broken, **values)
        except TemplateSyntaxError as error:
            problem = f"The chat template is not valid Jinja (line {error.lineno}: {error.message})."
            raise DamagedError(problem, "Give another one: --chat-template NAME|FILE.") from None
        except TooMuchError as error:
            problem = f"The chat template takes too much time or memory: {error}."
            raise DamagedError(problem, "Give another one: --chat-template NAME|FILE.") from None
        except Exception as error:  # a template is a program; Llama 2's wants user and assistant in turns
            reason = " ".join(str(error).split())
            problem = f"The model's chat template rejects these messages ({reason})."
            raise UsageError(problem, "Change their roles or their order.") from None

    def render_marked(
        self,
        messages: Sequence[Mapping[str, Any]],
        continue_last: bool = False,
        tools: Sequence[object] | None = None,
    ) -> str:
        """The text of `render` with a BREAK inside each control token of a message, for encode_marked.

        `tools` are for templates that write them (helpers.loading.tools).
        """
        if not messages:
            raise UsageError("There are no messages.", "Send at least one.")
        if continue_last:
            last = messages[-1]
            begun = self._render_up_to_probe([*messages[:-1], {**last, "content": PROBE}], tools)
            return begun + self._break_control_tokens(last["content"])
        text = self._render_up_to_probe([*messages, {"role": "assistant", "content": PROBE}], tools)
        return text.rstrip() if self._joins_space else text

    def _render_up_to_probe(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[object] | None
    ) -> str:
        before, found, _ = self.render_all(messages, tools).rpartition(PROBE)
        if not found:
            problem = "The model's chat template does not show what the assistant says."
            raise UnsupportedError(problem, "Give another one with --chat-template.")
        return before

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """What finds control tokens in a text."""
        longest_first = sorted((re.escape(token) for token in self.control_tokens), key=len, reverse=True)
        return re.compile("|".join(longest_first) or "(?!)")  # (?!) never matches

    def _break_texts(self, value: Any) -> Any:
        """The value with a BREAK inside each control token of the texts in it, roles excepted."""
        if isinstance(value, str):
            return self._break_control_tokens(value)
        if isinstance(value, Mapping):
            return {
                self._break_texts(key): one if key == "role" else self._break_texts(one)
                for key, one in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._break_texts(one) for one in value]
        return value

    def _break_control_tokens(self, text: str) -> str:
        """The text with a BREAK after the first character of each control token, as in "<BREAK|im_end|>"."""
        return self.control_pattern.sub(lambda found: found[0][0] + BREAK + found[0][1:], text)

    # The tokens

    @cached_property
    def _probe(self) -> tuple[bool, list[int]]:
        """Whether the answer's first token takes in the space before it, and the tokens of such an answer."""
        text = self.render_all([*PROBED, {"role": "assistant", "content": PROBE}])
        ids = encode_marked(self.encode, text)
        before = text[: text.rindex(PROBE)] if PROBE in text else text
        for joins, start in ((False, before), (True, before.rstrip())):
            prompt = encode_marked(self.encode, start)
            if ids[: len(prompt)] == prompt:
                return joins, ids[len(prompt) :]
        return False, encode_after(self.encode, text[len(before) :])

    @property
    def _joins_space(self) -> bool:
        return self._probe[0]

    def _find_end(self, answer: list[int]) -> int | None:
        """Where the first control token is: those that the answer itself has were broken."""
        places = (place for place, token in enumerate(answer) if token in self._control_ids)
        return next(places, None)

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self.control_tokens.values())

    def _cut(self, answer: list[int]) -> list[int]:
        """The tokens up to the one that ends the turn; EOS is added if the template writes none."""
        end = self._find_end(answer)
        if end is not None:
            return answer[: end + 1]
        if self.eos_id is None:
            problem = "Neither the chat template nor the tokenizer has a token that ends an answer."
            raise UnsupportedError(problem, "Set eos_token in the model's tokenizer_config.json.")
        return [*answer, self.eos_id]


def check_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message. Raises a TypeError if its content is not a text; None is one beside calls of tools."""
    content = message.get("content")
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise TypeError(f"the content of a message is {type(content).__name__}, not text")
    return message


def is_control(text: str, special: bool, template: str) -> bool:
    """Whether only the template may write this added token: a special one, or one that is in the template.

    Added tokens of white space, which Gemma has, are ordinary text; a single character cannot be broken.
    """
    return len(text) > 1 and (special or (text in template and not text.isspace()))


def unmark(text: str) -> str:
    """The text of render_marked as people read it."""
    return text.replace(BREAK, "")


def encode_marked(encode: Encode, text: str, encode_first: Encode | None = None) -> list[int]:
    """The ids of a text, which is cut at each BREAK, so that no token spans one.

    `encode_first` encodes what comes before the first BREAK, if that needs BOS.
    """
    first, *others = text.split(BREAK)
    ids = list((encode_first or encode)(first))
    for part in others:
        ids += encode_after(encode, part)
    return ids


def encode_after(encode: Encode, text: str) -> list[int]:
    """The ids of a text that continues another one.

    SentencePiece puts a space before a text. It does not after a newline, which is taken away again.
    """
    newline, ids = encode("\n"), encode_marked(encode, "\n" + text)
    return ids[len(newline) :] if ids[: len(newline)] == newline else encode_marked(encode, text)
