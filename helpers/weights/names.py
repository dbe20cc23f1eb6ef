"""What models are called: the embedded model, and the WebUI's folder name for a repository on the hub."""

EMBEDDED_NAME = "smollm2-135m-instruct"  # what `fetch` takes
EMBEDDED_FOLDER = "SmolLM2-135M-Instruct"  # its folder below models/


def name_folder(repo: str, revision: str = "main") -> str:
    """The WebUI's folder name for a hub repository: OWNER_REPO, with _BRANCH unless the branch is main."""
    if repo == EMBEDDED_NAME:
        return EMBEDDED_FOLDER
    branch = "" if revision == "main" else f"_{revision}"
    return repo.strip("/").replace("/", "_") + branch.replace("/", "_")


def write_git_command(repo: str, revision: str = "main") -> str:
    """The line that clones one branch of a hub repository into models/ (needs git-lfs)."""
    branch = "" if revision == "main" else f"--branch {revision} "
    folder = name_folder(repo, revision)
    return f"git clone --single-branch {branch}https://huggingface.co/{repo} models/{folder}"
