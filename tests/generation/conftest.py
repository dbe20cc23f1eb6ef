"""A home for the tests of llama.cpp, and both engines."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def llama_home(tmp_path_factory):
    """A home with models/tiny, the same model as GGUF in models/tiny-GGUF, and two LoRAs for it."""
    from support.gguf import make_tiny_gguf
    from support.tiny import make_tiny_adapter, make_tiny_model

    from helpers.adapters import AdapterFolder
    from helpers.weights import ModelFolder

    home = tmp_path_factory.mktemp("home")
    model = make_tiny_model(home / "models" / "tiny")
    gguf = make_tiny_gguf(home / "models" / "tiny-GGUF", model)
    loras = [
        make_tiny_adapter(home / "loras" / name, model, seed)
        for seed, name in enumerate(("shift", "twist"), 1)
    ]
    return SimpleNamespace(
        home=home, model=model, gguf=ModelFolder(gguf), loras=[AdapterFolder(lora) for lora in loras]
    )


ENGINES = ("transformers", "llama.cpp")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, llama_home):
    """A random model of single bytes with its LoRAs, on each engine."""
    if request.param == "transformers":
        from helpers.server.service import ModelChoice, Service

        loras = tuple(lora.name for lora in llama_home.loras)
        service = Service(llama_home.home / "models", llama_home.home / "loras")
        engine = service.load(ModelChoice(llama_home.model.name, loras))
    else:
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[llamacpp]'")
        from helpers.generation.llama_engine import LlamaEngine

        engine = LlamaEngine(llama_home.gguf, llama_home.loras)
    yield engine
    engine.close()
