"""Settings of a training that have a name: those of 2023 and of each lane, each change with its reason."""

import os

from helpers.common.errors import NotFoundError
from helpers.common.training_settings import AUTO, TrainingSettings
from helpers.common.values import check_choice, check_text

# Each preset: {setting: (value, why it differs from 2023)}. A lane's preset has the lane's name.
Changes = dict[str, tuple[object, str]]
SMALL: Changes = {  # for the embedded model on a CPU
    "lora_r": (16, "a model of 135M weights needs a lower rank, which is also faster on a CPU"),
    "lora_alpha": (32, "alpha / r = 2: a stronger push for the few steps there are"),
    "lora_dropout": (0.0, "a few passes over the rows cannot overfit them much"),
    "batch_size": (8, "the more rows in a batch, the more of them share what is computed"),
    "schedule": ("cosine", "a high rate to learn fast, a low one at the end to settle"),
    "max_grad_norm": (1.0, "0.3 holds back the first steps, of which there are few"),
}
PRESETS: dict[str, Changes] = {
    "tutorial-2023": {},
    "tiny": SMALL
    | {
        "targets": ("upper-linear", "without the lowest quarter a step takes less time, and learns as much"),
        "epochs": (1, "one pass over all rows takes about four minutes on two CPU cores"),
        "learning_rate": (2.2e-3, "few steps and a small model need a higher rate"),
    },
    "tiny-15-minutes": SMALL
    | {
        "epochs": (2.5, "the budget is 15 minutes on two CPU cores; three passes took 18"),
        "learning_rate": (1e-3, "few steps and a small model need a higher rate"),
    },
    "t4": {
        "batch_size": (2, "15 GB hold the 7B weights and the activations of two rows"),
        "accumulation": (2, "with the batch of 2 it gives the tutorial's 4 rows a step"),
        "epochs": (1, "one pass, because a free GPU may not last an hour"),
    },
    "large": {
        "epochs": (2, "a 70B model learns the task sooner than a 7B one"),
        "batch_size": (AUTO, "4 rows took as long as 32 on an H200: unpacking 70B weights is most of a step"),
    },
}


def pick_settings(name: str) -> TrainingSettings:
    """The settings of a preset (a lane's name is one) or a YAML file; NotFoundError if neither."""
    check_text("The name of the settings", name)
    if name in PRESETS:
        return TrainingSettings().replace({key: value for key, (value, _) in PRESETS[name].items()})
    if not name.endswith((".yaml", ".yml")) and not os.path.exists(name):
        remedy = f"Give a YAML file, or one of: {', '.join(PRESETS)}."
        raise NotFoundError(f"'{name}' is not a preset.", remedy)
    return TrainingSettings.from_yaml(name)


def explain_changes(preset: str) -> list[tuple[str, object, object, str]]:
    """(setting, value of 2023, value here, reason) of each setting that the preset changes."""
    check_choice("The preset", preset, PRESETS)
    before = TrainingSettings()
    changes = PRESETS[preset].items()
    return [(key, getattr(before, key), value, reason) for key, (value, reason) in changes]
