"""Questions to a model hub and downloads from it: branches, lists of files, resumable downloads.

The requests go through huggingface_hub. What it raises becomes a KitError (helpers.weights.hub_errors).
"""

import hashlib
import io
import json
import shutil
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from helpers.common.arguments import has_surrogates
from helpers.common.bounded import LARGEST_REPLY
from helpers.common.errors import DamagedError, ResourceError
from helpers.common.forms import find_misfit
from helpers.common.progress import Bar, Report
from helpers.weights.hub_errors import explain_hub_errors, is_broken_connection

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

MAX_TRIES = 5  # in a row that bring nothing, before a download gives up
PART = ".part"  # ends the name of a file that has not arrived in full
BLOCK = 1 << 20  # bytes read from the disk at a time
SPARE_BYTES = 100_000_000  # of disk space that a download leaves free


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the hub lists it."""

    name: str
    size: int  # bytes
    sha256: str | None  # of a large file (LFS); for the others the hub lists only git's hash
    git_sha1: str

    @property
    def local_name(self) -> str:
        """Its name in the model's folder, which has no lower folders."""
        return self.name.rpartition("/")[2]

    def matches(self, path: Path) -> bool:
        """True if the local file has this content."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256:
            digest, expected = hashlib.sha256(), self.sha256
        else:  # git hashes "blob SIZE", a zero byte, then the content
            digest, expected = hashlib.sha1(usedforsecurity=False), self.git_sha1
            digest.update(f"blob {self.size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        return digest.hexdigest() == expected


def list_branches(repo: str) -> list[str]:
    """Names of a repository's branches, main first. Raises a KitError if the hub refuses."""
    with explain_hub_errors(repo):
        from huggingface_hub import HfApi

        names = [branch.name for branch in HfApi().list_repo_refs(repo).branches]
        refuse_misfit(names, list[str])
    return sorted(names, key=lambda name: (name != "main", name))


def list_files(repo: str, revision: str = "main") -> tuple[str, list[RemoteFile]]:
    """(commit id, files) of a branch, tag or commit. Raises a KitError if the hub refuses.

    Of the files in lower folders only GGUF files are taken, which some publishers keep in a folder for each
    variant. The others are weights in other formats.
    """
    with explain_hub_errors(repo, revision):
        from huggingface_hub import HfApi

        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = [read_listing(sibling) for sibling in info.siblings or []]
        refuse_misfit([asdict(file) for file in files], list[Listing])
        refuse_misfit(info.sha, str | None)
        if odd := [file.name for file in files if has_surrogates(file.name) or "\0" in file.name]:
            raise ValueError(f"{odd[0]!r} is not the name of a file")
    wanted = [file for file in files if "/" not in file.name or file.name.endswith(".gguf")]
    return info.sha or revision, wanted


class Listing(TypedDict):
    """The form of a RemoteFile."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str


def refuse_misfit(value: object, form: Any) -> None:
    """A ValueError for an answer of the hub that has another form."""
    if misfit := find_misfit(value, form):
        raise ValueError(misfit)


def read_listing(sibling: "RepoSibling") -> RemoteFile:
    """One file of huggingface_hub's list. Large files are in LFS, which has their size and sha256."""
    git_sha1 = sibling.blob_id or ""
    if sibling.lfs:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256, git_sha1)
    return RemoteFile(sibling.rfilename, sibling.size or 0, None, git_sha1)


def read_json(repo: str, commit: str, file: RemoteFile) -> dict:
    """The content of a JSON file of the repository; nothing is kept on disk. Raises a KitError."""
    buffer = io.BytesIO()
    if file.size > LARGEST_REPLY:
        raise DamagedError(f"{file.name} of {repo} is too large to be one.", "Choose another copy.")
    with explain_hub_errors(repo, commit):
        append_missing_bytes(repo, commit, file, buffer)
        value = json.loads(buffer.getvalue())
    if not isinstance(value, dict):
        raise DamagedError(f"{file.name} of {repo} is not a JSON object.", "Choose another copy.")
    return value


