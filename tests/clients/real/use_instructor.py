"""instructor: objects by a tool, by a JSON schema and by a JSON object; several, and one in parts."""

import instructor
from openai import OpenAI
from scene import ASK, KEY, LIMIT, MODEL, URL, Weather

MESSAGES = [{"role": "user", "content": ASK}]
SETTINGS = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": LIMIT, "max_retries": 0}
openai_client = OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)

for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai_client, mode=mode)
    assert isinstance(client.create(response_model=Weather, **SETTINGS), Weather)
    assert isinstance(list(client.create_partial(response_model=Weather, **SETTINGS))[-1], Weather)
