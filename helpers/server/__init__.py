"""The tutorial server: the raw API of 2023 and the OpenAI-style API over one engine, with the WebUI's flags."""
