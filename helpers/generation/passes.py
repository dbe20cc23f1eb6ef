"""One pass of a model over new columns of a batch, a table that `batching` describes."""

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

PADDING_ID = 0  # any token id does: the attention mask hides it


def pad_rows(prompts: list[list[int]]) -> list[list[int]]:
    """The rows, padded on the left to the longest one."""
    longest = max(map(len, prompts))
    return [[PADDING_ID] * (longest - len(ids)) + ids for ids in prompts]


def run_pass(
    model: PreTrainedModel | PeftModel,
    new_ids: list[list[int]],
    lengths: list[int],
    cache: DynamicCache,
    kept: int = 1,
) -> torch.Tensor:
    """One pass over new columns of token ids, with which the rows have these lengths; extends the cache.

    Returns the logits after the last `kept` columns, (rows, kept, vocabulary).
    """
    ids = torch.tensor(new_ids, device=model.device)
    new_columns = ids.shape[1]
    all_columns = cache.get_seq_length() + new_columns
    padding = torch.tensor([[all_columns - length] for length in lengths], device=model.device)  # (rows, 1)
    columns = torch.arange(all_columns, device=model.device)[None]  # (1, all columns)
    # Attention without a mask is faster.
    mask = (columns >= padding).long() if min(lengths) < all_columns else None
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(columns[:, -new_columns:] - padding).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        # As indices: of a slice, which is not contiguous, torch would multiply each row by a copy of the
        # head's weights (43 of the 200 ms that a prompt of 140 tokens takes on two cores).
        logits_to_keep=torch.arange(new_columns - kept, new_columns, device=model.device),
    ).logits
    return logits[:, -kept:]
