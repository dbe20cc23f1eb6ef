"""Rows and settings in, a saved LoRA out.

TRL's configuration (`configs`), which layers get a LoRA (`targets`), how many rows fit (`memory`), a batch
packed so that what its rows share is computed once (`packing`, `attention`, `prefix_trainer`), guards
(`guards`), checkpoints and what they belong to (`checkpoints`, `plans`), the saved folder with its record
(`runs`), and all of it in one call (`train`). `python -m helpers.training` is its command line.
"""

from typing import TYPE_CHECKING

from helpers.common.lazy import export_lazily

if TYPE_CHECKING:
    from helpers.common.presets import PRESETS as PRESETS
    from helpers.common.presets import explain_changes as explain_changes
    from helpers.common.presets import pick_settings as pick_settings
    from helpers.common.training_settings import TrainingSettings as TrainingSettings
    from helpers.training.checkpoints import list_unfinished as list_unfinished
    from helpers.training.configs import describe_hardware as describe_hardware
    from helpers.training.configs import make_sft_config as make_sft_config
    from helpers.training.dataset import build_dataset as build_dataset
    from helpers.training.guards import LossGuard as LossGuard
    from helpers.training.guards import StopOnRequest as StopOnRequest
    from helpers.training.memory import settle_batch as settle_batch
    from helpers.training.prefix_trainer import PackingCollator as PackingCollator
    from helpers.training.prefix_trainer import SharedPrefixTrainer as SharedPrefixTrainer
    from helpers.training.runs import save_run as save_run
    from helpers.training.targets import list_blocks as list_blocks
    from helpers.training.targets import list_targets as list_targets
    from helpers.training.targets import make_lora_config as make_lora_config
    from helpers.training.train import make_trainer as make_trainer
    from helpers.training.train import train_lora as train_lora

__getattr__, __dir__, __all__ = export_lazily(__name__)
