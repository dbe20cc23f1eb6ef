"""What every client is asked to do: python SCRIPT URL MODEL."""

import sys
from typing import Literal

from pydantic import BaseModel

URL, MODEL = sys.argv[1:3]
KEY = "none"
LIMIT = 60  # tokens of an answer
GREET = "Say hello."
ASK = "What is the weather in Oslo?"
asked: list[str] = []  # what get_weather was called with


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]
    degrees: int
    sunny: bool


def get_weather(city: Literal["Oslo", "Rome"]) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return f"It is sunny in {city}."


def was_called() -> bool:
    """Whether get_weather was called since the last time, with arguments of its form."""
    calls = asked.copy()
    asked.clear()
    return bool(calls) and set(calls) <= {"Oslo", "Rome"}
