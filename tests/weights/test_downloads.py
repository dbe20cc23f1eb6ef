"""The real huggingface_hub with a hub on this machine, through the command that a user types."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import NamedTuple

import pytest
from support.fake_hub import TOKEN, start_fake_hub
from support.holder import hold_elsewhere
from support.proxy import name_proxy, run_proxy
from support.tiny import make_tiny_model

from helpers import weights

pytestmark = pytest.mark.long  # each test starts the command in a process of its own

REPO = "TheBloke/Tiny-GPTQ"  # two branches
GATED = "meta-llama/Tiny"
PICKLES = "acme/pickled"  # its weights are pickles only
GGUFS = "acme/ggufs"  # two GGUF files
SPLIT = "acme/split"  # one GGUF model in two parts, in a lower folder
EMPTY = "acme/empty"  # no weights
BRANCH = "gptq-4bit-32g-actorder_True"
WEIGHTS_PATH = r"cdn.*model\.safetensors"

# `python -m helpers.weights`, which also prints the class of the error with which it ends.
COMMAND = """
import sys
from helpers.common.command import run_command
from helpers.weights.__main__ import main

def name_errors(arguments):
    try:
        return main(arguments)
    except Exception as error:
        print("class:", type(error).__name__, file=sys.stderr)
        raise

sys.exit(run_command(name_errors))
"""


class Done(NamedTuple):
    """How the command ended."""

    code: int
    output: str
    kind: str | None  # class of the error
    error: str  # the line on stderr

    @property
    def json(self):
        return json.loads(self.output)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a complete model folder: {name: content}."""
    folder = make_tiny_model(tmp_path_factory.mktemp("made") / "tiny")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(files):
    """A hub with the repositories that are named above."""
    hub, server = start_fake_hub()
    extra = {"README.md": b"# Tiny", "notes.bin": b"x" * 1000, "onnx/model.safetensors": b"y" * 1000}
    settings = json.dumps({"bits": 4, "group_size": 32, "desc_act": True})
    branch = {**files, "quantize_config.json": settings.encode()}
    hub.repos[REPO] = {"main": {**files, **extra}, BRANCH: branch}
    hub.repos[GATED] = {"main": dict(files)}
    hub.gated[GATED] = False
    without_weights = {name: content for name, content in files.items() if name != "model.safetensors"}
    hub.repos[PICKLES] = {"main": {**without_weights, "pytorch_model.bin": b"pickle"}}
    hub.repos[EMPTY] = {"main": {"README.md": b"# Nothing yet"}}
    config = b'{"model_type": "llama"}'
    hub.repos[GGUFS] = {"main": {"a.Q4.gguf": b"GGUF4", "a.Q8.gguf": b"GGUF8888", "config.json": config}}
    parts = {f"Q8/a-{number:05}-of-00002.gguf": b"GGUF" * number for number in (1, 2)}
    hub.repos[SPLIT] = {"main": {**parts, "mmproj-a.gguf": b"GGUF"}}
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(hub, home, tmp_path):
    """Runs the command with this hub. No output ever contains the token."""

    def run(*arguments, token=None, **changes):
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HOME": str(tmp_path / "hf"), **changes}
        if token:
            environment["HF_TOKEN"] = token
        command = [sys.executable, "-c", COMMAND, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert not token or token not in done.stdout + done.stderr
        if done.returncode == 0:
            return Done(0, done.stdout, None, done.stderr)
        kind, error = done.stderr.splitlines()  # exactly one line besides the class
        return Done(done.returncode, done.stdout, kind.removeprefix("class: "), error)

    return run


def count_bytes(files):
    return {name: len(content) for name, content in files.items()}


def test_model_is_fetched_with_what_a_loader_needs_and_nothing_else(hub, run, home, files):
    folder = home / "models" / "TheBloke_Tiny-GPTQ"
    assert run("fetch", REPO, "--json").json == {"folder": str(folder)}
    assert {path.name for path in folder.iterdir()} == {*files, "weights.json"}
    assert weights.find_model("TheBloke_Tiny-GPTQ").path == folder
    assert [path.name for path in (home / "models").iterdir()] == [folder.name]
    record = json.loads((folder / "weights.json").read_text())
    assert record["source"] == REPO
    assert record["files"]["model.safetensors"]["bytes"] == len(files["model.safetensors"])


def test_model_that_is_there_is_not_downloaded_again(hub, run):
    run("fetch", REPO, "--json")
    before = dict(hub.sent)
    assert run("fetch", REPO).code == 0
    assert hub.sent == before


def test_command_runs_as_a_module(hub, home, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [sys.executable, "-m", "helpers.weights", "fetch", REPO, "--json"]
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120)
    assert weights.list_models() == ["TheBloke_Tiny-GPTQ"]


def test_branch_has_its_own_folder(run, home):
    run("fetch", REPO, "--revision", BRANCH, "--json")
    name = f"TheBloke_Tiny-GPTQ_{BRANCH}"
    assert weights.find_model(name).path == home / "models" / name


def test_branches_are_a_table_for_people_and_json_for_programs(run, files):
    table = run("branches", REPO).output
    main, branch = [line.split() for line in table.splitlines()[1:]]
    assert main[:4] == ["main", "16", "-", "-"]
    assert branch[:4] == [BRANCH, "4", "32", "True"]
    assert branch[-1] == "yes"
    found = run("branches", REPO, "--json").json
    assert found[1]["quantization"] == {"bits": 4, "group_size": 32, "act_order": True}
    assert found[0]["disk_bytes"] == sum(map(len, files.values()))
    assert found[0]["memory_bytes"] > found[0]["disk_bytes"]


def test_size_is_known_before_the_download_and_the_same_after_it(run, hub):
    before = run("size", REPO, "--revision", BRANCH, "--json").json
    assert "model.safetensors" not in hub.sent
    run("fetch", REPO, "--revision", BRANCH, "--json")
    after = run("size", f"TheBloke_Tiny-GPTQ_{BRANCH}", "--json").json
    assert (before["running"], before["training"]) == (after["running"], after["training"])
    assert after["disk_bytes"] > before["disk_bytes"]  # weights.json has been added
    text = run("size", f"TheBloke_Tiny-GPTQ_{BRANCH}").output
    assert all(term["formula"] in text for term in before["running"] + before["training"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["branches", GGUFS], ["a.Q4.gguf", "a.Q8.gguf", "--file"]),
        (["branches", "Tiny-GPTQ"], ["'Tiny-GPTQ'", "OWNER/REPO"]),
        (["size", EMPTY], [EMPTY, "config.json"]),
        (["size", "nothing"], ["'nothing'"]),
        (["size", "smollm2-135m-instruct"], ["python -m helpers.weights fetch smollm2-135m-instruct"]),
    ],
)
def test_missing_size_is_explained(run, arguments, parts):
    done = run(*arguments)
    assert done.code == 2
    assert all(part in done.error for part in parts), done.error


