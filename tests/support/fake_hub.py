"""A model hub on 127.0.0.1, with the answers that huggingface_hub asks for, and with faults.

The answers: model info, branches, and files. Small files come directly, large ones through a redirect to
another host; ranges and ETags are supported.
"""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_secret"  # the only one that the hub accepts
LARGE = (".safetensors", ".gguf", ".bin", ".model")  # kept in LFS, as on the real hub

MODEL_INFO = re.compile(r"/api/models/(.+?/.+?)(?:/revision/(.+))?")
BRANCHES = re.compile(r"/api/models/(.+?/.+?)/refs")
FILE = re.compile(r"/(.+?/.+?)/resolve/([^/]+)/(.+)")
LARGE_FILE = re.compile(r"/cdn/(.+?)//(.+?)//(.+)")


@dataclass
class FakeHub:
    """What the hub holds, who may read it, what goes wrong, and what it has sent."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # name: branch: file: content
    gated: dict[str, bool] = field(default_factory=dict)  # name: whether the account of TOKEN has access
    # (regular expression for the path, kind, value), each used once. Kinds: "status" with (status, headers),
    # "slow" with seconds, and those of HubHandler.send_content.
    faults: list[tuple[str, str, Any]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of content sent for each file name
    tokens: list[str] = field(default_factory=list)  # that arrived at the host of the large files
    url: str = ""

    def take_fault(self, path: str) -> tuple[str | None, Any]:
        """(kind, value) of the first fault for this path, which is used up; (None, None) if there is none."""
        for fault in self.faults:
            pattern, kind, value = fault
            if re.search(pattern, path):
                self.faults.remove(fault)
                return kind, value
        return None, None


def start_fake_hub() -> tuple[FakeHub, ThreadingHTTPServer]:
    """Serves an empty hub until the server is shut down."""
    hub = FakeHub()
    handler = type("Handler", (HubHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server


def name_commit(branch: str) -> str:
    """A branch's commit id, 40 hexadecimal digits."""
    return hashlib.sha1(branch.encode()).hexdigest()


def describe_file(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it: git's hash, and for a large file size and sha256 as well."""
    entry: dict[str, Any] = {
        "rfilename": name,
        "size": len(content),
        "blobId": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest(),
    }
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
    return entry


class HubHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        """Logs nothing."""

    def do_HEAD(self):
        """Like GET, without the content."""
        self.answer()

    def do_GET(self):
        """Model info, branches, and files."""
        self.answer()

    def answer(self) -> None:
        """Answers the request, or does what the first fault for its path says."""
        path = unquote(self.path.split("?")[0])
        fault = self.hub.take_fault(path)
        kind, value = fault
        if kind == "status":
            status, headers = value
            self.reply(status, **headers)
            return
        if kind == "slow":
            time.sleep(value)
        if match := BRANCHES.fullmatch(path):
            self.send_branches(match[1])
        elif match := MODEL_INFO.fullmatch(path):
            self.send_model_info(match[1], match[2] or "main")
        elif match := LARGE_FILE.fullmatch(path):
            self.send_large_file(match[1], match[2], match[3], fault)
        elif match := FILE.fullmatch(path):
            self.send_file(match[1], match[2], match[3], fault)
        else:
            self.reply(404)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Sends headers and body. An underscore in a header's name stands for a hyphen."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def reply_json(self, value: object) -> None:
        """Sends a JSON value."""
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def check_access(self, repo: str) -> bool:
        """True if the request may read the repository; otherwise refuses it as the real hub does."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            self.reply(401, X_Error_Message="Invalid credentials in Authorization header")
        elif repo not in self.hub.repos:
            self.reply(404 if token else 401, X_Error_Code="RepoNotFound")
        elif repo in self.hub.gated and not (token and self.hub.gated[repo]):
            self.reply(403 if token else 401, X_Error_Code="GatedRepo")
        else:
            return True
        return False

    def find_branch(self, repo: str, revision: str) -> str | None:
        """The branch with this name or commit id; None, after a refusal, if there is none."""
        for branch in self.hub.repos[repo]:
            if revision in (branch, name_commit(branch)):
                return branch
        self.reply(404, X_Error_Code="RevisionNotFound")
        return None

    def send_branches(self, repo: str) -> None:
        """The branches of a repository."""
        if not self.check_access(repo):
            return
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": name_commit(branch)}
            for branch in self.hub.repos[repo]
        ]
        self.reply_json({"branches": branches, "converts": [], "tags": []})

    def send_model_info(self, repo: str, revision: str) -> None:
        """Model info with the files of a revision. For a gated repository it is public; its files are not."""
        if repo not in self.hub.gated and not self.check_access(repo):
            return
        branch = self.find_branch(repo, revision)
        if branch is None:
            return
        files = [describe_file(name, content) for name, content in self.hub.repos[repo][branch].items()]
        info = {"id": repo, "modelId": repo, "sha": name_commit(branch), "siblings": files}
        self.reply_json({**info, "tags": [], "downloads": 1, "private": False})

    def send_file(self, repo: str, revision: str, name: str, fault: tuple[str | None, Any]) -> None:
        """A small file itself; for a large one the address of its content, on another host (localhost)."""
        if not self.check_access(repo):
            return
        branch = self.find_branch(repo, revision)
        if branch is None:
            return
        content = self.hub.repos[repo][branch].get(name)
        if content is None:
            self.reply(404, X_Error_Code="EntryNotFound")
        elif name.endswith(LARGE):
            other_host = self.hub.url.replace("127.0.0.1", "localhost")
            location = f"{other_host}/cdn/{repo}//{branch}//{name}"
            size = str(len(content))
            self.reply(302, Location=location, X_Repo_Commit=name_commit(branch), X_Linked_Size=size)
        else:
            self.send_content(name, content, fault)

    def send_large_file(self, repo: str, branch: str, name: str, fault: tuple[str | None, Any]) -> None:
        """The content of a large file, for everybody who has the address."""
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        self.send_content(name, self.hub.repos[repo][branch][name], fault)

    def send_content(self, name: str, content: bytes, fault: tuple[str | None, Any]) -> None:
        """The content from the first byte of the range that is asked for, with one of three faults.

        "whole" ignores the range, "cut" ends the connection after `value` bytes, "flip" changes byte `value`.
        """
        kind, value = fault
        start = 0
        ranged = kind != "whole" and "Range" in self.headers
        if ranged:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        body = content[start:]
        if kind == "flip":
            body = body[:value] + bytes([body[value] ^ 1]) + body[value + 1 :]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            body = body[:value]
            self.close_connection = True
        self.hub.sent[name] = self.hub.sent.get(name, 0) + len(body)
        self.wfile.write(body)
