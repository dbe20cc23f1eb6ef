"""A model hub on 127.0.0.1: the answers that huggingface_hub asks for (model info, refs, resolve with redirect, ETag and range), and faults."""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_secret"  # the only one that the hub knows
LARGE = (
    ".safetensors",
    ".gguf",
    ".bin",
    ".model",
)  # kept in LFS: sha256, and a redirect to where the bytes are


@dataclass
class FakeHub:
    """Repositories {name: {branch: {file: bytes}}}, who may read them, what goes wrong, and what was sent."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: dict[str, bool] = field(default_factory=dict)  # a name: whether the account of TOKEN was let in
    faults: list[tuple] = field(
        default_factory=list
    )  # (regular expression of the path, kind, value), each used once
    sent: dict[str, int] = field(default_factory=dict)  # bytes of content, a file
    tokens: list[str] = field(
        default_factory=list
    )  # seen where the bytes are, which is another host in earnest
    url: str = ""

    def take_fault(self, path: str) -> tuple[str | None, object]:
        """The first fault for this path, used up by it."""
        for fault in self.faults:
            if re.search(fault[0], path):
                self.faults.remove(fault)
                return fault[1], fault[2]
        return None, None


def commit_of(branch: str) -> str:
    """A commit id of 40 hexadecimal digits for a branch."""
    return hashlib.sha1(branch.encode()).hexdigest()


def start_fake_hub() -> tuple[FakeHub, ThreadingHTTPServer]:
    """Serves a hub with nothing in it until the server is shut down."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server


class HubHandler(BaseHTTPRequestHandler):
    """One request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing."""

    def do_HEAD(self):
        """As GET without the content."""
        self.answer()

    def do_GET(self):
        """Model info, refs, resolve, and the place of large files."""
        self.answer()

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Headers and body; an underscore in a header's name is a hyphen."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self) -> None:
        """Finds what is asked for; the first fault that fits comes in between."""
        path = unquote(self.path.split("?")[0])
        kind, value = self.hub.take_fault(path)
        if kind == "status":
            return self.reply(value[0], b"", **value[1])
        if kind == "slow":
            time.sleep(value)
        if match := re.fullmatch(r"/api/models/(.+?/.+?)(?:/(refs|revision)(?:/(.+))?)?", path):
            return self.describe(*match.groups())
        if match := re.fullmatch(r"/(.+?/.+?)/resolve/([^/]+)/(.+)", path):
            return self.resolve(*match.groups(), kind, value)
        if path.startswith("/cdn/"):
            return self.send_large(*path.removeprefix("/cdn/").split("//"), kind, value)
        return self.reply(404)

    def may_read(self, repo: str) -> bool:
        """Whether the token opens the repository; replies when it does not."""
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
        """The branch that a name or a commit means; replies when there is none."""
        for branch in self.hub.repos[repo]:
            if revision in (branch, commit_of(branch)):
                return branch
        self.reply(404, X_Error_Code="RevisionNotFound")
        return None

    def describe(self, repo: str, what: str | None, revision: str | None) -> None:
        """Model info with the files of a revision, or the branches."""
        if what == "refs":
            if self.may_read(repo):
                branches = [
                    {"name": b, "ref": f"refs/heads/{b}", "targetCommit": commit_of(b)}
                    for b in self.hub.repos[repo]
                ]
                self.reply(
                    200,
                    json.dumps({"branches": branches, "converts": [], "tags": []}).encode(),
                    Content_Type="application/json",
                )
            return
        # model info of a gated repository is public; its files are not
        if (repo in self.hub.gated or self.may_read(repo)) and (
            branch := self.find_branch(repo, revision or "main")
        ):
            files = [describe_file(name, content) for name, content in self.hub.repos[repo][branch].items()]
            body = {
                "id": repo,
                "modelId": repo,
                "sha": commit_of(branch),
                "siblings": files,
                "tags": [],
                "downloads": 1,
                "private": False,
            }
            self.reply(200, json.dumps(body).encode(), Content_Type="application/json")

    def resolve(self, repo: str, revision: str, name: str, kind: str | None, value: object) -> None:
        """A small file itself; for a large one the way to where its bytes are."""
        if not self.may_read(repo) or not (branch := self.find_branch(repo, revision)):
            return
        content = self.hub.repos[repo][branch].get(name)
        if content is None:
            self.reply(404, X_Error_Code="EntryNotFound")
        elif name.endswith(LARGE):
            location = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{repo}//{branch}//{name}"
            self.reply(
                302, Location=location, X_Repo_Commit=commit_of(branch), X_Linked_Size=str(len(content))
            )
        else:
            self.send_content(name, content, kind, value)

    def send_large(self, repo: str, branch: str, name: str, kind: str | None, value: object) -> None:
        """The bytes of a large file; whoever has the address may have them."""
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        self.send_content(name, self.hub.repos[repo][branch][name], kind, value)

    def send_content(self, name: str, content: bytes, kind: str | None, value: object) -> None:
        """The content from the byte that the range asks for; "whole" ignores it, "cut" ends after `value` bytes, "flip" changes that byte."""
        start = (
            0
            if kind == "whole"
            else int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-")).group(1))
        )
        body = content[start:]
        if kind == "flip":
            body = body[:value] + bytes([body[value] ^ 1]) + body[value + 1 :]
        self.send_response(206 if "Range" in self.headers and kind != "whole" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            body, self.close_connection = body[:value], True
        self.hub.sent[name] = self.hub.sent.get(name, 0) + len(body)
        self.wfile.write(body)


def describe_file(name: str, content: bytes) -> dict:
    """A file in the hub's list: git's hash, and for a large file size and sha256."""
    entry = {
        "rfilename": name,
        "size": len(content),
        "blobId": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest(),
    }
    if name.endswith(LARGE):
        entry["lfs"] = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "pointerSize": 130,
        }
    return entry
