"""From the body of a raw request to the engine's request, and from the answer's text to the reply's result.

HTTP and websockets share this.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

from helpers.generation.engine import Engine
from helpers.generation.prompts import UnknownToken
from helpers.generation.request import GenerationRequest
from helpers.loading.chat_tokenizer import unmark
from helpers.server.errors import ApiError
from helpers.server.raw_bodies import DEFAULT_CHARACTER, ChatBody, GenerateBody, RawBody
from helpers.server.raw_histories import PendingExchange, plan_exchange
from helpers.server.raw_prompts import Chat, TurnFormat, drop_oldest_exchanges, format_lines, list_stops
from helpers.server.raw_templates import check_turn, load_character, load_instruct

TEMPLATE_FOR_NONE = "Vicuna-v1.1"  # what the WebUI took for the name "None"
TEMPLATE_FOR_TURN = "Alpaca"  # the WebUI's default: what a turn_template alone changes

MODES = ("instruct", "chat", "chat-instruct")  # any other counts as chat

# Fields for one mode only. (name1 is for every mode: it takes the place of <USER>.)
INSTRUCT_FIELDS = [
    "instruction_template",
    "name1_instruct",
    "name2_instruct",
    "context_instruct",
    "turn_template",
]
CHAT_FIELDS = ["name2", "context"]


@dataclass(frozen=True)
class PreparedRequest:
    """A raw request, ready for the engine."""

    request: GenerationRequest | None  # None if there is nothing to generate
    write_result: Callable[[str], dict[str, Any]]  # the answer's text, or its beginning -> the reply's result
    extra: dict[str, Any]  # what the reply has beside its results: `ignored` and `prompt_as_built`, if any


class RunningRequests:
    """The requests that are being answered on the raw API's two ports, so that /stop-stream can end them."""

    def __init__(self):
        self._events: set[Event] = set()  # touched in the event loop only

    @contextmanager
    def track(self, request: GenerationRequest | None) -> Iterator[None]:
        """Inside the block, `stop` ends this request.

        An UnknownToken raised in the block becomes an ApiError that names custom_token_bans.
        """
        if request is None:
            yield
            return
        self._events.add(request.cancelled)
        try:
            yield
        except UnknownToken as error:
            raise ApiError(400, f"custom_token_bans: {error}", "custom_token_bans", "invalid_value") from None
        finally:
            self._events.discard(request.cancelled)

    def stop(self) -> None:
        """Ends every request; each is answered with what it has so far."""
        for event in self._events:
            event.set()


def prepare_generate(body: GenerateBody, engine: Engine) -> PreparedRequest:
    """For /generate: the prompt is taken as it is, without its beginning if it is too long."""
    request = body.build_request(engine, body.prompt, body.add_bos_token, [])
    return PreparedRequest(request, lambda text: {"text": text}, describe_extra(body, engine, request))


def prepare_chat(body: ChatBody, engine: Engine) -> PreparedRequest:
    """For /chat.

    Raises an ApiError, which names the field, for an unknown template or character, and a KitError if the
    model's own template refuses the messages.
    """
    history = body.history.model_dump()  # with fields that are unknown here
    exchange = plan_exchange(body.history, body.user_input, body.regenerate, body.continue_)
    if exchange is None:
        return PreparedRequest(None, lambda _: {"history": history}, {})
    chat = build_chat(body, exchange)
    room = body.measure_room(engine)
    longest = engine.measure_longest(room)
    prompt = drop_oldest_exchanges(chat, engine.render, engine.count_tokens, room, longest)
    add_bos = body.add_bos_token and not uses_model_template(chat)
    request = body.build_request(engine, prompt, add_bos, list_stops(chat))
    extra = describe_extra(body, engine, request, list_unused_fields(body, chat))

    def write_result(text: str) -> dict[str, Any]:
        return {"history": {**history, **exchange.write(text, chat.lines.user)}}

    return PreparedRequest(request, write_result, extra)


def describe_extra(
    body: RawBody, engine: Engine, request: GenerationRequest, unused: Iterable[str] = ()
) -> dict[str, Any]:
    """What was sent and not honoured, and the prompt if it was asked for."""
    extra: dict[str, Any] = {}
    ignored = body.list_ignored(engine, request, unused)
    if ignored:
        extra["ignored"] = ignored
    if body.debug_prompt:
        extra["prompt_as_built"] = unmark(request.prompt or "")
    return extra


def build_chat(body: ChatBody, exchange: PendingExchange) -> Chat:
    """What the prompt is made of; what was sent wins over the texts of the character and the template."""
    character = DEFAULT_CHARACTER if is_blank(body.character) else body.character
    name, context = load_character(character)
    lines = format_lines(
        name1=use_default(body.name1, body.your_name),
        name2=use_default(body.name2, name),
        context=use_default(body.context, context),
    )
    return Chat(
        mode=body.mode if body.mode in MODES else "chat",
        past=exchange.past_internal,
        user_message=exchange.said,
        reply_begun=exchange.begun,
        lines=lines,
        instruct=pick_format(body),
        system=body.context_instruct,
        command=body.chat_instruct_command,
    )


def pick_format(body: ChatBody) -> TurnFormat | None:
    """The instruct format that was asked for; None is the model's own chat template."""
    if not body.instruction_template and not body.turn_template:
        return None
    name = body.instruction_template or TEMPLATE_FOR_TURN
    template = load_instruct(TEMPLATE_FOR_NONE if name == "None" else name)
    return TurnFormat(
        user=use_default(body.name1_instruct, template.user).strip(),
        bot=use_default(body.name2_instruct, template.bot).strip(),
        turn=check_turn(body.turn_template) if body.turn_template else template.turn,
        context=use_default(body.context_instruct, template.context),
    )


def use_default(sent: str | None, default: str) -> str:
    """What was sent, even if it is empty; the default if nothing was."""
    return default if sent is None else sent


def is_blank(value: str | None) -> bool:
    """Whether a name or a text was left empty, or is "None"."""
    return value in (None, "", "None")


def uses_model_template(chat: Chat) -> bool:
    """Whether the model's own chat template writes the prompt, with the model's BOS."""
    return chat.mode != "chat" and chat.instruct is None


def list_unused_fields(body: ChatBody, chat: Chat) -> list[str]:
    """Names of fields that were sent and mean nothing in this chat."""
    names = ["greeting"]
    if chat.mode == "chat":
        names += INSTRUCT_FIELDS
    if chat.mode == "instruct":
        names += CHAT_FIELDS
    if uses_model_template(chat):
        names += ["name1_instruct", "name2_instruct"]
    unused = [name for name in names if not is_blank(getattr(body, name))]
    if uses_model_template(chat) and not body.add_bos_token:
        unused.append("add_bos_token")
    if chat.mode == "instruct" and not is_blank(body.character) and body.character != DEFAULT_CHARACTER:
        unused.append("character")
    if chat.mode != "chat-instruct" and "chat_instruct_command" in body.model_fields_set:
        unused.append("chat_instruct_command")
    if body.mode != chat.mode:
        unused.append("mode")
    if body.regenerate and body.continue_:
        unused.append("_continue")
    return unused
