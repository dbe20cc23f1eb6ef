"""The models of the OpenAI-style API: the base model and its LoRAs, by their names."""

import time

from fastapi import FastAPI

from helpers.generation.engine import Engine
from helpers.generation.prompts import UNKNOWN_CONTEXT
from helpers.server.errors import ApiError
from helpers.server.openai_replies import ModelCard, ModelList
from helpers.server.service import Service


def add_model_routes(app: FastAPI, service: Service) -> None:
    """/v1/models and /v1/models/NAME."""
    started = int(time.time())

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=list_cards(service, started))

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        for card in list_cards(service, started):
            if card.id == name:
                return card
        raise make_unknown_model_error(name)


def list_cards(service: Service, created: int) -> list[ModelCard]:
    """The base model and its adapters; nothing if no model is loaded."""
    engine = service.engine
    if engine is None:
        return []
    context = engine.context if engine.context < UNKNOWN_CONTEXT else None
    base = ModelCard(id=engine.name, created=created, max_model_len=context)
    return [base, *(base.model_copy(update={"id": name, "parent": base.id}) for name in engine.adapters)]


def pick_adapter(engine: Engine, name: str | None, strict: bool) -> str | None:
    """The adapter that a request's `model` names; None is the base. With `strict`, other names are a 404."""
    if name in engine.adapters:
        return name
    if name == engine.name:
        return None
    if strict:
        raise make_unknown_model_error(name)
    return engine.default_adapter


def make_unknown_model_error(name: str | None) -> ApiError:
    """OpenAI's refusal of a model's name."""
    message = f"The model '{name or ''}' does not exist or you do not have access to it."
    return ApiError(404, message, "model", "model_not_found")
