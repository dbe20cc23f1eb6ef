"""Token sequences with common beginnings laid out as one sequence, in which every common part stands, and is computed, once.

The sequences are given as a tree of segments: a token sees the tokens before it in its own segment and all of the segments that its
own one continues. Such a tree goes through a model as one row with an attention mask and positions of its own; what comes out at
each token is what the token's whole sequence would have given, up to rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}  # transformers' model_type; each is held against plain computation by a test


class PackedSequence(NamedTuple):
    """A tree of segments as one sequence."""

    input_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,): each token's place in its own sequence
    visible: torch.Tensor  # (tokens, before + tokens), bool: which tokens (columns) each token (line) sees
    ends: list[int]  # place of each segment's last token; for an empty segment, of the token before it


def find_obstacle(model: torch.nn.Module) -> str | None:
    """Why packed sequences cannot go through this model, in words; None when they can."""
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"it was not tested on the architecture '{config.model_type}'"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention '{config._attn_implementation}' takes no mask of its own"
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        return "the model has sliding-window attention"
    return None


def pack_segments(segments: Sequence[tuple[Sequence[int], int | None]], before: int = 0) -> PackedSequence:
    """Lays out segments, each (token ids, index of the earlier segment that it continues, or None), one after the other.

    Every first segment comes after `before` tokens that a cache holds already.
    """
    starts: list[int] = []
    lineage = torch.eye(len(segments), dtype=torch.bool)
    for index, (_, parent) in enumerate(segments):
        starts.append(before if parent is None else starts[parent] + len(segments[parent][0]))
        if parent is not None:
            lineage[index] |= lineage[parent]
    lengths = torch.tensor([len(tokens) for tokens, _ in segments])
    owners = torch.repeat_interleave(torch.arange(len(segments)), lengths)
    positions = torch.cat([torch.arange(start, start + len(tokens)) for start, (tokens, _) in zip(starts, segments, strict=True)])
    visible = lineage[owners][:, owners] & (positions[:, None] >= positions)
    visible = torch.cat([visible.new_ones(len(visible), before), visible], dim=1)
    input_ids = torch.tensor([token for tokens, _ in segments for token in tokens])
    return PackedSequence(input_ids, positions, visible, (lengths.cumsum(0) - 1).tolist())


def score_targets(model, packed: PackedSequence, places: Sequence[int], targets: Sequence[int], cache=None) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities in nats, hits), both (targets,): of each target token after the token at its place, and whether it is the likeliest.

    The language-model head is computed at these places only.
    """
    device = model.device
    logits = model(
        input_ids=packed.input_ids[None].to(device),
        attention_mask=packed.visible[None, None].to(device),
        position_ids=packed.positions[None].to(device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=torch.tensor(places, device=device),
    ).logits[0]
    wanted = torch.tensor(targets, device=device)
    logits = logits.float()
    # not log_softmax: on a CPU its float32 form is off by up to 1e-5 over a large vocabulary
    return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1), logits.argmax(-1) == wanted
