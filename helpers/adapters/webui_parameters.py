"""Training settings: the tutorial's values of 2023, each lane's deviations with their reasons; YAML and the WebUI's files in and out."""

WEBUI_NAMES = {  # ours: the name in the WebUI's training_parameters.json, the same in 2023 and today
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "batch_size": "micro_batch_size",
    "epochs": "epochs",
    "max_length": "cutoff_len",
    "learning_rate": "learning_rate",
    "schedule": "lr_scheduler_type",
    "optimizer": "optimizer",
}


WEBUI_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)  # its check boxes: q_proj_en ...


def read_webui_parameters(parameters: dict) -> dict:
    """Our settings from the content of the WebUI's training_parameters.json."""
    values = {ours: parameters[theirs] for ours, theirs in WEBUI_NAMES.items() if theirs in parameters}
    for name in {"learning_rate", "lora_dropout"} & set(values):
        values[name] = float(values[name])  # the WebUI keeps the learning rate as text
    if "batch_size" in values and "batch_size" in parameters:
        values["accumulation"] = max(parameters["batch_size"] // values["batch_size"], 1)
    if not parameters.get("all_linear") and any(f"{layer}_en" in parameters for layer in WEBUI_TARGETS):
        values["targets"] = ",".join(
            sorted(layer for layer in WEBUI_TARGETS if parameters.get(f"{layer}_en"))
        )
    return values
