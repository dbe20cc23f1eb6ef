"""What is measured, in order of worth, and how the minutes are divided. Nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.common.errors import UsageError

# A contestant of a training: who trains ("kit", "sft" as it comes, "knowing" user, "2023", "qlora"), with
# batches of how many rows (the kit also with "auto"), how many steps warm up, and how many are timed. Liger,
# which a knowing user takes, stays patched in, so that "knowing" comes last in its process.
Contestant = tuple[str, int | str, int, int]


# What tools.gpu_machine puts into the folder that is carried to a bare machine.
TOKENIZER, LLAMA_2, HEAD = "smollm2-tokenizer", "llama-2-tokenizer", "smollm2.head"


class Skipped(Exception):
    """A contestant that needs what another could not make; it is left out of the report."""


@dataclass(frozen=True)
class Job:
    """What one process measures: the name of a task in `worker`, and its settings."""

    task: str
    share: float  # of the part's time
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the report calls the job as a whole."""
        known = [
            str(self.settings[key]) for key in ("shape", "lane", "dtype", "kernel") if key in self.settings
        ]
        return " ".join([self.task, *known])


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


# Shares are seconds of eight minutes.
PARTS = (
    Part("answer-7b", 75, (answer("kit", 1.4, details=True), answer("gptq_torch"), answer("gptq_triton"))),
    Part(
        "train-1b",
        95,
        (
            train("1b", ("kit", 64, 3, 8), ("sft", 64, 3, 8), share=2),
            train("1b", ("knowing", 64, 3, 8), ("knowing", 128, 3, 8), share=2),
            train("1b", ("kit", "auto", 2, 4), share=1.2),
            train("1b", ("2023", 4, 2, 6), share=0.8),
        ),
    ),
    Part(
        "gptq-70b",
        125,
        (
            train(
                "70b-gptq",
                ("kit", 32, 1, 2),
                ("sft", 32, 1, 1),
                ("kit", "auto", 1, 2),
                ("knowing", 32, 1, 1),
                share=2.5,
                rows=1250,
            ),
            answer("kit", shape="70b-gptq", clients=[1, 16], tokens=24),
        ),
    ),
    Part("answer-7b-exllama", 20, (answer("gptq_exllama_v2"),), "exllamav2"),
    Part(
        "answer-70b-exllama",
        20,
        (answer("gptq_exllama_v2", shape="70b-gptq", clients=[1, 16], tokens=24),),
        "exllamav2",
    ),
    Part("train-8b", 40, (train("8b", ("kit", 32, 2, 4), ("sft", 32, 2, 4), ("knowing", 32, 2, 4)),)),
    Part("answer-7b-marlin", 15, (answer("gptq_marlin", dtype="float16"),), "marlin_fp16"),
    Part(
        "train-7b-gptq",
        40,
        (
            train("7b-gptq", ("kit", 32, 1, 3), ("sft", 32, 1, 3), ("knowing", 32, 1, 3), share=2),
            train("7b-gptq", ("kit", 32, 1, 3), dtype="float16", share=0.8),  # with a loss scaler, as on a T4
            train("7b", ("qlora", 32, 1, 3), share=0.8),
        ),
    ),
    Part(
        "rows-without-prefix",
        20,
        (train("1b", ("kit", 32, 2, 5), ("knowing", 32, 2, 5), data="random"),),
    ),
    Part("memory", 20, (Job("memory", 1),)),
    Part("unsloth", 10, (Job("unsloth", 1, {"shape": "1b", "batch": 64, "steps": 6}),)),
)
LESSONS = Part(  # a call of its own: --part lessons
    "lessons",
    480,
    tuple(Job("lessons", share, {"lane": lane}) for lane, share in (("tiny", 2), ("t4", 2), ("large", 3))),
)


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
