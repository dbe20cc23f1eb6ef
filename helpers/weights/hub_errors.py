"""Every refusal of a model hub in plain words: the page to visit, the time to wait, the setting to change.

No message contains a token.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from helpers.common.addresses import spare_localhost
from helpers.common.bounded import TooLargeError, Watch, add_hooks
from helpers.common.errors import KitError, NotFoundError, ResourceError, ServerError, UsageError
from helpers.common.http import explain_missing_socks
from helpers.common.hub_environment import check_hub_environment
from helpers.weights._private import list_http_client_errors

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
STATUS_PAGE = "https://status.huggingface.co"
ANSWER_SECONDS = 60  # that the hub's answer to a question may take
# What huggingface_hub raises for an answer of another form: it takes it for granted.
STRANGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, TooLargeError)


@dataclass(frozen=True)
class Request:
    """What was asked of the hub."""

    repo: str  # OWNER/REPO
    revision: str  # branch, tag or commit
    hub: str  # the hub's address, such as https://huggingface.co

    @property
    def page(self) -> str:
        """The address of the repository's page."""
        return f"{self.hub}/{self.repo}"


Kinds: TypeAlias = type[Exception] | tuple[type[Exception], ...]
Explanation: TypeAlias = Callable[[Any, Request], KitError]


@contextmanager
def explain_hub_errors(
    repo: str, revision: str = "main", seconds: float | None = ANSWER_SECONDS
) -> Iterator[None]:
    """Turns what huggingface_hub raises inside the block into a KitError; other errors pass unchanged.

    The block may take `seconds`, and its replies LARGEST_REPLY bytes each; without `seconds` there is no such
    limit. Raises NotFoundError (repository, revision or file), UsageError (name, address or a variable of the
    environment), ResourceError (disk), ServerError for a hub that is out of reach, refuses access or sends
    something unexpected, and MissingPackageError for a SOCKS proxy that cannot be used. A hub on this
    computer is asked directly.
    """
    check_hub_environment()
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.utils import logging

    spare_localhost()
    logging.set_verbosity_error()  # otherwise every request that it repeats prints a line
    watch = Watch(seconds)
    try:
        with explain_missing_socks(), say_nothing_of_agents(), watch if seconds else nullcontext():
            add_hooks(get_session())
            yield
    except Exception as error:
        if watch.expired:
            problem = f"The hub sent no whole answer for {repo} in {seconds} s."
            raise ServerError(problem, "Try again later, or check HF_ENDPOINT and the network.") from None
        explain = find_explanation(error)
        if explain is None:
            raise
        raise explain(error, Request(repo, revision, HfApi().endpoint)) from None


@contextmanager
def say_nothing_of_agents() -> Iterator[None]:
    """Keeps huggingface_hub from reporting, with each request, which program started this one.

    To do so, it asks the hub for a list of programs and keeps the reply in its folder for a day. If that is
    not a list, every later request ends in an AttributeError.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def find_explanation(error: Exception) -> Explanation | None:
    """The function that explains this kind of error; None if the error does not come from the hub."""
    for kinds, explain in list_explanations():
        if isinstance(error, kinds):
            return explain
    return None


def list_explanations() -> list[tuple[Kinds, Explanation]]:
    """Kinds of error and the functions that explain them. The first kind that fits counts: derived first."""
    from huggingface_hub import errors

    return [
        (errors.GatedRepoError, explain_gate),  # a RepositoryNotFoundError
        (errors.RepositoryNotFoundError, explain_unknown_repository),  # an HfHubHTTPError, as is the next
        (errors.RevisionNotFoundError, explain_unknown_revision),
        (errors.EntryNotFoundError, explain_missing_file),  # in most cases an HfHubHTTPError
        (errors.HfHubHTTPError, explain_status),  # an error of the HTTP client, and an OSError
        (errors.HFValidationError, explain_bad_name),
        (errors.OfflineModeIsEnabled, explain_offline_mode),  # a ConnectionError
        (UnicodeEncodeError, explain_token),
        ((ConnectionError, TimeoutError, *list_http_client_errors()), explain_no_connection),
        (OSError, explain_disk),
        (STRANGE, explain_strange_answer),
    ]


def is_broken_connection(error: Exception) -> bool:
    """True if a request failed before the hub answered it, or while the answer was arriving."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, list_http_client_errors()) and not isinstance(error, HfHubHTTPError)


