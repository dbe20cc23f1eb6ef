"""The same training with the shared prefix computed once: a drop-in SFTTrainer.

Every prompt of a template begins with the same tokens. Within one step the weights do not change, so these tokens go through the
model once a batch, and their keys and values serve every row; back-propagation through the repeated cache adds up the rows'
gradients. The language-model head is computed only where there is a label. Loss and gradients agree with SFTTrainer's
(test_prefix_trainer says how closely); dropout on the shared tokens is drawn once a batch.
"""

import torch
from trl import SFTTrainer


class SharedPrefixTrainer(SFTTrainer):
    """SFTTrainer for rows of `prompt` and `completion`. Without a common prefix it computes whole rows."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-likelihood, in nats, over the labelled tokens of the batch (of all accumulated batches when given their number)."""
        columns, logits = compute_label_logits(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        labels = inputs["labels"][:, columns + 1]
        total = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum")
        labelled = labels != -100
        right = (logits.argmax(-1) == labels)[labelled].float().mean()
        self._metrics["train" if model.training else "eval"]["mean_token_accuracy"].append(right.item())
        loss = total / (num_items_in_batch if num_items_in_batch is not None else labelled.sum().clamp(min=1))
        return (loss, {"logits": logits}) if return_outputs else loss


def count_shared(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> int:
    """How many first columns are the same token in every row, with no label in them nor in the next; 0 for a batch padded on the left."""
    same = (input_ids == input_ids[:1]).all(0) & attention_mask.bool().all(0)
    unlabelled = (labels == -100).all(0)
    unlabelled = torch.cat([unlabelled[1:], unlabelled.new_zeros(1)]) & unlabelled
    return int((same & unlabelled).long().cumprod(0).sum())


def compute_label_logits(model, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(columns, logits): the columns that predict a label in some row, and the logits there, (rows, columns, vocabulary).

    All three inputs are (rows, tokens), padded on the right. A single row has nothing to share.
    """
    columns = (labels != -100).any(0).nonzero().flatten() - 1
    shared = count_shared(input_ids, attention_mask, labels) if len(input_ids) > 1 else 0
    cache = None
    if shared:
        cache = model(input_ids=input_ids[:1, :shared], use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(input_ids))
    positions = torch.arange(shared, input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
    logits = model(
        input_ids=input_ids[:, shared:],
        attention_mask=attention_mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=columns - shared,
    ).logits
    return columns, logits
