"""From a raw request's body to the engine's request, and from the answer's text to what the reply holds; the same for HTTP and websockets."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from helpers.generation.engine import Engine, UnknownToken
from helpers.generation.request import GenerationRequest
from helpers.server.errors import ApiError
from helpers.server.raw_bodies import ChatBody, GenerateBody, RawBody
from helpers.server.raw_histories import Turn, take_turn
from helpers.server.raw_prompts import Chat, TurnFormat, fit_prompt, format_lines, list_stops
from helpers.server.raw_templates import check_turn, load_character, load_instruct

TEMPLATE_OF_NONE = "Vicuna-v1.1"  # what the WebUI took for the name "None"


TEMPLATE_OF_TURN = (
    "Alpaca"  # the WebUI's own default: what a turn_template without an instruction_template changes
)


DEFAULT_CHARACTER = "Assistant"


MODES = ("instruct", "chat", "chat-instruct")


INSTRUCT_FIELDS = (
    "instruction_template",
    "name1_instruct",
    "name2_instruct",
    "context_instruct",
    "turn_template",
)


CHAT_FIELDS = ("name2", "context")  # name1 takes the place of <USER> in every mode


@dataclass(frozen=True)
class Asked:
    """A request on its way."""

    request: GenerationRequest | None  # None where nothing is to be generated
    write: Callable[[str], dict]  # the answer's text, or its beginning, as the reply's result
    extra: dict  # what the reply has beside its results: `ignored` and `prompt_as_built`, where there is something to say


class Running:
    """What is being answered on the raw API's ports, so that /stop-stream can end it."""

    def __init__(self):
        self._events: set[Event] = set()  # touched in the event loop only

    @contextmanager
    def track(self, request: GenerationRequest) -> Iterator[None]:
        """Inside the block, `stop` ends this request, and a token that the model lacks is put down to the field that named it."""
        self._events.add(request.cancelled)
        try:
            yield
        except UnknownToken as error:
            raise ApiError(400, f"custom_token_bans: {error}", "custom_token_bans", "invalid_value") from None
        finally:
            self._events.discard(request.cancelled)

    def stop(self) -> None:
        """Ends every request; each is answered with what it has."""
        for event in self._events:
            event.set()


def ask_generate(body: GenerateBody, engine: Engine) -> Asked:
    """For /generate: the prompt is taken as it is; of one that is too long, the end."""
    request = body.build_request(engine, body.prompt, body.add_bos_token, [])
    return Asked(request, lambda text: {"text": text}, describe_extra(body, engine, request))


def ask_chat(body: ChatBody, engine: Engine) -> Asked:
    """For /chat. ApiError names the field of an unknown template or character; KitError where the model's own template refuses the messages."""
    turn = take_turn(body.history, body.user_input, body.regenerate, body.continue_)
    if not turn:
        return Asked(None, lambda _: {"history": body.history.model_dump()}, {})
    chat = build_chat(body, turn)
    prompt = fit_prompt(chat, engine.render, engine.count_tokens, body.measure_room(engine))
    request = body.build_request(
        engine, prompt, body.add_bos_token and not takes_own_template(chat), list_stops(chat)
    )
    extra = describe_extra(body, engine, request, list_unused(body, chat))
    return Asked(
        request,
        lambda text: {"history": body.history.model_dump() | turn.write(text, chat.lines.user)},
        extra,
    )


def describe_extra(
    body: RawBody, engine: Engine, request: GenerationRequest, unused: Iterable[str] = ()
) -> dict:
    """What was sent and not honoured, and the prompt when it was asked for."""
    ignored = body.list_ignored(engine, request, unused)
    extra = {"ignored": ignored} if ignored else {}
    return {**extra, "prompt_as_built": request.prompt} if body.debug_prompt else extra


def build_chat(body: ChatBody, turn: Turn) -> Chat:
    """What the prompt is made of; names and texts that were sent go before those of the character and the template."""
    name, context = load_character(DEFAULT_CHARACTER if asks_nothing(body.character) else body.character)
    name1, name2 = pick(body.name1, body.your_name), pick(body.name2, name)
    lines = format_lines(name1, name2, pick(body.context, context))
    mode = body.mode if body.mode in MODES else "chat"
    return Chat(
        mode,
        turn.internal,
        turn.said,
        turn.begun,
        lines,
        pick_format(body),
        body.context_instruct,
        body.chat_instruct_command,
    )


def pick_format(body: ChatBody) -> TurnFormat | None:
    """The instruct format that was asked for; None is the model's own chat template."""
    if not body.instruction_template and not body.turn_template:
        return None
    name = body.instruction_template or TEMPLATE_OF_TURN
    form = load_instruct(TEMPLATE_OF_NONE if name == "None" else name)
    return TurnFormat(
        pick(body.name1_instruct, form.user).strip(),
        pick(body.name2_instruct, form.bot).strip(),
        check_turn(body.turn_template) if body.turn_template else form.turn,
        pick(body.context_instruct, form.context),
    )


def pick(sent: str | None, default: str) -> str:
    """What was sent, also when it is empty; else the default."""
    return default if sent is None else sent


def asks_nothing(value: str | None) -> bool:
    """Whether a name or a text asks for nothing."""
    return value in (None, "", "None")


def takes_own_template(chat: Chat) -> bool:
    """Whether the model's own chat template writes the prompt, the model's BOS included."""
    return chat.mode != "chat" and chat.instruct is None


def list_unused(body: ChatBody, chat: Chat) -> Iterator[str]:
    """Names of fields that mean nothing in this chat."""
    texts = [
        *(INSTRUCT_FIELDS if chat.mode == "chat" else []),
        *(CHAT_FIELDS if chat.mode == "instruct" else []),
        "greeting",
    ]
    if takes_own_template(chat):
        texts += ["name1_instruct", "name2_instruct"]
        yield from () if body.add_bos_token else ("add_bos_token",)
    yield from (name for name in texts if not asks_nothing(getattr(body, name)))
    if chat.mode == "instruct" and body.character not in (DEFAULT_CHARACTER, "None", ""):
        yield "character"
    if chat.mode != "chat-instruct" and "chat_instruct_command" in body.model_fields_set:
        yield "chat_instruct_command"
    if body.mode != chat.mode:
        yield "mode"
    if body.regenerate and body.continue_:
        yield "_continue"
