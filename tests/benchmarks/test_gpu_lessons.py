"""The benchmark's lessons: on replicas where the models are not there, each with a limit of its own."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch
from support.real_tokenizers import find_tokenizer

from benchmarks.gpu import lessons
from benchmarks.gpu.plan import HEAD, LLAMA_2, Skipped
from benchmarks.gpu.replicas import draw_tensors, make_embedded_replica, name_sizes, write_head
from helpers.common.errors import NotFoundError
from helpers.common.lanes import LANES
from helpers.common.paths import PROJECT
from helpers.tutorial.notebook_files import list_lessons

GGUF = PROJECT / "models" / "SmolLM2-135M-Instruct-GGUF" / "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_tokenizer = pytest.mark.skipif(
    not find_tokenizer("llama2"), reason="not fetched: python -m support.real_tokenizers"
)
needs_embedded = pytest.mark.skipif(not GGUF.is_file(), reason="the embedded model is not fetched")


@pytest.fixture
def make_job(home, tmp_path, monkeypatch):
    """Makes the job of a lane, in a home without models."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "carried").mkdir(exist_ok=True)

    def make(lane):
        return {
            "lane": lane,
            "scratch": str(tmp_path / "scratch"),
            "out": str(tmp_path / "out"),
            "carried": str(tmp_path / "carried"),
        }

    return make


def make_place(job):
    """The place of a job's lessons."""
    scratch, carried, out = (lessons.Path(job[key]) for key in ("scratch", "carried", "out"))
    return lessons.Place(LANES[job["lane"]], scratch / f"home-{job['lane']}", carried, out)


def test_what_a_replica_lacks_is_said_and_no_lesson_is_tried(make_job):
    for lane in LANES:
        (name, make), (_, lesson) = lessons.list_contestants(make_job(lane))
        assert name == f"lane {lane}, replica with random weights: the model's folder"
        with pytest.raises(NotFoundError, match="gpu_machine"):
            make(60)
        with pytest.raises(Skipped):
            lesson(60)


def test_real_model_is_taken_where_it_is_there(make_job, home):
    for name in ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-GGUF"):
        (home / "models" / name).mkdir(parents=True)
    job = make_job("tiny")
    (name, make), *_ = lessons.list_contestants(job)
    assert name.startswith("lane tiny, real model")
    make(60)
    assert (make_place(job).home / "models" / "SmolLM2-135M-Instruct-GGUF").resolve() == (
        home / "models" / "SmolLM2-135M-Instruct-GGUF"
    )


