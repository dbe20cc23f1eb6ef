"""langchain-openai and langchain: chat, stream, tools, objects in three ways, an agent of two turns."""

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_openai import ChatOpenAI
from scene import ASK, GREET, KEY, LIMIT, MODEL, URL, Weather, get_weather, was_called


@wrap_model_call
def call_first(request, handler):
    """Asks for a call in answer to the user, and for none in answer to a tool."""
    if request.messages[-1].type == "human":
        request = request.override(tool_choice="any")
    return handler(request)


def chat(model):
    assert model.invoke(GREET).text
    assert "".join(part.text for part in model.stream(GREET))
    called = model.bind_tools([get_weather], tool_choice="any").invoke(ASK)
    assert called.tool_calls[0]["name"] == "get_weather"
    for method in ("json_schema", "function_calling", "json_mode"):
        answer = model.with_structured_output(Weather, method=method, include_raw=True).invoke(
            f"{ASK} Answer as JSON."
        )
        # json_mode asks for any object; the others for one of the schema.
        assert isinstance(answer["parsed"], Weather) or method == "json_mode", answer


def run_agents(model):
    agent = create_agent(
        model, [get_weather], system_prompt="Be brief.", middleware=[call_first], name="clerk"
    )
    messages = []
    for _ in range(2):
        messages = agent.invoke({"messages": [*messages, ("user", ASK)]})["messages"]
        assert was_called()
    kinds = [message.type for message in messages]
    assert kinds.count("human") == 2 and kinds.count("tool") == 2, kinds
    for strategy in (ToolStrategy(Weather), ProviderStrategy(Weather)):
        result = create_agent(model, [], response_format=strategy).invoke({"messages": [("user", ASK)]})
        assert isinstance(result["structured_response"], Weather)


for over_responses in (False, True):
    model = ChatOpenAI(
        base_url=URL,
        api_key=KEY,
        model=MODEL,
        temperature=0,
        max_tokens=LIMIT,
        max_retries=0,
        use_responses_api=over_responses,
    )
    chat(model)
    run_agents(model)
