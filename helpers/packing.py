"""Token sequences with common beginnings laid out as one sequence, in which every common part stands, and is computed, once.

The sequences form a tree (a trie): they share a segment of tokens up to where they part. A token sees the tokens before it in its own
sequence and no others. Such a tree goes through a model as one row with an attention mask and positions of its own; what comes out
at each token is what the token's whole sequence would have given, up to rounding.
"""

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}  # transformers' model_type; each is held against plain computation by a test

Segment = tuple[Sequence[int], int | None]  # token ids, and the number of the segment that they continue


class PackedSequence(NamedTuple):
    """Sequences with common beginnings as one sequence."""

    input_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,): each token's place in its own sequence
    visible: torch.Tensor  # (tokens, before + tokens), bool: which tokens (columns) each token (line) sees
    paths: list[list[int]]  # of each sequence that was given, the places of its tokens here


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


def pack_sequences(sequences: Sequence[Sequence[int]], before: int = 0) -> PackedSequence:
    """Lays out sequences of token ids as one. All of them come after `before` tokens that a cache holds already."""
    segments, owned = split_into_segments(sequences)
    lineage, starts = torch.eye(len(segments), dtype=torch.bool), []
    for number, (_, parent) in enumerate(segments):
        starts.append(before if parent is None else starts[parent] + len(segments[parent][0]))
        if parent is not None:
            lineage[number] |= lineage[parent]
    places = list(itertools.accumulate((len(tokens) for tokens, _ in segments), initial=0))
    owners = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor([len(tokens) for tokens, _ in segments]))
    positions = torch.cat([torch.arange(start, start + len(tokens)) for start, (tokens, _) in zip(starts, segments, strict=True)])
    visible = lineage[owners][:, owners] & (positions[:, None] >= positions)
    visible = torch.cat([visible.new_ones(len(visible), before), visible], dim=1)
    input_ids = torch.tensor([token for tokens, _ in segments for token in tokens])
    return PackedSequence(input_ids, positions, visible, [[p for n in numbers for p in range(places[n], places[n + 1])] for numbers in owned])


def split_into_segments(sequences: Sequence[Sequence[int]]) -> tuple[list[Segment], list[list[int]]]:
    """(segments of the tree that the sequences form, parents first; of each sequence, the numbers of its segments in order)."""
    segments: list[Segment] = []
    owned: list[list[int]] = [[] for _ in sequences]
    branches: list[tuple[list[int], int, int | None]] = [(list(range(len(sequences))), 0, None)]  # (sequences, depth, parent)
    while branches:
        members, depth, parent = branches.pop()
        common = os.path.commonprefix([sequences[i][depth:] for i in members])
        if common:
            segments.append((common, parent))
            parent = len(segments) - 1
            for i in members:
                owned[i].append(parent)
        depth, parting = depth + len(common), {}
        for i in members:
            if len(sequences[i]) > depth:
                parting.setdefault(sequences[i][depth], []).append(i)
        branches += [(group, depth, parent) for group in reversed(parting.values())]
    return segments, owned


def score_targets(model, packed: PackedSequence, places: Sequence[int], targets: Sequence[int], cache=None) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities in nats, hits), both (targets,): of each target token after the token at its place, and whether it is the likeliest.

    The language-model head is computed at these places only.
    """
    device = model.device
    kept, index = torch.tensor(places, device=device, dtype=torch.long).unique(return_inverse=True)
    logits = model(
        input_ids=packed.input_ids[None].to(device),
        attention_mask=packed.visible[None, None].to(device),
        position_ids=packed.positions[None].to(device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=kept,
    ).logits[0]
    wanted = torch.tensor(targets, device=device, dtype=torch.long)
    logits = logits.float()
    # not log_softmax: on a CPU its float32 form is off by up to 1e-5 over a large vocabulary
    return logits[index, wanted] - logits.logsumexp(-1)[index], logits.argmax(-1)[index] == wanted