def runs(pid):
    """Whether a process runs; a killed one may stay in the system's table until its parent has looked."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_lesson_is_cut_at_its_limit_with_all_that_it_has_started(tmp_path):
    script = (
        "import subprocess, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    )
    pid_file = tmp_path / "pid"
    script = script.replace("print(p.pid, flush=True)", f"open({str(pid_file)!r}, 'w').write(str(p.pid))")
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        lessons.run_within([sys.executable, "-c", script], dict(os.environ), 3)
    assert time.monotonic() - start < 30
    assert not runs(int(pid_file.read_text()))


def test_lesson_tells_minutes_memory_and_checks(make_job, monkeypatch):
    place = make_place(make_job("tiny"))
    (place.home / "models" / place.lane.folder).mkdir(parents=True)

    def run(command, environment, seconds):
        assert (environment["KIT_LANE"], environment["OPEN_LLM_KIT_HOME"]) == ("tiny", str(place.home))
        output = lessons.Path(command[command.index("--output") + 1])
        output.mkdir(parents=True)
        (output / "report.json").write_text('{"notebooks": [{"minutes": 1.5, "peak_mb": 700}]}')
        text = ["✅ one\n", "❌ not yet: two. What to do: three\n", "✅ four\n"]
        notebook = {"cells": [{"outputs": [{"text": text}]}, {}]}
        (output / "01_weights.ipynb").write_text(json.dumps(notebook))
        return 1, "all\nerror: it broke\n", 3.0

    monkeypatch.setattr(lessons, "run_within", run)
    path = PROJECT / "notebooks" / "01_weights.ipynb"
    assert lessons.run_lesson(place, path, 60) == {
        "card_gb": 3.0, "minutes": 1.5, "peak_mb": 700, "checks_passed": 2, "checks_not_passed": 1,
        "error": "error: it broke",
    }  # fmt: skip


@pytest.mark.parametrize("act_order", [False, True])
def test_replica_in_4_bits_has_the_tensors_of_its_shape(act_order):
    sizes = name_sizes(layers=2, hidden=128, intermediate=256, heads=4, kv_heads=2) | {"vocab_size": 50}
    first, _, rest = draw_tensors(sizes, 32, act_order, "cpu")
    assert len(first) == 7 * 4 + 2
    assert first["model.layers.0.self_attn.k_proj.qweight"].shape == (128 // 8, 64)
    assert first["model.layers.0.mlp.down_proj.scales"].shape == (256 // 32, 128)
    order = first["model.layers.0.mlp.down_proj.g_idx"]
    assert torch.equal(order.bincount(), torch.full((8,), 32))
    assert bool((order.diff() < 0).any()) == act_order
    assert rest["lm_head.weight"].shape == (50, 128)


@pytest.mark.real
@needs_embedded
def test_embedded_replica_has_the_real_one_s_tokenizer_and_sizes_and_other_weights(tmp_path):
    folder = make_embedded_replica(write_head(GGUF, tmp_path / "head"), tmp_path / "models" / "replica")
    real = GGUF.parent.with_name("SmolLM2-135M-Instruct")
    assert (folder / "tokenizer.json").read_bytes() == (real / "tokenizer.json").read_bytes()
    assert (folder / "config.json").read_bytes() == (real / "config.json").read_bytes()
    weights, others = (path / "model.safetensors" for path in (folder, real))
    assert weights.stat().st_size == others.stat().st_size
    assert weights.read_bytes() != others.read_bytes()
    assert (folder.with_name("replica-GGUF") / GGUF.name).stat().st_size == GGUF.stat().st_size


@pytest.fixture
def carried(tmp_path):
    """What a machine without models gets for the replicas."""
    pytest.importorskip("gptqmodel", reason="gptqmodel is for Linux: pip install -e '.[gptq]'")
    folder = tmp_path / "carried"
    (folder / LLAMA_2).mkdir(parents=True)
    for path in find_tokenizer("llama2").iterdir():
        (folder / LLAMA_2 / path.name).write_bytes(path.read_bytes())
    write_head(GGUF, folder / HEAD)
    return folder


@pytest.mark.slow
@needs_embedded
@needs_tokenizer
@pytest.mark.timeout(2400)
def test_every_lesson_runs_on_a_model_of_two_layers_in_4_bits(carried, make_job):
    place = make_place(make_job("t4"))
    lessons.make_home(place)
    found = {path.stem: lessons.run_lesson(place, path, 1200) for path in list_lessons(PROJECT / "notebooks")}
    assert {name: result.get("error", "") for name, result in found.items()} == dict.fromkeys(found, "")


@pytest.mark.long
@needs_embedded
@needs_tokenizer
@pytest.mark.timeout(1200)
def test_short_form_of_the_lessons_runs_on_replicas(carried, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OPEN_LLM_KIT_HOME", str(home))
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", "lessons", "--minutes", "12"]
    command += ["--out", str(tmp_path / "out"), "--carried", str(carried)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert [result["contestant"] for result in results] == [
        f"lane {lane}, replica with random weights: {what}"
        for lane in ("tiny", "t4", "large")
        for what in ("the model's folder", "01_weights")
    ]
    assert [result.get("error", "") for result in results] == [""] * 6
    assert all(result["minutes"] > 0 and result["checks_passed"] > 0 for result in results[1::2])
