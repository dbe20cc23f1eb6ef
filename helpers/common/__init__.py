"""What every room needs, and nothing that only one of them needs.

Errors that name their remedy (`errors`), files that are complete or absent (`files`), paths and the home of
models/, loras/ and runs/ (`paths`), progress (`progress`), JSON over HTTP (`http`), how a command ends
(`command`), what this computer has (`machine`), the lanes that follow from it (`lanes`), and the settings of
a training with their presets (`training_settings`, `presets`).
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.common.command import CommandParser as CommandParser
    from helpers.common.command import run_command as run_command
    from helpers.common.errors import AlreadyThereError as AlreadyThereError
    from helpers.common.errors import DamagedError as DamagedError
    from helpers.common.errors import KitError as KitError
    from helpers.common.errors import MismatchError as MismatchError
    from helpers.common.errors import MissingPackageError as MissingPackageError
    from helpers.common.errors import NotFoundError as NotFoundError
    from helpers.common.errors import ResourceError as ResourceError
    from helpers.common.errors import ServerError as ServerError
    from helpers.common.errors import TrainingError as TrainingError
    from helpers.common.errors import UnsupportedError as UnsupportedError
    from helpers.common.errors import UsageError as UsageError
    from helpers.common.files import hash_file as hash_file
    from helpers.common.files import read_json as read_json
    from helpers.common.files import replace_when_complete as replace_when_complete
    from helpers.common.files import size_of as size_of
    from helpers.common.files import write_json as write_json
    from helpers.common.files import write_text as write_text
    from helpers.common.http import send_request as send_request
    from helpers.common.lanes import LANES as LANES
    from helpers.common.lanes import Lane as Lane
    from helpers.common.lanes import describe as describe
    from helpers.common.lanes import pick_lane as pick_lane
    from helpers.common.machine import Choice as Choice
    from helpers.common.machine import free_memory as free_memory
    from helpers.common.machine import measure_memory as measure_memory
    from helpers.common.machine import measure_peak_mb as measure_peak_mb
    from helpers.common.machine import measure_used as measure_used
    from helpers.common.machine import name_device as name_device
    from helpers.common.machine import name_dtype as name_dtype
    from helpers.common.machine import pick_device as pick_device
    from helpers.common.machine import pick_dtype as pick_dtype
    from helpers.common.paths import PROJECT as PROJECT
    from helpers.common.paths import find_commit as find_commit
    from helpers.common.paths import find_file as find_file
    from helpers.common.paths import find_home as find_home
    from helpers.common.paths import resolve_inside as resolve_inside
    from helpers.common.progress import Bar as Bar
    from helpers.common.progress import Report as Report

__getattr__, __dir__, __all__ = export_lazily(__name__)
