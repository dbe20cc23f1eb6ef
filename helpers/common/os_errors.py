"""What the operating system refused, as one of the kit's errors: a full disk, a name that is too long ...

Python raises an OSError. Libraries in other languages have their own classes, and say the same in words.
"""

import errno
import os
import re
from collections.abc import Iterator

from helpers.common.errors import KitError, ResourceError, UsageError

# How Rust's libraries (safetensors, tokenizers) name the system's error, and Python in the text of another.
NUMBERED = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
# torch.save, in which the reason is lost: nearly always a full disk. Reading fails with other words.
TORCH = re.compile(
    r"PytorchStreamWriter failed|basic_ios::clear: iostream error"
    r"|enforce fail at inline_container\.cc(?!.*PytorchStreamReader)",
    re.DOTALL,
)
NO_HOME = "Could not determine home directory"  # Python's words for a user without HOME and without an entry
# Where replace_when_complete writes: the name of what it writes is in that of the folder.
WORKSPACE = re.compile(r"/\.([^/]+?)\.[^/.]+\.part(?:/new/\1(?=/|$))?")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain_os_error(error: BaseException) -> KitError | None:
    """The error in the kit's words; None if it is not one of the operating system."""
    for each in list_causes(error):
        number = find_number(each)
        if number is not None:
            path = each.filename if isinstance(each, OSError) else None
            return explain_number(number, os.fsdecode(path) if isinstance(path, (str, bytes)) else "")
    if NO_HOME in str(error):
        return UsageError("This user has no home directory.", "Set HOME to a folder of your own.")
    return explain_number(errno.ENOSPC) if TORCH.search(str(error)) else None


def fills_disk(error: BaseException) -> bool:
    """Whether a full disk led to the error, whichever library raised it."""
    numbers = {find_number(each) for each in list_causes(error)}
    return not numbers.isdisjoint(FULL) or bool(TORCH.search(str(error)))


def find_full(error: BaseException) -> int:
    """Which of FULL it is."""
    numbers = [find_number(each) for each in list_causes(error)]
    return next((number for number in numbers if number in FULL), errno.ENOSPC)


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def find_number(error: BaseException) -> int | None:
    """The number by which the system names its error; None if it is none of the system's."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    return find_number_in(str(error))


def find_number_in(text: str) -> int | None:
    """The number that a message names, of Rust's libraries or of Python's; None if it names none."""
    found = NUMBERED.search(text)
    return int(found[1] or found[2]) if found else None


def explain_number(number: int, path: str = "") -> KitError:
    """The error with this number, and the file that it is about, if that is known."""
    name = WORKSPACE.sub(r"/\1", path)
    if number == errno.ENAMETOOLONG:
        problem = f"The name {name[:40]}... is too long for this disk." if name else "A name is too long."
        return UsageError(problem, "Choose a shorter one: most disks take 255 bytes.")
    where, reason = name or "A file", os.strerror(number)
    if number == errno.EFBIG:
        remedy = "Raise the limit of this shell (ulimit -f), or choose another disk."
        return ResourceError(f"{where} is larger than a file may be: {reason}.", remedy)
    if number in FULL:
        return ResourceError(
            f"{where} could not be written: {reason}.", "Free some space, then run it again."
        )
    if number in FORBIDDEN:
        remedy = (
            "Change its permissions or owner, or choose another place (OPEN_LLM_KIT_HOME names the home)."
        )
        return ResourceError(f"{where} may not be read or written: {reason}.", remedy)
    return ResourceError(f"{where} cannot be used: {reason}.", "Look at what is there, then run it again.")