def explain_gate(error: Exception, request: Request) -> KitError:
    """The repository is gated: each account has to be let in."""
    from huggingface_hub import get_token

    remedy = (
        f"Ask for access at {request.page} (for Llama 2, with Meta's form), then try again once you have it."
    )
    if get_token() is None:
        remedy = f"Run `hf auth login`. {remedy}"
        return ServerError(f"{request.repo} is gated, and this computer has no token.", remedy)
    return ServerError(f"{request.repo} is gated, and the account of your token has no access.", remedy)


def explain_unknown_repository(error: Exception, request: Request) -> KitError:
    """The hub hides private repositories: to others they do not exist."""
    remedy = f"Check the spelling at {request.page}; a private repository needs `hf auth login`."
    return NotFoundError(f"The hub has no {request.repo}, or it is private.", remedy)


def explain_unknown_revision(error: Exception, request: Request) -> KitError:
    """No such branch: names those that are spelt most like it."""
    from huggingface_hub import HfApi, errors

    branches = []
    with suppress(errors.HfHubHTTPError, *list_http_client_errors(), *STRANGE), Watch(ANSWER_SECONDS):
        branches = [branch.name for branch in HfApi().list_repo_refs(request.repo).branches]
    nearest = difflib.get_close_matches(request.revision, branches, n=3, cutoff=0)
    names = ", ".join(nearest) or f"see {request.page}/tree/main"
    return NotFoundError(
        f"{request.repo} has no revision '{request.revision}'.", f"The nearest branches: {names}."
    )


def explain_missing_file(error: Exception, request: Request) -> KitError:
    """The repository has changed since its files were listed."""
    return NotFoundError(f"{request.repo} no longer has this file.", f"See {request.page}/tree/main.")


def explain_bad_name(error: Exception, request: Request) -> KitError:
    """huggingface_hub checks names before it asks."""
    remedy = "Write it as OWNER/REPO, not as an address; name a branch with --revision."
    return UsageError(f"'{request.repo}' is not a valid repository name.", remedy)


def explain_offline_mode(error: Exception, request: Request) -> KitError:
    """huggingface_hub may not use the network."""
    problem = f"The hub was not asked for {request.repo} because HF_HUB_OFFLINE is set."
    return ServerError(problem, "Unset it, then try again.")


def explain_strange_answer(error: Exception, request: Request) -> KitError:
    """The answer is not JSON, or lacks what a hub's answer has."""
    problem = f"The answer for {request.repo} did not come from a model hub."
    return ServerError(problem, "Check HF_ENDPOINT and the proxy of your network.")


def explain_token(error: Exception, request: Request) -> KitError:
    """A header cannot hold it."""
    return UsageError("The token of this computer has characters that no token has.", "Run `hf auth login`.")


def explain_no_connection(error: Exception, request: Request) -> KitError:
    """The network, or an address that cannot be one."""
    problem = f"{request.hub} cannot be reached for {request.repo} ({type(error).__name__})."
    if not request.hub.startswith("http"):
        return UsageError(problem, "HF_ENDPOINT has to begin with https://; correct or unset it.")
    return ServerError(problem, "Check the network, then try again: what has arrived is kept.")


def explain_disk(error: OSError, request: Request) -> KitError:
    """The disk is full, or the folder may not be written."""
    problem = f"The files of {request.repo} cannot be written ({error.strerror or error})."
    remedy = "Make room or correct the permissions, then try again: what has arrived is kept."
    return ResourceError(problem, remedy)


def explain_status(error: "HfHubHTTPError", request: Request) -> KitError:
    """The hub refused the request with an HTTP status."""
    status = error.response.status_code
    repo = request.repo
    if status == 401:
        remedy = f"Make a new one at {TOKENS_PAGE}, then run `hf auth login`."
        return ServerError(f"The hub rejects your token for {repo}.", remedy)
    if status == 403:
        remedy = f"Let it read gated repositories ({TOKENS_PAGE}), and ask for access at {request.page}."
        return ServerError(f"Your token is not allowed to read {repo}.", remedy)
    if status == 404:  # a hub says in a header what it has not found
        return explain_strange_answer(error, request)
    if status == 429:
        seconds = error.response.headers.get("Retry-After", "")
        wait = f"{seconds} seconds" if seconds.isdigit() else "a few minutes"
        remedy = f"Wait {wait}, then try again; `hf auth login` raises the limit."
        return ServerError(f"The hub has had too many requests from this address ({repo}).", remedy)
    remedy = f"Try again in a few minutes; {STATUS_PAGE} says more."
    return ServerError(f"The hub failed with HTTP status {status} for {repo}.", remedy)