@pytest.mark.parametrize(
    ("arguments", "kind", "parts"),
    [
        (["branches", "acme/nothing"], "NotFoundError", ["/acme/nothing", "hf auth login"]),
        (["size", "https://huggingface.co/acme/a"], "UsageError", ["OWNER/REPO"]),
    ],
)
def test_refusal_of_the_hub_is_explained_before_a_download_too(run, arguments, kind, parts):
    done = run(*arguments)
    assert (done.code, done.kind) == (2, kind)
    assert all(part in done.error for part in parts), done.error


def test_cut_in_the_middle_of_a_file_is_repaired_in_the_same_run(hub, run, files):
    hub.faults = [(WEIGHTS_PATH, "cut", 5000)]
    assert run("fetch", REPO, "--json").code == 0
    assert hub.sent["model.safetensors"] == len(files["model.safetensors"])


def test_connection_that_brings_nothing_ends_after_five_tries_and_what_arrived_is_kept(hub, run, files):
    hub.faults = [(WEIGHTS_PATH, "cut", 5000), *[(WEIGHTS_PATH, "cut", 0)] * 5]
    done = run("fetch", REPO, "--json")
    assert (done.code, done.kind) == (2, "ServerError")
    assert hub.url in done.error and REPO in done.error
    assert hub.faults == []  # all five tries were made
    assert run("fetch", REPO, "--json").code == 0
    assert hub.sent["model.safetensors"] == len(files["model.safetensors"])


def test_proxy_that_ignores_ranges_does_no_harm(hub, run, home, files):
    hub.faults = [(WEIGHTS_PATH, "cut", 5000), (WEIGHTS_PATH, "whole", None)]
    assert run("fetch", REPO, "--json").code == 0
    fetched = home / "models" / "TheBloke_Tiny-GPTQ" / "model.safetensors"
    assert fetched.read_bytes() == files["model.safetensors"]


