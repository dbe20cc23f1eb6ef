"""Token sequences with common beginnings laid out as one sequence, in which every common part stands, and is computed, once.

The sequences form a tree (a trie): they share a segment of tokens up to where they part. A token sees the tokens before it in its own
sequence and no others. Such a tree goes through a model as one row with an attention mask and positions of its own; what comes out
at each token is what the token's whole sequence would have given, up to rounding. Branches do not see each other, so that on a CPU attention
is computed a branch at a time, and not as one square of all tokens by all tokens.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from helpers.training.packing import PackedSequence

ARCHITECTURES = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
}  # transformers' model_type; each is held against plain computation by a test


def find_obstacle(model: torch.nn.Module) -> str | None:
    """Why packed sequences cannot go through this model, in words; None when they can."""
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"it was not tested on the architecture '{config.model_type}'"
    if config._attn_implementation not in ("sdpa", "eager", "branches"):
        return f"attention '{config._attn_implementation}' takes no mask of its own"
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        return "the model has sliding-window attention"
    return None


def attend_branchwise(model: torch.nn.Module) -> None:
    """Lets the model compute the attention of packed sequences a branch at a time, from now on; all else it computes as before."""
    model.config._attn_implementation = "branches"


def score_targets(
    model, packed: PackedSequence, places: Sequence[int], targets: Sequence[int], cache=None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities in nats, hits), both (targets,): of each target token after the token at its place, and whether it is the likeliest.

    The language-model head is computed at these places only. `model` may be wrapped, as accelerate does it for several processes.
    """
    device = model.device
    kept, index = torch.tensor(places, device=device, dtype=torch.long).unique(return_inverse=True)
    logits = model(
        input_ids=packed.input_ids[None].to(device),
        attention_mask=packed.visible[None, None].to(device),
        pieces=packed.pieces,
        branches=cut_masks(packed)
        if device.type == "cpu"
        else None,  # on a GPU one large square took 0.7 of the time
        position_ids=packed.positions[None].to(device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=kept,
    ).logits[0]
    wanted = torch.tensor(targets, device=device, dtype=torch.long)
    logits = logits.float()
    # not log_softmax: on a CPU its float32 form is off by up to 1e-5 over a large vocabulary
    return logits[index, wanted] - logits.logsumexp(-1)[index], logits.argmax(-1)[index] == wanted


def cut_masks(packed: PackedSequence) -> list[tuple[torch.Tensor, list[int]]]:
    """(mask, pieces that it covers) of each branch, as attend_by_branches takes them; once for all layers.

    A mask is (tokens, tokens of its pieces), to be added to attention scores: 0 where a token sees another, else -inf. bfloat16 holds both.
    """
    lines = torch.zeros(packed.visible.shape, dtype=torch.bfloat16).masked_fill(
        ~packed.visible, float("-inf")
    )
    parts = [part.split(packed.pieces, 1) for part in lines.split([length for length, _ in packed.branches])]
    return [
        (torch.cat([part[i] for i in seen], 1), seen)
        for part, (_, seen) in zip(parts, packed.branches, strict=True)
    ]


def attend_by_branches(
    module, query, key, value, attention_mask, pieces=None, branches=None, scaling=None, **kwargs
) -> tuple[torch.Tensor, None]:
    """transformers' attention function for packed sequences: each branch attends to itself and to what it continues.

    `query`: (1, heads, tokens, size); `key`, `value`: (1, key heads, before + tokens, size); `branches`: of cut_masks; the result: (1, tokens,
    heads, size). Without `branches`, and with dropout, it is plain `sdpa`.
    """
    if branches is None or kwargs.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    keys, values = (
        key.split(pieces, 2),
        value.split(pieces, 2),
    )  # no slices: a slice's backward pass is as large as what it is cut from
    results = []
    for part, (mask, seen) in zip(query.split([len(mask) for mask, _ in branches], 2), branches, strict=True):
        near = [torch.cat([parts[number] for number in seen], 2) for parts in (keys, values)]
        results.append(attend_grouped(part, *near, mask.to(query.dtype), scaling))
    return torch.cat(results, 1), None


def attend_grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """softmax(QK' scaling + mask) V, the query heads that share a key head as one matrix, so that keys and values are not repeated for them.

    In bfloat16 it is written out: on a CPU torch's sdpa takes nearly twice as long, its backward pass two to three times. In float32 it is
    sdpa, whose rounding is that of the plain way.
    `query`: (1, heads, n, size); `key`, `value`: (1, key heads, m, size); `mask`: (n, m), added; the result: (1, n, heads, size).
    """
    if query.dtype == torch.float32:
        return scaled_dot_product_attention(
            query, key, value, mask, scale=scaling, enable_gqa=True
        ).transpose(1, 2)
    (_, heads, n, size), groups = query.shape, key.shape[1]
    scores = ((query * scaling).reshape(groups, -1, size) @ key[0].mT).view(groups, -1, n, key.shape[2])
    chances = scores.add_(mask).softmax(-1)  # which torch computes in float32 and rounds once
    return (chances.view(groups, -1, key.shape[2]) @ value[0]).view(1, heads, n, size).transpose(1, 2)


AttentionInterface.register("branches", attend_by_branches)
AttentionMaskInterface.register("branches", sdpa_mask)  # for calls that pack nothing, such as generate
