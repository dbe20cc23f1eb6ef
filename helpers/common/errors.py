"""Errors that name their remedy. Each kind of mistake has a class, so that a program can tell them apart."""


class KitError(Exception):
    """A mistake that the user can fix: what is wrong and what to do about it, each in one sentence."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem} {remedy}")
        self.problem, self.remedy = problem, remedy


class UsageError(KitError):
    """An argument, a setting or a command line that cannot be right."""


class NotFoundError(KitError):
    """A file, model, LoRA or other named thing that is not there."""


class AlreadyThereError(KitError):
    """Something that is already there, would be overwritten, or is being used by another process."""


class DamagedError(KitError):
    """A file or folder that is incomplete, changed or unreadable."""


class UnsupportedError(KitError):
    """A valid request that this kit, this engine or this machine cannot carry out."""


class MismatchError(KitError):
    """Two things that do not belong together: a LoRA and a base, a template and its rows."""


class ResourceError(KitError):
    """Too little memory or disk space, or no free port."""


class ServerError(KitError):
    """A server or a model hub that is out of reach, refuses the request, or sends nonsense."""

    def __init__(self, problem: str, remedy: str, status: int | None = None):
        super().__init__(problem, remedy)
        self.status = status  # of the HTTP reply that refused; None without such a reply


class ServerLate(ServerError):
    """A server that does not reply in time."""


class ServerAway(ServerError):
    """A server that is out of reach."""


class MissingPackageError(KitError):
    """A Python package that is not installed."""


class TrainingError(KitError):
    """A training run that went wrong: its loss is not a number, or it diverged."""
