"""Watches validation rows while a LoRA is trained: loss and exact answers, early stopping, the best state.

What is measured is the same for every kind of data and for both trainers:

- loss: the mean negative log-likelihood of the learned tokens, in nats, as a training step reports it for its
  own rows.
- exact: the share of rows whose learned tokens are each the model's likeliest token after the right ones
  before it. That is the share of rows that greedy decoding would answer word for word. Its first token is
  the likeliest one, which is the answer's first token; then it goes on after the same tokens as here, and so
  on up to the token that ends the answer. At the first token that is not the likeliest, it writes another
  answer. A chat counts if that holds for all its learned turns, each after the right turns before it.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from trl.trainer.sft_trainer import SFTTrainer

from helpers.common.machine import Choice
from helpers.training._private import judge_padded

EVALUATIONS = 10  # in a training, if they are cheap: enough to see a curve
SHARE = 0.1  # of the training's time that they may take, except that each epoch ends with one
# A row costs a forward pass here. In training a backward pass through the frozen weights comes on top, which
# takes as many operations.
COST = 0.5
PATIENCE = 3  # evaluations without a lower loss after which the training ends


def count_evaluations(epochs: float, train_rows: int, validation_rows: int) -> int:
    """How many evaluations an epoch has, the one at its end included."""
    affordable = SHARE * train_rows / (COST * validation_rows)
    return max(1, math.floor(min(EVALUATIONS / epochs, affordable)))


def watch_validation(config: TrainingArguments) -> None:
    """Lets a training evaluate after each epoch, and keep the best state as a checkpoint."""
    config.set_evaluate("epoch", batch_size=config.per_device_train_batch_size, delay=0)
    config.set_save("best")
    config.load_best_model_at_end = True
    config.metric_for_best_model = "loss"
    config.greater_is_better = False
    config.restore_callback_states_from_checkpoint = True  # EarlyStoppingCallback goes on counting


class WatchPlan(TrainerCallback):
    """Evaluates within epochs too, `parts` times an epoch, and saves checkpoints every `checkpoint_steps`.

    transformers saves either the best state or one every so many steps, and it does not save in a step that
    it evaluates without a new best one. Such a checkpoint is saved a step later.
    """

    def __init__(self, parts: int, checkpoint_steps: int):
        self.parts = parts
        self.checkpoint_steps = checkpoint_steps
        self.passed = 0  # parts of epochs that have ended
        self.evaluated = -1  # step of the last evaluation
        self.save_is_due = False

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts where the training starts, which may be a checkpoint."""
        self.passed = self.count_passed(state)

    def on_step_end(self, args, state, control, **kwargs):
        """Asks for an evaluation at the end of a part, unless an epoch or the training ends with it."""
        passed, before = self.count_passed(state), self.passed
        self.passed = passed
        ends = passed % self.parts == 0 or state.global_step >= state.max_steps
        control.should_evaluate = control.should_evaluate or (passed > before and not ends)
        if self.checkpoint_steps and state.global_step % self.checkpoint_steps == 0:
            self.save_is_due = True
        if self.save_is_due and not control.should_evaluate:
            control.should_save, self.save_is_due = True, False

    def on_evaluate(self, args, state, control, **kwargs):
        """Notes the step."""
        self.evaluated = state.global_step

    def on_epoch_end(self, args, state, control, **kwargs):
        """Leaves the evaluation out if the epoch was ended right after one."""
        control.should_evaluate = control.should_evaluate and state.global_step != self.evaluated

    def count_passed(self, state) -> int:
        """How many parts of epochs have ended."""
        return math.floor((state.epoch or 0) * self.parts + 1e-6)


class WatchingTrainer(SFTTrainer):
    """An SFTTrainer that can watch rows: `evaluate` gives their loss and the share of exact answers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.choices: dict[str, Choice[Any]] = {}  # what was chosen for model and machine, for run.json

    def create_model_card(self, *args, **kwargs) -> None:
        """Writes nothing: TRL's card would take the place of a README.md beside the checkpoints."""

    def watch(self, checkpoint_steps: int) -> None:
        """Watches the rows of eval_dataset, whose column `row` says which sequences are one row."""
        trained, watched = cast(Dataset, self.train_dataset), cast(Dataset, self.eval_dataset)
        self.compute_metrics = Summary(list(watched["row"]))
        parts = count_evaluations(self.args.num_train_epochs, len(trained), len(watched))
        self.add_callback(WatchPlan(parts, checkpoint_steps))
        self.add_callback(EarlyStoppingCallback(PATIENCE))

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, scores, lengths) of a batch of watched rows; of others, what SFTTrainer gives.

        The loss is None, since Summary computes it for all rows. scores: (sequences, 2), negative
        log-likelihood in nats and whether all is right; lengths: (sequences, 1), learned tokens.
        """
        if prediction_loss_only or not isinstance(self.compute_metrics, Summary):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        lengths = (inputs["labels"][:, 1:] != -100).sum(1, keepdim=True)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = self.score_sequences(model, inputs)
        return None, scores, lengths

    def score_sequences(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """(sequences, 2): the scores of a batch that TRL's collator made."""
        log_probabilities, right = judge_padded(model, inputs)
        return torch.stack([-log_probabilities.sum(1), right.all(1).float()], dim=1)


class Summary:
    """Scores of all sequences to {"loss", "exact"}; `owners` says of each sequence which row it is of."""

    def __init__(self, owners: list[int]):
        self.owners = np.array(owners)
        self.rows = len(set(owners))

    def __call__(self, found: EvalPrediction) -> dict[str, float]:
        """The mean loss of a learned token, in nats, and the share of rows that are right."""
        scores, lengths = np.asarray(found.predictions), np.asarray(found.label_ids)
        wrong = set(self.owners[scores[:, 1] == 0])
        loss = scores[:, 0].sum(dtype=np.float64) / lengths.sum()
        return {"loss": loss, "exact": 1 - len(wrong) / self.rows}


def describe_watching(trainer: Trainer) -> dict[str, Any] | None:
    """What run.json says of the validation: curve, best step, whether it ended the training; None without."""
    state, summary = trainer.state, trainer.compute_metrics
    found = {entry["step"]: entry for entry in state.log_history if "eval_exact" in entry}
    if not found or not isinstance(summary, Summary):
        return None
    stopping = [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    waited = any(one.early_stopping_patience_counter >= PATIENCE for one in stopping)
    return {
        "rows": summary.rows,
        "steps": list(found),
        "loss": [round(entry["eval_loss"], 4) for entry in found.values()],
        "exact": [round(entry["eval_exact"], 4) for entry in found.values()],
        "best_step": state.best_global_step,
        "stopped_early": waited and state.global_step < state.max_steps,
    }


def say_watching(found: dict[str, Any], planned_steps: int) -> str:
    """What describe_watching gives, in one line."""
    best = found["steps"].index(found["best_step"])
    state = f"the state after step {found['best_step']} of {planned_steps} was kept"
    scores = f"loss {found['loss'][best]:.2f}, {found['exact'][best]:.0%} of the answers word for word"
    end = ", and the training ended early" if found["stopped_early"] else ""
    return f"{found['rows']} validation rows: {state} ({scores}){end}"
