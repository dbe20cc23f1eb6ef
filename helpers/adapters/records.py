"""The forms of the JSON files in a LoRA's folder: what each key holds if it is there. None is for null."""

from typing import Any, NotRequired, TypeAlias, TypedDict

Text: TypeAlias = str | None
Count: TypeAlias = int | None
Number: TypeAlias = float | None


class AdapterConfig(TypedDict, total=False):
    """adapter_config.json, as PEFT writes it."""

    peft_type: str
    r: int
    lora_alpha: float
    lora_dropout: float
    base_model_name_or_path: Text
    target_modules: str | list[str] | None
    exclude_modules: str | list[str] | None
    modules_to_save: list[str] | None
    layers_to_transform: int | list[int] | None
    layers_pattern: str | list[str] | None
    rank_pattern: dict[str, int] | None
    alpha_pattern: dict[str, float] | None
    init_lora_weights: bool | str | None
    use_rslora: bool | None
    use_dora: bool | None
    fan_in_fan_out: bool | None
    lora_bias: bool | None
    bias: str
    layer_replication: list[Any] | None
    target_parameters: list[str] | None
    alora_invocation_tokens: list[int] | None
    trainable_token_indices: list[int] | dict[str, list[int]] | None
    auto_mapping: dict[str, Any] | None
    task_type: Text
    revision: Text
    inference_mode: bool | None


class Parameters(TypedDict, total=False):
    """training_parameters.json, as the WebUI writes it; the learning rate is a text."""

    lora_rank: Count
    lora_alpha: Number
    lora_dropout: Number
    micro_batch_size: Count
    batch_size: Count
    epochs: Number
    cutoff_len: Count
    learning_rate: float | str | None
    lr_scheduler_type: Text
    optimizer: Text
    warmup_steps: Number
    add_eos_token: bool | None


class Message(TypedDict):
    """A message of a prompt."""

    role: str
    content: str


class Fingerprint(TypedDict):
    """The logits of the likeliest tokens after a prompt."""

    messages: list[Message]
    top: dict[str, float]
    tokens: NotRequired[int]


class ChatTemplate(TypedDict, total=False):
    """The chat template of the training."""

    name: str
    reason: Text
    sha256: Text


class SplitRecord(TypedDict):
    """What was held out."""

    seed: int
    test_size: float
    validation_size: NotRequired[float]


class Result(TypedDict, total=False):
    """What was measured of one that answered."""

    rows: Count
    accuracy: Number
    interval: tuple[float, float] | None
    exact_match: Number
    exact_interval: tuple[float, float] | None
    token_f1: Number
    token_f1_interval: tuple[float, float] | None
    chrf: Number
    chrf_interval: tuple[float, float] | None
    macro_f1: Number
    weighted_f1: Number
    perplexity: Number
    majority_accuracy: Number
    baselines: dict[str, Any]
    examples: dict[str, list[dict[str, Any]]] | None


class Gain(TypedDict, total=False):
    """How much the LoRA gains over its base."""

    value: float
    interval: tuple[float, float]


class Validation(TypedDict, total=False):
    """What was watched while training."""

    loss: list[float] | None
    steps: list[int] | None
    exact: list[float] | None
    rows: Count
    best_step: Count
    stopped_early: bool | None


class Audit(TypedDict, total=False):
    """Figures of the training rows."""

    copies: int
    labels: dict[str, int]
    question_words: float
    answer_words: float
    messages: float


class Run(TypedDict, total=False):
    """run.json, as the kit's training and evaluation write it."""

    base: Text
    base_sha256: dict[str, str]
    chat_template: ChatTemplate
    rows: int
    settings: dict[str, Any]
    batch_reason: Text
    trainable_parameters: Count
    seconds: Number
    steps: int
    planned_steps: int
    loss: list[float]
    validation: Validation
    peak_mb: Number
    device: str
    commit: str
    date: str
    fingerprint: list[Fingerprint]
    template: str
    template_sha256: Text
    template_file: str
    rows_sha256: str
    data: str
    split: SplitRecord | None
    kind: str
    columns: list[str]
    parts: dict[str, int]
    audit: Audit
    evaluation: dict[str, Result]
    baselines: dict[str, Result]
    gain: dict[str, Gain]
