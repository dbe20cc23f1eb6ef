"""A check in words, for people: the most urgent first."""

from collections.abc import Iterator

from helpers.tasks.checks.checking import Check
from helpers.tasks.checks.estimate import Estimate
from helpers.tasks.checks.findings import LISTED
from helpers.tasks.checks.lengths import Lengths

NAMES = {"stops": "MUST BE FIXED", "warns": "should be fixed", "hints": "worth a look"}
SHOWN_PLACES = 5
SHOWN_LABELS = 20


def describe_check(check: Check) -> Iterator[str]:
    """The lines of a report."""
    split = f"{check.train_rows:,} to train on, {check.test_rows:,} held out"
    yield f"{check.data}: {check.rows:,} rows ({split}); kind: {check.kind}; template: {check.template}"
    yield f"  columns: {', '.join(check.columns)}"
    yield from (f"  {note}" for note in check.notes)
    for finding in check.findings:
        yield f"{NAMES[finding.level]}: {finding.problem} {finding.remedy}"
        if finding.code == "faults":
            yield from describe_faults(check)
        elif finding.places:
            more = f", and {finding.count - SHOWN_PLACES:,} more" if finding.count > SHOWN_PLACES else ""
            yield f"    {'; '.join(finding.places[:SHOWN_PLACES])}{more}"
    yield from describe_answers(check)
    if check.lengths:
        yield describe_lengths(check.lengths, check.model)
    if check.estimate:
        yield describe_estimate(check.estimate)
        if check.estimate.batch_reason:
            yield f"  {check.estimate.batch_reason}"
    yield "It can be trained as it is." if check.trainable else "It cannot be trained as it is."


def describe_faults(check: Check) -> Iterator[str]:
    """A line for each fault, up to LISTED of them."""
    for fault in check.faults[:LISTED]:
        yield f"    {fault.place}: {fault.problem} {fault.remedy}"
    if len(check.faults) > LISTED:
        yield f"    and {len(check.faults) - LISTED:,} more"


def describe_answers(check: Check) -> Iterator[str]:
    """The labels or the answers."""
    if check.labels:
        counts = [f"{label} {count:,}" for label, count in check.labels.counts.items()]
        more = f" ... ({len(counts)} labels)" if len(counts) > SHOWN_LABELS else ""
        yield f"labels: {', '.join(counts[:SHOWN_LABELS])}{more}"
        bag = check.labels.bag_of_words
        words = "not judged" if bag is None else f"{bag:.1%} right"
        majority = f"the most frequent label {check.labels.majority:.1%} right"
        yield f"  without a model: {majority}; a bag of words {words} ({check.labels.bag_method})"
    if check.answers:
        most = f"the most frequent one in {check.answers.most_frequent:.1%} of the rows"
        yield f"answers: {check.answers.different:,} different, {most}; median {check.answers.words:g} words"


def describe_lengths(lengths: Lengths, model: str | None) -> str:
    """The lengths in one line."""
    figures = f"median {lengths.median:g}, 95% up to {lengths.p95:,}, longest {lengths.longest:,}"
    if lengths.limit is None:
        return f"lengths in words: {figures} (no model is in models/, so not in tokens; see --model)"
    rest = f"{lengths.limit_name} is {lengths.limit:,}, {lengths.cut:,} rows are cut"
    measured = f"{lengths.rows:,} rows were counted with the tokenizer of {model}"
    return f"lengths in tokens: {figures}; {rest} ({measured})"


def describe_estimate(estimate: Estimate) -> str:
    """The estimate in one line."""
    if estimate.minutes is None or estimate.memory_bytes is None or estimate.speed is None:
        return f"No estimate of a training: {estimate.reason.rstrip('.')}."
    gigabytes = f"{estimate.memory_bytes / 1e9:.1f} GB of memory"
    if estimate.free_bytes:
        gigabytes += f" ({estimate.free_bytes / 1e9:.1f} free)"
    what = f"{estimate.rows:,} rows in {estimate.steps:,} steps"
    basis = f"from the arithmetic and this machine's speed, {estimate.speed / 1e9:,.0f} GFLOP/s"
    return f"estimate of a training on {what}: {estimate.minutes:.1f} minutes, {gigabytes}; {basis}"
