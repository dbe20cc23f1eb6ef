"""What a notebook says about its own work: a result that it publishes, for the reader and for the tutorial's report alike."""

from IPython.display import display

MIME = "application/vnd.open-llm-kit+json"


def publish(name: str, value: object) -> None:
    """Shows `name: value` below the cell, and keeps the pair in the notebook, where helpers.tutorial collects it.

    `value` is what JSON can hold. Names in use: answer.raw and answer.openai (text); accuracy.majority, accuracy.base and
    accuracy.lora ({"value": share between 0 and 1, "interval": [low, high]}).
    """
    display({MIME: {"name": name, "value": value}, "text/plain": f"{name}: {value}"}, raw=True)
