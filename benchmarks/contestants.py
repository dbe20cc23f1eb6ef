"""The LoRA that the contestants of all benchmarks train, so that their tables can be set side by side."""

from helpers.common.presets import pick_settings
from helpers.common.training_settings import ALL_LINEAR, TrainingSettings

RANK = 16  # as in results.md, whatever rank the lessons' preset has


def pick_lora_settings(preset: str = "tiny") -> TrainingSettings:
    """The preset with a LoRA on all linear layers; that of `tiny` has rank 16. Errors as pick_settings."""
    settings = pick_settings(preset).replace({"targets": ALL_LINEAR})
    return settings.replace({"lora_r": RANK, "lora_alpha": 2 * RANK}) if preset == "tiny" else settings
