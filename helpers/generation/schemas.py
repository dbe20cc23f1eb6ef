"""JSON schemas as llguidance should read them: counts within limits, dates as the calendar has them."""

from collections.abc import Mapping
from typing import Any

# Times that a part is repeated. llama.cpp takes gigabytes for a hundred millions.
MOST = 10_000
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
VALUES = ("const", "enum", "default", "examples")  # what they hold is not a schema

# llguidance itself allows the year 0, 29 February in every year, and a 61st second, which few libraries read.
YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
FOURTH = "(?:0[48]|[2468][048]|[13579][26])"  # 04, 08, ... 96
LEAP_YEAR = f"(?:[0-9]{{2}}{FOURTH}|{FOURTH}00)"  # each fourth; of the centuries each fourth one
DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
DATE = f"(?:{YEAR}-{DAY}|{LEAP_YEAR}-02-29)"
CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
TIME = rf"{CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{CLOCK})"
PATTERNS = {"date": f"^{DATE}$", "time": f"^{TIME}$", "date-time": f"^{DATE}T{TIME}$"}


def adapt_schema(schema: Any) -> Any:
    """The schema without largest numbers beyond MOST, and with a pattern for each date and time.

    Raises a ValueError for a smallest number beyond MOST: no answer reaches it.
    """
    if isinstance(schema, list):
        return [adapt_schema(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    beyond = {key for key in COUNTS if isinstance(schema.get(key), int | float) and schema[key] > MOST}
    if unreachable := [key for key in beyond if key.startswith("min")]:
        raise ValueError(f"{unreachable[0]} is more than {MOST}, which no answer reaches")
    adapted = {
        key: one if key in VALUES else adapt_schema(one) for key, one in schema.items() if key not in beyond
    }
    kind = schema.get("format")
    if isinstance(kind, str) and kind in PATTERNS and "pattern" not in schema:
        del adapted["format"]
        adapted["pattern"] = PATTERNS[kind]
    return adapted