# {name: (status and headers, how often, class of the error, what the message contains)}
REFUSALS = {
    "failure": ((503, {}), 1, "ServerError", ["503"]),
    "too-many": ((429, {"Retry_After": "1"}), 3, "ServerError", [" 1 "]),  # waits twice before
    "gone": ((404, {"X_Error_Code": "EntryNotFound"}), 1, "NotFoundError", ["/tree/main"]),
    "forbidden": ((403, {}), 1, "ServerError", ["settings/tokens"]),
    "credentials": (
        (401, {"X_Error_Message": "Invalid credentials in Authorization header"}),
        1,
        "ServerError",
        ["settings/tokens", "hf auth login"],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_retry_after_a_refusal_downloads_only_the_missing_bytes(hub, run, files, name):
    answer, times, kind, parts = REFUSALS[name]
    hub.faults = [(WEIGHTS_PATH, "cut", 5000), *[(WEIGHTS_PATH, "status", answer)] * times]
    done = run("fetch", REPO, "--json")
    assert (done.code, done.kind) == (2, kind)
    assert all(part in done.error for part in [REPO, *parts]), done.error
    assert weights.list_models() == []
    assert run("fetch", REPO, "--json").code == 0
    assert hub.sent == count_bytes(files)


def test_flipped_byte_is_found_and_only_that_file_is_downloaded_again(hub, run, files):
    hub.faults = [(WEIGHTS_PATH, "flip", 20_000), ("resolve.*config.json", "slow", 0.5)]
    done = run("fetch", REPO, "--json")
    assert (done.code, done.kind) == (2, "DamagedError")
    assert "model.safetensors" in done.error
    assert weights.list_models() == []
    assert run("fetch", REPO, "--json").code == 0
    expected = count_bytes(files)
    expected["model.safetensors"] *= 2
    assert hub.sent == expected


def test_flipped_byte_in_a_small_file_is_found_too(hub, run):
    hub.faults = [(r"resolve.*/config\.json", "flip", 10)]
    done = run("fetch", REPO, "--json")
    assert (done.code, done.kind) == (2, "DamagedError")
    assert "config.json" in done.error


@pytest.mark.parametrize(
    ("arguments", "token", "kind", "parts"),
    [
        ([GATED], None, "ServerError", [f"/{GATED}", "hf auth login"]),
        ([GATED], TOKEN, "ServerError", [f"/{GATED}"]),
        ([GATED], "hf_wrong", "ServerError", [GATED, "settings/tokens"]),
        (["acme/nothing"], None, "NotFoundError", ["/acme/nothing"]),
        (["acme/a/b"], None, "UsageError", ["'acme/a/b'", "OWNER/REPO"]),
        (["../outside"], None, "UsageError", ["'../outside'", "OWNER/REPO"]),
        ([REPO, "--revision", "gptq-4bit-32g"], None, "NotFoundError", ["'gptq-4bit-32g'", BRANCH]),
    ],
)
def test_every_refusal_of_the_hub_is_explained_and_leaves_nothing(run, arguments, token, kind, parts):
    done = run("fetch", *arguments, "--json", token=token)
    assert (done.code, done.kind) == (2, kind)
    assert all(part in done.error for part in parts), done.error
    assert weights.list_models() == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([PICKLES], [PICKLES, "--pickle"]),
        ([GGUFS], [GGUFS, "a.Q4.gguf", "--file"]),
        ([GGUFS, "--file", "b.gguf"], ["b.gguf", "a.Q8.gguf"]),
    ],
)
def test_files_that_cannot_be_chosen_are_explained_and_leave_nothing(run, arguments, parts):
    done = run("fetch", *arguments, "--json")
    assert done.code == 2
    assert all(part in done.error for part in parts), done.error
    assert weights.list_models() == []