def append_missing_bytes(
    repo: str, commit: str, file: RemoteFile, stream: BinaryIO, bar: Bar | None = None
) -> None:
    """Appends what is missing of a file to a stream that is positioned at its end.

    Resumes after a broken connection; gives up after MAX_TRIES tries in a row that brought nothing, with the
    error of the last one. huggingface_hub's own download starts each file from its first byte whenever it is
    called again, which for weights means gigabytes.
    """
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo, file.name, revision=commit)
    fruitless_tries = 0
    while stream.tell() < file.size:
        start = stream.tell()
        failure: Exception = ConnectionError("an empty reply")
        try:
            with closing(read_from(url, start)) as blocks:
                for block in blocks:
                    stream.write(block)
                    if bar is not None:
                        bar.update(len(block))
                    if stream.tell() >= file.size:  # a server may send more, without end
                        break
        except Exception as error:
            if not is_broken_connection(error):
                raise
            failure = error
        fruitless_tries = 0 if stream.tell() > start else fruitless_tries + 1
        if fruitless_tries == MAX_TRIES:
            raise failure
        if fruitless_tries:
            time.sleep(1)


def read_from(url: str, start: int) -> Generator[bytes, None, None]:
    """Yields the bytes of a file from `start` on, as they arrive. Asks twice more after status 429."""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = build_hf_headers()
    headers["Range"] = f"bytes={start}-"
    headers["Accept-Encoding"] = "identity"  # a range counts bytes of the file, not compressed ones
    with http_stream_backoff(
        "GET", url, headers=headers, timeout=30,
        max_retries=2, retry_on_exceptions=(), retry_on_status_codes=429,
    ) as response:  # fmt: skip
        hf_raise_for_status(response)
        # 206 is the range that was asked for. Some proxies ignore ranges and send the whole file with 200.
        to_skip = start if response.status_code == 200 else 0
        for block in response.iter_raw():
            yield block[to_skip:]
            to_skip = max(to_skip - len(block), 0)


def download_file(repo: str, commit: str, file: RemoteFile, folder: Path, bar: Bar) -> Path:
    """Downloads one file into `folder`, resumes what an earlier try left, checks its hash; returns its path.

    Raises DamagedError if the content is not the one that the hub lists, otherwise as explain_hub_errors.
    """
    target = folder / file.local_name
    part = folder / (file.local_name + PART)
    if target.is_file() and file.matches(target):
        bar.update(file.size)
        return target
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    with part.open("ab") as stream, explain_hub_errors(repo, commit, seconds=None):
        bar.update(stream.tell())
        append_missing_bytes(repo, commit, file, stream, bar)
    if not file.matches(part):
        part.unlink()
        problem = f"{file.name} arrived damaged: its hash differs from the one that the hub lists."
        raise DamagedError(problem, "Fetch again; only this file is downloaded again.")
    return part.replace(target)


def download_files(
    repo: str, commit: str, files: list[RemoteFile], folder: Path, progress: bool | Report = True
) -> None:
    """Downloads the files into `folder`. If that fails, the folder stays, and the next try resumes there.

    Raises ResourceError, before the first byte, if the disk is too small; then as download_file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_full_disk(repo, files, folder)
    with Bar(progress, sum(file.size for file in files), repo, "B") as bar:
        for file in files:
            download_file(repo, commit, file, folder, bar)


def refuse_full_disk(repo: str, files: list[RemoteFile], folder: Path) -> None:
    """ResourceError if the disk has less room than the bytes still to come plus SPARE_BYTES."""
    here = sum(path.stat().st_size for path in folder.iterdir())
    needed = sum(file.size for file in files) - here
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + SPARE_BYTES > free:
        problem = (
            f"{repo} needs {needed / 1e9:.2f} GB and {SPARE_BYTES / 1e9:.1f} GB to spare; "
            f"the disk of {folder.parent} has {free / 1e9:.2f} GB."
        )
        raise ResourceError(problem, "Make room, or set OPEN_LLM_KIT_HOME to a folder on a larger disk.")
