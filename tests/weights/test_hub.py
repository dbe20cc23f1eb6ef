"""The real huggingface_hub against a hub on this machine, through the command that a user types."""

import json
import os
import subprocess
import sys

import pytest
from support.fake_hub import TOKEN, start_fake_hub
from support.tiny import make_tiny_model

from helpers import KitError, weights
from helpers.weights.fetching import choose_files
from helpers.weights.hub import RemoteFile, download_files
from helpers.weights.hub_errors import explain_hub_errors

pytestmark = pytest.mark.long  # each starts the command in a process of its own
REPO, OLD = "TheBloke/Tiny-GPTQ", "acme/pickled"
BRANCH = "gptq-4bit-32g-actorder_True"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a complete model folder: {name: bytes}."""
    folder = make_tiny_model(tmp_path_factory.mktemp("made") / "tiny")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def fake(files):
    """A hub with a repository of two branches, a gated one, one with pickles only, one with two GGUF files, an empty one."""
    fake, server = start_fake_hub()
    extra = {"README.md": b"# Tiny", "notes.bin": b"x" * 1000, "onnx/model.safetensors": b"y" * 1000}
    quantized = {"quantize_config.json": json.dumps({"bits": 4, "group_size": 32, "desc_act": True}).encode()}
    fake.repos[REPO] = {"main": {**files, **extra}, BRANCH: {**files, **quantized}}
    fake.repos["meta-llama/Tiny"] = {"main": dict(files)}
    fake.gated["meta-llama/Tiny"] = False
    fake.repos[OLD] = {
        "main": {
            **{n: b for n, b in files.items() if n != "model.safetensors"},
            "pytorch_model.bin": b"pickle",
        }
    }
    fake.repos["acme/empty"] = {"main": {"README.md": b"# Nothing yet"}}
    fake.repos["acme/ggufs"] = {
        "main": {"a.Q4.gguf": b"GGUF4", "a.Q8.gguf": b"GGUF8888", "config.json": b'{"model_type": "llama"}'}
    }
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(fake, home, tmp_path):
    """Runs `python -m helpers.weights` against the hub: (exit code, output, error lines)."""

    def run(*arguments, token=None, **environment):
        settings = {
            **os.environ,
            "HF_ENDPOINT": fake.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            **environment,
        }
        settings |= {"HF_TOKEN": token} if token else {}
        done = subprocess.run(
            [sys.executable, "-m", "helpers.weights", *arguments],
            env=settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not token or token not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr.strip().splitlines()

    return run


def test_model_is_fetched_with_what_a_loader_needs_and_nothing_else(fake, run, home, files):
    code, output, _ = run("fetch", REPO, "--json")
    folder = home / "models" / "TheBloke_Tiny-GPTQ"
    assert code == 0 and json.loads(output) == {"folder": str(folder)}
    assert {path.name for path in folder.iterdir()} == {*files, "weights.json"}
    assert weights.find_model("TheBloke_Tiny-GPTQ") == folder and [
        p.name for p in (home / "models").iterdir()
    ] == [folder.name]
    record = json.loads((folder / "weights.json").read_text())
    assert record["source"] == REPO and record["files"]["model.safetensors"]["bytes"] == len(
        files["model.safetensors"]
    )
    before = dict(fake.sent)
    assert run("fetch", REPO)[0] == 0 and fake.sent == before


def test_branch_has_a_folder_of_its_own(run, home):
    assert run("fetch", REPO, "--revision", BRANCH, "--json")[0] == 0
    assert (
        weights.find_model(f"TheBloke_Tiny-GPTQ_{BRANCH}") == home / "models" / f"TheBloke_Tiny-GPTQ_{BRANCH}"
    )


def test_branches_are_a_table_for_people_and_json_for_programs(run, files):
    code, table, _ = run("branches", REPO)
    main, branch = [line.split() for line in table.splitlines()[1:]]
    assert (
        code == 0
        and main[:4] == ["main", "16", "-", "-"]
        and branch[:4] == [BRANCH, "4", "32", "True"]
        and branch[-1] == "yes"
    )
    found = json.loads(run("branches", REPO, "--json")[1])
    assert found[1]["quantization"] == {"bits": 4, "group_size": 32, "act_order": True}
    assert (
        found[0]["disk_bytes"] == sum(map(len, files.values()))
        and found[0]["memory_bytes"] > found[0]["disk_bytes"]
    )


def test_size_is_told_before_the_download_and_the_same_after_it(run, fake):
    before = json.loads(run("size", REPO, "--revision", BRANCH, "--json")[1])
    assert "model.safetensors" not in fake.sent
    assert run("fetch", REPO, "--revision", BRANCH, "--json")[0] == 0
    after = json.loads(run("size", f"TheBloke_Tiny-GPTQ_{BRANCH}", "--json")[1])
    assert (before["running"], before["training"]) == (after["running"], after["training"])
    assert after["disk_bytes"] > before["disk_bytes"]  # weights.json has come to it
    code, text, _ = run("size", f"TheBloke_Tiny-GPTQ_{BRANCH}")
    assert code == 0 and "to train a LoRA" in text and "KV cache: 2 x 2 layers" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["branches", "acme/ggufs"], "a.Q4.gguf (0.00 GB), a.Q8.gguf (0.00 GB). Running one takes"),
        (["branches", "acme/nothing"], "knows no acme/nothing"),
        (["branches", "Tiny-GPTQ"], "Write it as OWNER/REPO"),
        (["size", "https://huggingface.co/acme/a"], "Write it as OWNER/REPO, not as an address"),
        (["size", "acme/empty"], "no config.json"),
        (["size", "nothing"], "No model 'nothing'"),
        (
            ["size", "smollm2-135m-instruct"],
            "Fetch it: python -m helpers.weights fetch smollm2-135m-instruct",
        ),
    ],
)
def test_what_has_no_size_is_said(run, arguments, message):
    code, _, error = run(*arguments)
    assert code == 2 and len(error) == 1 and message in error[0]


def test_cut_in_mid_file_is_mended_in_the_same_run(fake, run, files):
    fake.faults = [(r"cdn.*model\.safetensors", "cut", 5000)]
    assert run("fetch", REPO, "--json")[0] == 0
    assert fake.sent["model.safetensors"] == len(files["model.safetensors"])


def test_connection_that_brings_nothing_ends_after_five_tries_and_keeps_what_there_is(fake, run, files):
    fake.faults = [(r"cdn.*model\.safetensors", "cut", 5000), *[(r"cdn.*model\.safetensors", "cut", 0)] * 5]
    code, _, error = run("fetch", REPO, "--json")
    assert code == 2 and len(error) == 1 and f"{fake.url} cannot be reached for {REPO}" in error[0]
    assert run("fetch", REPO, "--json")[0] == 0 and fake.sent["model.safetensors"] == len(
        files["model.safetensors"]
    )


def test_proxy_that_ignores_ranges_does_no_harm(fake, run, home, files):
    fake.faults = [(r"cdn.*model\.safetensors", "cut", 5000), (r"cdn.*model\.safetensors", "whole", None)]
    assert run("fetch", REPO, "--json")[0] == 0
    assert (home / "models" / "TheBloke_Tiny-GPTQ" / "model.safetensors").read_bytes() == files[
        "model.safetensors"
    ]


def test_disk_that_fills_up_is_not_called_a_network():
    with (
        pytest.raises(KitError, match="acme/x cannot be written .No space left on device"),
        explain_hub_errors("acme/x"),
    ):
        raise OSError(28, "No space left on device")


def test_weights_under_two_names_come_once():
    names = ("model.safetensors", "consolidated.safetensors", "config.json", "README.md")
    chosen = choose_files("acme/x", [RemoteFile(name, 1, None, "") for name in names])
    assert {file.name for file in chosen} == {"model.safetensors", "config.json"}


FAULTS = {
    "trouble": ((503, {}), "The hub is in trouble (HTTP 503)"),
    "crowd": ((429, {"Retry_After": "1"}), "Wait 1 seconds"),
    "gone": ((404, {"X_Error_Code": "EntryNotFound"}), "no such file any more"),
    "forbidden": ((403, {}), "may not read"),
    "credentials": (
        (401, {"X_Error_Message": "Invalid credentials in Authorization header"}),
        "refuses your token",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_retry_after_a_fault_moves_only_the_missing_bytes(fake, run, home, files, fault):
    status, message = FAULTS[fault]
    times = 3 if fault == "crowd" else 1  # a 429 is waited out twice
    fake.faults = [
        (r"cdn.*model\.safetensors", "cut", 5000),
        *[(r"cdn.*model\.safetensors", "status", status)] * times,
    ]
    code, _, error = run("fetch", REPO, "--json")
    assert code == 2 and len(error) == 1 and message in error[0] and REPO in error[0]
    assert weights.list_models() == []
    assert run("fetch", REPO, "--json")[0] == 0
    assert fake.sent == {name: len(content) for name, content in files.items()}


def test_flipped_byte_is_found_and_only_that_file_repeated(fake, run, files):
    fake.faults = [(r"cdn.*model\.safetensors", "flip", 20_000), ("resolve.*config.json", "slow", 0.5)]
    code, _, error = run("fetch", REPO, "--json")
    assert code == 2 and "model.safetensors arrived damaged" in error[0] and weights.list_models() == []
    assert run("fetch", REPO, "--json")[0] == 0
    assert fake.sent == {
        name: len(content) * (1 + (name == "model.safetensors")) for name, content in files.items()
    }


def test_flipped_byte_in_a_small_file_is_found_too(fake, run):
    fake.faults = [(r"resolve.*/config\.json", "flip", 10)]
    code, _, error = run("fetch", REPO, "--json")
    assert code == 2 and "config.json arrived damaged" in error[0]


@pytest.mark.parametrize(
    ("arguments", "token", "messages"),
    [
        (["meta-llama/Tiny"], None, ["gated, and there is no token", "/meta-llama/Tiny", "hf auth login"]),
        (["meta-llama/Tiny"], TOKEN, ["the account of your token has no access", "Meta's form"]),
        (["meta-llama/Tiny"], "hf_wrong", ["refuses your token", "settings/tokens"]),
        (["acme/nothing"], None, ["knows no acme/nothing"]),
        (["acme/a/b"], None, ["no repository name"]),
        (
            [REPO, "--revision", "gptq-4bit-32g"],
            None,
            ["no revision 'gptq-4bit-32g'", f"nearest branches: {BRANCH}"],
        ),
        ([OLD], None, ["pickles only", "--pickle"]),
        (["acme/ggufs"], None, ["2 GGUF files", "a.Q4.gguf (0.00 GB)", "--file"]),
        (["acme/ggufs", "--file", "b.gguf"], None, ["has no b.gguf", "a.Q8.gguf"]),
        (["../outside"], None, ["'../outside' is no repository name"]),
    ],
)
def test_every_refusal_has_its_own_words_and_leaves_nothing(run, home, arguments, token, messages):
    code, _, error = run("fetch", *arguments, "--json", token=token)
    assert code == 2 and len(error) == 1 and all(message in error[0] for message in messages), error
    assert weights.list_models() == []


def test_gate_opens_for_an_account_that_was_let_in_and_the_token_stays_with_the_hub(fake, run, home):
    fake.gated["meta-llama/Tiny"] = True
    assert run("fetch", "meta-llama/Tiny", "--json", token=TOKEN)[0] == 0
    assert fake.tokens and set(fake.tokens) == {""}  # the bytes lie on another host
    assert not any(
        TOKEN.encode() in path.read_bytes() for path in (home / "models").rglob("*") if path.is_file()
    )


def test_pickles_come_when_asked_for_and_one_gguf_by_its_name(run, home):
    assert (
        run("fetch", OLD, "--pickle", "--json")[0] == 0
        and run("fetch", "acme/ggufs", "--file", "a.Q8.gguf", "--json")[0] == 0
    )
    assert (home / "models" / "acme_pickled" / "pytorch_model.bin").is_file()
    assert {path.name for path in (home / "models" / "acme_ggufs").iterdir()} == {"a.Q8.gguf", "weights.json"}


def test_no_network_is_said_in_one_line(run):
    code, _, error = run("fetch", REPO, HF_ENDPOINT="http://127.0.0.1:9")
    assert (
        code == 2
        and len(error) == 1
        and "http://127.0.0.1:9 cannot be reached" in error[0]
        and "Check the network" in error[0]
    )
    assert "Begin HF_ENDPOINT with https://" in run("fetch", REPO, HF_ENDPOINT="huggingface.co")[2][0]


def test_what_is_no_hub_is_said(run, fake):
    code, _, error = run("fetch", REPO, HF_ENDPOINT=fake.url + "/elsewhere")
    assert code == 2 and len(error) == 1


def test_two_fetches_of_one_model_do_not_meet(home, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(KitError, match="Another process is fetching acme/x"):
        download_files("acme/x", "c", [], tmp_path)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.getuid() != 0,
    reason="a small disk is mounted as tmpfs, which takes root on Linux",
)
def test_full_disk_is_refused_before_the_first_byte(fake, run, home):
    small = home / "models"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)], capture_output=True
    ).returncode:
        pytest.skip("this system does not let the tests mount a tmpfs")
    try:
        code, _, error = run("fetch", REPO, "--json")
        assert code == 2 and "the disk of" in error[0] and "OPEN_LLM_KIT_HOME" in error[0] and fake.sent == {}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_clone_without_lfs_is_recognised(home):
    folder = make_tiny_model(home / "models" / "cloned")
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    )
    with pytest.raises(KitError, match="only a pointer .* git lfs pull"):
        weights.find_model("cloned")


def test_git_command_runs_as_printed(home, tmp_path):
    origin = tmp_path / "Tiny-GPTQ"
    origin.mkdir()
    git = ["git", "-C", str(origin), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (
        ["init", "--quiet", "-b", "main"],
        ["commit", "--quiet", "--allow-empty", "-m", "one"],
        ["branch", BRANCH],
    ):
        subprocess.run([*git, *command], check=True)
    command = weights.write_git_command(REPO, BRANCH).replace(
        "https://huggingface.co/TheBloke", str(tmp_path)
    )
    subprocess.run(command, shell=True, cwd=home, check=True, capture_output=True)
    cloned = home / "models" / f"TheBloke_Tiny-GPTQ_{BRANCH}"
    branches = subprocess.run(
        ["git", "-C", str(cloned), "branch", "-a", "--format=%(refname:short)"],
        capture_output=True,
        text=True,
    ).stdout
    assert BRANCH in branches and "main" not in branches