def test_gate_opens_for_an_account_with_access_and_the_token_stays_with_the_hub(hub, run, home):
    hub.gated[GATED] = True
    assert run("fetch", GATED, "--json", token=TOKEN).code == 0
    assert hub.tokens and set(hub.tokens) == {""}  # the content is on another host
    written = [path for path in (home / "models").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_pickles_are_fetched_if_they_are_asked_for(run, home):
    assert run("fetch", PICKLES, "--pickle", "--json").code == 0
    assert (home / "models" / "acme_pickled" / "pytorch_model.bin").is_file()


def test_one_gguf_file_is_fetched_by_its_name(run, home):
    assert run("fetch", GGUFS, "--file", "a.Q8.gguf", "--json").code == 0
    folder = home / "models" / "acme_ggufs"
    assert {path.name for path in folder.iterdir()} == {"a.Q8.gguf", "weights.json"}


def test_gguf_in_parts_is_fetched_whole(run, home):
    assert run("fetch", SPLIT, "--json").code == 0
    parts = weights.find_model("acme_split").gguf_parts
    assert [path.read_bytes() for path in parts] == [b"GGUF", b"GGUFGGUF"]
    assert {path.name for path in (home / "models" / "acme_split").glob("*.gguf")} == {p.name for p in parts}


def test_hub_that_is_out_of_reach_is_named(run):
    done = run("fetch", REPO, HF_ENDPOINT="http://127.0.0.1:9")
    assert (done.code, done.kind) == (2, "ServerError")
    assert "http://127.0.0.1:9" in done.error and REPO in done.error


def test_address_without_https_is_a_wrong_setting(run):
    done = run("fetch", REPO, HF_ENDPOINT="huggingface.co")
    assert (done.code, done.kind) == (2, "UsageError")
    assert "HF_ENDPOINT" in done.error and "https://" in done.error


def test_server_that_is_not_a_hub_is_recognised(run, hub):
    done = run("fetch", REPO, HF_ENDPOINT=hub.url + "/elsewhere")
    assert (done.code, done.kind) == (2, "ServerError")
    assert "HF_ENDPOINT" in done.error


def test_answer_that_is_not_json_is_recognised(run, hub):
    hub.faults = [("api/models", "status", (200, {}))]
    done = run("fetch", REPO)
    assert (done.code, done.kind) == (2, "ServerError")
    assert "HF_ENDPOINT" in done.error


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.getuid() != 0,
    reason="a small disk is mounted as tmpfs, which takes root on Linux",
)
def test_full_disk_is_refused_before_the_first_byte(hub, run, home):
    small = home / "models"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this system does not let the tests mount a tmpfs")
    try:
        done = run("fetch", REPO, "--json")
        assert (done.code, done.kind) == (2, "ResourceError")
        assert str(small) in done.error and "OPEN_LLM_KIT_HOME" in done.error
        assert hub.sent == {}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_second_fetch_of_a_model_is_refused_in_words_until_the_first_is_killed(hub, run, home):
    with hold_elsewhere(home / "models" / REPO.replace("/", "_"), "fetching") as process:
        done = run("fetch", REPO)
    assert (done.code, done.kind) == (2, "AlreadyThereError")
    assert f"process {process.pid}" in done.error
    assert hub.sent == {}
    assert run("fetch", REPO).code == 0


def test_git_command_runs_as_printed(home, tmp_path):
    origin = tmp_path / "Tiny-GPTQ"
    origin.mkdir()
    git = ["git", "-C", str(origin), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (
        ["init", "--quiet", "-b", "main"],
        ["commit", "--quiet", "--allow-empty", "-m", "one"],
        ["branch", BRANCH],
    ):
        subprocess.run([*git, *arguments], check=True)
    printed = weights.write_git_command(REPO, BRANCH)
    command = printed.replace("https://huggingface.co/TheBloke", str(tmp_path))
    subprocess.run(command, shell=True, cwd=home, check=True, capture_output=True)
    cloned = home / "models" / f"TheBloke_Tiny-GPTQ_{BRANCH}"
    list_branches = ["git", "-C", str(cloned), "branch", "-a", "--format=%(refname:short)"]
    branches = subprocess.run(list_branches, capture_output=True, text=True, check=True).stdout
    assert BRANCH in branches and "main" not in branches


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_hub_on_this_computer_is_asked_without_a_proxy(hub, run, host):
    with run_proxy() as (address, reached):
        url = hub.url.replace("127.0.0.1", host)
        run("fetch", REPO, HF_ENDPOINT=url, NO_PROXY="", no_proxy="", **name_proxy("http", address))
    assert reached == []


def test_remote_hub_is_asked_through_the_proxy(run):
    with run_proxy() as (address, reached):
        done = run("branches", REPO, HF_ENDPOINT="http://hub.test", **name_proxy("http", address))
    assert done.kind == "ServerError"
    assert f"GET http://hub.test/api/models/{REPO}/refs HTTP/1.1" in reached


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="socksio is here")
def test_socks_proxy_that_cannot_be_used_is_one_line(hub, run):
    assert run("branches", REPO, ALL_PROXY="socks5://127.0.0.1:9").kind == "MissingPackageError"
