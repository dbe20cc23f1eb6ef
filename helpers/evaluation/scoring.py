"""How likely each possible answer is after a prompt, computed with as few tokens as it takes; nothing is generated.

What all prompts begin with goes through the model once for the whole set, each prompt once for all of its answers (its end-of-turn
token included). Where only the likeliest answer is asked for, an answer is left out once its beginning is less likely than
another whole one: what follows can only lower it.
"""

import os
from collections.abc import Callable

import torch
from tqdm.auto import tqdm

from helpers.evaluation.metrics import Scores
from helpers.loading.messages import tokenize_chat
from helpers.loading.model import LoadedModel
from helpers.tasks.rows import Row
from helpers.tasks.template import Template
from helpers.training.branches import attend_branchwise, find_obstacle, score_targets
from helpers.training.packing import pack_continuations, pack_sequences

BATCH_TOKENS = 4000  # some eighty of the lessons' prompts; on 2 cores 3,000 to 8,000 are about as fast


Example = tuple[list[int], dict[int, list[int]]]  # token ids of a prompt, and of each label's answer


def score_answers(
    loaded: LoadedModel,
    rows: list[Row],
    template: Template,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
    every: bool = True,
) -> list[Scores]:
    """log P(answer | prompt), in nats, of each possible answer of each row: a list of {label: score} in the order of the rows.

    A batch takes rows until their prompts have `batch_tokens` of their own. Without `every` a row has the scores of only those answers that
    had to be computed to know which one is the likeliest.
    """
    examples = [tokenize_row(loaded, row, template) for row in rows]
    shared = min(
        len(os.path.commonprefix([prompt for prompt, _ in examples])),
        min(len(prompt) for prompt, _ in examples) - 1,
    )
    order = sorted(
        range(len(rows)), key=lambda i: examples[i][0]
    )  # rows that begin alike come into one batch
    scores: list[Scores] = [{} for _ in rows]
    loaded.model.eval()
    with torch.inference_mode():
        cache = None
        if shared and not find_obstacle(loaded.model):
            attend_branchwise(loaded.model)
            cache = fill_cache(loaded, examples[0][0][:shared])
        batches = fill_batches(order, [len(prompt) - shared for prompt, _ in examples], batch_tokens)
        for batch in tqdm(batches, desc="scoring", unit="batch", disable=not progress):
            found = score_batch(loaded, [examples[i] for i in batch], shared, cache, every)
            for i, row_scores in zip(batch, found, strict=True):
                scores[i] = row_scores
    return scores


def fill_batches(order: list[int], lengths: list[int], limit: int) -> list[list[int]]:
    """The numbers in `order`, cut into batches whose lengths together stay within the limit; one that is longer stands alone."""
    batches, room = [], 0
    for i in order:
        if not batches or lengths[i] > room:
            batches.append([])
            room = limit
        batches[-1].append(i)
        room -= lengths[i]
    return batches


def tokenize_row(loaded: LoadedModel, row: Row, template: Template) -> Example:
    """Token ids of a row's prompt, and of each of its answers up to and with the end-of-turn token."""
    tokenizer = loaded.tokenizer
    prompt = tokenize_chat(tokenizer, template.build_messages(row))["input_ids"][0].tolist()
    answers = {
        label: [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for label, answer in template.build_answers(row).items()
    }
    return prompt, answers


def fill_cache(loaded: LoadedModel, prefix: list[int]):
    """transformers' cache with the keys and values of the tokens that all prompts begin with."""
    return loaded.model(
        torch.tensor([prefix], device=loaded.model.device), use_cache=True, logits_to_keep=1
    ).past_key_values


def score_batch(
    loaded: LoadedModel, examples: list[Example], shared: int, cache, every: bool
) -> list[Scores]:
    """{label: score} of each example. With a cache of the first `shared` tokens, which is left as it came, prompts and answers are packed."""
    if cache is None:
        return [score_plainly(loaded, prompt, answers) for prompt, answers in examples]
    packed = pack_sequences([prompt[shared:] for prompt, _ in examples], before=shared)
    asked = [
        (path[-1], answer[0])
        for path, (_, answers) in zip(packed.paths, examples, strict=True)
        for answer in answers.values()
    ]
    begun = iter(score_targets(loaded.model, packed, *zip(*asked, strict=True), cache)[0].tolist())
    beginnings = [{label: next(begun) for label in answers} for _, answers in examples]

    def finish(wanted: list[list[int]]) -> list[Scores]:
        """The scores of these labels of each example, their answers computed to the end."""
        return score_endings(loaded, packed, examples, beginnings, wanted, cache)

    scores = finish([list(found) for found in beginnings]) if every else find_likeliest(beginnings, finish)
    cache.crop(-len(packed.input_ids))
    return scores


def find_likeliest(
    beginnings: list[Scores], finish: Callable[[list[list[int]]], list[Scores]]
) -> list[Scores]:
    """The scores of the answers that may be the likeliest of their example: the one that begins best, then all whose beginning is not below it."""
    favoured = [max(found, key=found.get) for found in beginnings]
    scores = finish([[label] for label in favoured])
    rivals = [
        [label for label, score in found.items() if label != best and score >= known[best]]
        for found, best, known in zip(beginnings, favoured, scores, strict=True)
    ]
    later = finish(rivals) if any(rivals) else [{} for _ in rivals]
    complete = [first | second for first, second in zip(scores, later, strict=True)]
    # in the template's order, so that equal scores give the verdict that they would give if all stood here
    return [
        {label: known[label] for label in found if label in known}
        for found, known in zip(beginnings, complete, strict=True)
    ]


def score_endings(
    loaded: LoadedModel,
    packed,
    examples: list[Example],
    beginnings: list[Scores],
    wanted: list[list[int]],
    cache,
) -> list[Scores]:
    """{label: score} of the `wanted` labels of each example, whose packed prompts the cache holds and whose first tokens are scored already."""
    pairs = [(i, label) for i, labels in enumerate(wanted) for label in labels]
    groups = [
        [answers[label][:-1] for label in labels]
        for (_, answers), labels in zip(examples, wanted, strict=True)
    ]
    endings = pack_continuations(packed, groups)
    answers = [examples[i][1][label] for i, label in pairs]
    asked = [
        pair
        for path, answer in zip(endings.paths, answers, strict=True)
        for pair in zip(path, answer[1:], strict=True)
    ]
    found, _ = score_targets(loaded.model, endings, *zip(*asked, strict=True), cache)
    cache.crop(-len(endings.input_ids))
    scores: list[Scores] = [{} for _ in examples]
    for (i, label), part in zip(pairs, found.split([len(answer) - 1 for answer in answers]), strict=True):
        scores[i][label] = beginnings[i][label] + part.sum().item()
    return scores


def score_plainly(loaded: LoadedModel, prompt: list[int], answers: dict[int, list[int]]) -> Scores:
    """{label: score} with one pass of the model a label and nothing shared: for architectures that cannot be packed."""
    scores = {}
    for label, answer in answers.items():
        ids = torch.tensor([[*prompt, *answer]], device=loaded.model.device)
        logits = loaded.model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        scores[label] = logits.gather(-1, ids[0, len(prompt) :, None]).sum().item()
    return scores
