"""What a model hub refuses, in plain words: the page to visit, the time to wait, the setting to change. No message holds a token."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from helpers.common.errors import KitError


def is_broken_connection(error: Exception) -> bool:
    """True for what the hub's HTTP client raises when a connection fails (its name differs from one release to the next)."""
    return type(error).__module__.startswith("httpx")


@contextmanager
def explain_hub_errors(repo: str, revision: str = "main") -> Iterator[None]:
    """Turns what huggingface_hub raises into a KitError with the page to visit or the time to wait."""
    from huggingface_hub import HfApi, constants, errors, get_token
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # else each request that it repeats by itself is a line
    page = f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except errors.GatedRepoError:
        remedy = f"Ask for access at {page} (for Llama 2 with Meta's form), and try again when it is granted."
        if get_token() is None:
            raise KitError(
                f"{repo} is gated, and there is no token.", f"Run `hf auth login`. {remedy}"
            ) from None
        raise KitError(f"{repo} is gated, and the account of your token has no access.", remedy) from None
    except errors.RepositoryNotFoundError:
        raise KitError(
            f"The hub knows no {repo}, or it is private.",
            f"Check the spelling at {page}; a private one needs `hf auth login`.",
        ) from None
    except errors.RevisionNotFoundError:
        names = []
        with suppress(errors.HfHubHTTPError):
            names = [branch.name for branch in HfApi().list_repo_refs(repo).branches]
        near = ", ".join(difflib.get_close_matches(revision, names, 3, 0)) or f"see {page}/tree/main"
        raise KitError(f"{repo} has no revision '{revision}'.", f"The nearest branches: {near}.") from None
    except errors.HFValidationError:
        raise KitError(
            f"'{repo}' is no repository name.",
            "Write it as OWNER/REPO, not as an address; a branch is named with --revision.",
        ) from None
    except errors.OfflineModeIsEnabled:
        raise KitError(
            f"The hub was not asked for {repo}: HF_HUB_OFFLINE is set.", "Unset it, then try again."
        ) from None
    except errors.HfHubHTTPError as error:
        raise explain_status(repo, page, error) from None
    except (KeyError, json.JSONDecodeError):
        raise KitError(
            f"What answered for {repo} is no model hub.", "Check HF_ENDPOINT and the proxy of your network."
        ) from None
    except Exception as error:
        if isinstance(error, (ConnectionError, TimeoutError)) or is_broken_connection(error):
            problem = f"{constants.ENDPOINT} cannot be reached for {repo} ({type(error).__name__})."
            if not constants.ENDPOINT.startswith("http"):
                raise KitError(problem, "Begin HF_ENDPOINT with https://, or unset it.") from None
            raise KitError(problem, "Check the network, then try again: what has arrived is kept.") from None
        if isinstance(error, OSError):
            problem = f"The files of {repo} cannot be written ({error.strerror or error})."
            raise KitError(
                problem, "Make room or mend the permissions, then try again: what has arrived is kept."
            ) from None
        raise


def explain_status(repo: str, page: str, error) -> KitError:
    """The KitError for a refusal by HTTP status."""
    status, tokens = error.response.status_code, "https://huggingface.co/settings/tokens"
    if status == 401:
        return KitError(
            f"The hub refuses your token for {repo}.",
            f"Make a new one at {tokens}, then run `hf auth login`.",
        )
    if status == 403:
        return KitError(
            f"Your token may not read {repo}.",
            f"Let it read gated repositories ({tokens}), and ask for access at {page}.",
        )
    if status == 404:
        return KitError(f"{repo} has no such file any more.", f"See {page}/tree/main.")
    if status == 429:
        seconds = error.response.headers.get("Retry-After", "")
        wait = f"{seconds} seconds" if seconds.isdigit() else "some minutes"
        return KitError(
            f"The hub has had too many requests from here ({repo}).",
            f"Wait {wait}, then try again; `hf auth login` raises the limit.",
        )
    return KitError(
        f"The hub is in trouble (HTTP {status}) for {repo}.",
        "Try again in some minutes; https://status.huggingface.co tells more.",
    )
