"""What models are called: the embedded one, and the WebUI's folder name for a repository on the hub."""

EMBEDDED_NAME, EMBEDDED_FOLDER = (
    "smollm2-135m-instruct",
    "SmolLM2-135M-Instruct",
)  # what `fetch` takes; its folder


def name_folder(repo: str, revision: str = "main") -> str:
    """The WebUI's folder name for a hub repository: OWNER_REPO, with _BRANCH unless the branch is main."""
    if repo == EMBEDDED_NAME:
        return EMBEDDED_FOLDER
    return repo.strip("/").replace("/", "_") + ("" if revision == "main" else f"_{revision}")


def write_git_command(repo: str, revision: str = "main") -> str:
    """The line that clones one branch of a hub repository into models/, run in the kit's folder; it needs git-lfs."""
    branch = "" if revision == "main" else f"--branch {revision} "
    return f"git clone --single-branch {branch}https://huggingface.co/{repo} models/{name_folder(repo, revision)}"
