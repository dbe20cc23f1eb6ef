"""What a model hub says and how its files arrive: branches, files with sizes and hashes, downloads that go on where they were cut.

huggingface_hub does the talking; what it raises leaves this file as a KitError (helpers.weights.hub_errors).
"""

import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.common.errors import KitError
from helpers.common.progress import Bar, Report
from helpers.weights.hub_errors import explain_hub_errors, is_broken_connection

TRIES = 5


PART = ".part"  # ends the name of a file that has not arrived whole


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository as the hub lists it."""

    name: str
    size: int  # bytes
    sha256: str | None  # of large files (LFS); the others have only git's hash
    git_sha1: str

    def matches(self, path: Path) -> bool:
        """True when the local file has this content. git's hash is the sha1 of "blob SIZE", a zero byte and the content."""
        if path.stat().st_size != self.size:
            return False
        digest = (
            hashlib.sha256()
            if self.sha256
            else hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        )
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.git_sha1)


def list_branches(repo: str) -> list[str]:
    """Names of a repository's branches, main first. Raises KitError, as everything here that asks the hub."""
    from huggingface_hub import HfApi

    with explain_hub_errors(repo):
        names = [branch.name for branch in HfApi().list_repo_refs(repo).branches]
    return sorted(names, key=lambda name: (name != "main", name))


def list_files(repo: str, revision: str = "main") -> tuple[str, list[RemoteFile]]:
    """The commit that a branch, tag or commit names, and the files in its top folder (weights of other formats lie below)."""
    from huggingface_hub import HfApi

    with explain_hub_errors(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    files = [
        RemoteFile(
            f.rfilename,
            f.lfs.size if f.lfs else f.size or 0,
            f.lfs.sha256 if f.lfs else None,
            f.blob_id or "",
        )
        for f in info.siblings or []
    ]
    return info.sha, [file for file in files if "/" not in file.name]


def read_json(repo: str, commit: str, file: RemoteFile) -> dict:
    """A JSON file of the repository, not kept."""
    buffer = io.BytesIO()
    with explain_hub_errors(repo, commit):
        get_bytes(repo, commit, file, buffer)
        return json.loads(buffer.getvalue())


def get_bytes(
    repo: str, commit: str, file: RemoteFile, stream: io.BufferedIOBase, bar: Bar | None = None
) -> None:
    """Appends what is missing of a file to a stream that stands at its end; goes on after a cut, until TRIES in a row have brought nothing.

    huggingface_hub's own download starts each file anew when it is called again, which for weights is gigabytes.
    """
    from huggingface_hub import hf_hub_url

    url, barren = hf_hub_url(repo, file.name, revision=commit), 0
    while stream.tell() < file.size:
        before, broken = stream.tell(), ConnectionError("an empty reply")
        try:
            for block in read_from(url, before):
                stream.write(block)
                if bar is not None:
                    bar.update(len(block))
        except Exception as error:
            if not is_broken_connection(error):
                raise
            broken = error
        barren = 0 if stream.tell() > before else barren + 1
        if barren == TRIES:
            raise broken
        time.sleep(min(barren, 1))


def read_from(url: str, start: int) -> Iterator[bytes]:
    """The bytes of a file from `start` on, as they come. Asks again by itself where the hub says 429."""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = {
        **build_hf_headers(),
        "Accept-Encoding": "identity",
        "Range": f"bytes={start}-",
    }  # ranges count the file's bytes, not compressed ones
    with http_stream_backoff(
        "GET",
        url,
        headers=headers,
        timeout=30,
        max_retries=2,
        retry_on_exceptions=(),
        retry_on_status_codes=429,
    ) as response:
        hf_raise_for_status(response)
        skip = (
            start if response.status_code == 200 else 0
        )  # some proxies ignore ranges and send the whole file
        for block in response.iter_raw():
            yield block[skip:]
            skip = max(skip - len(block), 0)


def download_file(repo: str, commit: str, file: RemoteFile, folder: Path, bar: Bar) -> Path:
    """Brings one file into `folder`, checked against the hub's hash; what an earlier try left is used. Returns its path."""
    target, part = folder / file.name, folder / (file.name + PART)
    if target.is_file() and file.matches(target):
        bar.update(file.size)
        return target
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    with part.open("ab") as stream, explain_hub_errors(repo, commit):
        bar.update(stream.tell())
        get_bytes(repo, commit, file, stream, bar)
    if not file.matches(part):
        part.unlink()
        raise KitError(
            f"{file.name} arrived damaged: its hash is not the one that the hub lists.",
            "Fetch again; only this file is repeated.",
        )
    return part.replace(target)


def download_files(
    repo: str, commit: str, files: list[RemoteFile], folder: Path, progress: bool | Report = True
) -> None:
    """Brings the files into `folder`, which is kept when it fails, so that the next try moves only what is missing.

    Raises KitError before the first byte when the disk is too small or another process is at it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise KitError(
            f"Another process is fetching {repo} right now.", "Wait for it, then try again."
        ) from None
    try:
        refuse_full_disk(repo, files, folder)
        with Bar(progress, sum(file.size for file in files), repo, "B") as bar:
            for file in files:
                download_file(repo, commit, file, folder, bar)
    finally:
        lock.release()
    (folder / ".lock").unlink(missing_ok=True)


def refuse_full_disk(repo: str, files: list[RemoteFile], folder: Path) -> None:
    """KitError when the disk has less room than the bytes still to come and a tenth of a gigabyte for everything else."""
    here = sum(path.stat().st_size for path in folder.iterdir())
    needed, free = sum(file.size for file in files) - here, shutil.disk_usage(folder).free
    if needed + 1e8 > free and needed > 0:
        raise KitError(
            f"{repo} needs {needed / 1e9:.2f} GB and 0.1 GB to spare; the disk of {folder.parent} has {free / 1e9:.2f} GB.",
            "Make room, or let OPEN_LLM_KIT_HOME name a folder on a larger disk.",
        )
