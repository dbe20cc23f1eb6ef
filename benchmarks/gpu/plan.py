"""What is measured, in order of worth, and how the minutes are divided. Nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.common.errors import UsageError

# A contestant of a training: who trains ("kit", "sft" as it comes, "knowing" user, "2023", "qlora"), with
# batches of how many rows, and how many steps are timed after those that warm up.
Contestant = tuple[str, int, int, int]


@dataclass(frozen=True)
class Job:
    """What one process measures: the name of a task in `worker`, and its settings."""

    task: str
    share: float  # of the part's time
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the report calls the job as a whole."""
        return " ".join(
            [self.task, *(str(self.settings[key]) for key in ("kernel",) if key in self.settings)]
        )


@dataclass(frozen=True)
class Part:
    """Jobs that belong together."""

    name: str
    share: float  # of all minutes
    jobs: tuple[Job, ...]
    waits_for: str | None = None  # an extension of gptqmodel's that is being compiled


def answer(kernel: str, share: float = 1, **settings: Any) -> Job:
    """Answers of a random GPTQ model; the kernel "kit" is the one that the kit picks."""
    return Job("answer", share, {"shape": "7b-gptq", "kernel": kernel, "clients": [1, 4, 16], **settings})


def train(shape: str, *contestants: Contestant, share: float = 1, **settings: Any) -> Job:
    """Contestants that train a LoRA on the same shape, one after the other."""
    return Job("train", share, {"shape": shape, "contestants": contestants, **settings})


PARTS = (
    Part("answer-7b", 100, (answer("kit", 1.3, lora=True), answer("gptq_triton"), answer("gptq_torch", 1.2))),
    Part(
        "train-1b",
        100,
        (
            train("1b", ("kit", 64, 3, 8), ("sft", 64, 3, 8), share=2),
            train("1b", ("knowing", 64, 3, 8), ("knowing", 128, 3, 8), share=2),
            train("1b", ("kit", 256, 2, 4), share=1.2),
            train("1b", ("2023", 4, 2, 6), share=1),
        ),
    ),
    Part("answer-7b-exllama", 30, (answer("gptq_exllama_v2"),), "exllamav2"),
    Part(
        "gptq-70b",
        120,
        (
            train("70b-gptq", ("kit", 4, 1, 2), ("kit", 32, 1, 2), ("sft", 32, 1, 1), share=2, rows=1250),
            answer("kit", shape="70b-gptq", clients=[1, 16], tokens=24),
        ),
    ),
    Part("train-8b", 40, (train("8b", ("kit", 32, 2, 4), ("knowing", 32, 2, 4)),)),
    Part(
        "train-7b-gptq",
        45,
        (
            train("7b-gptq", ("kit", 4, 1, 3), ("kit", 32, 1, 3), ("sft", 32, 1, 3), share=2),
            train("7b", ("qlora", 32, 1, 3)),
            Job("unsloth", 0.5, {"shape": "7b", "batch": 32, "steps": 6}),
        ),
    ),
    Part(
        "rows-without-prefix",
        25,
        (train("1b", ("kit", 32, 2, 5), ("knowing", 32, 2, 5), data="random"),),
    ),
    Part("memory", 20, (Job("memory", 1),)),
    Part("answer-7b-marlin", 30, (answer("gptq_marlin"),), "marlin_fp16"),
)
LESSONS = Part("lessons", 100, (Job("lessons", 1),))  # a call of its own: --part lessons


def pick_parts(names: Sequence[str]) -> list[Part]:
    """The parts of these names, in the order of the plan; without names the plan. UsageError otherwise."""
    known = {part.name: part for part in (*PARTS, LESSONS)}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"'{unknown[0]}' is not a part of the benchmark.", f"Choose from: {', '.join(known)}."
        )
    return [part for part in known.values() if part.name in names] if names else list(PARTS)


def divide(seconds: float, shares: Sequence[float]) -> float:
    """The seconds of the first of those that share what is left; what it does not use stays for the others.

    With nothing saved the seconds of all of them add up: 60 and (1, 2, 3) give 10, then 50 and (2, 3) 20.
    """
    return max(seconds, 0) * shares[0] / sum(shares)
