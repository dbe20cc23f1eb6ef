"""What a model returns, set back to what the kit relies on: a folder's files may say something else."""

from transformers import GenerationConfig, PreTrainedConfig

from helpers.weights.folders import ModelFolder

# Outputs with names, and nothing that costs memory.
OUTPUTS = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "use_cache": True,
}
# What `generate` can return beside the tokens, in an object in place of a tensor.
EXTRAS = (
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)


def restore_outputs(config: PreTrainedConfig) -> None:
    """Gives a config the values of those settings that say only how a model returns what it computed."""
    for part in (config, config.get_text_config()):
        for name, value in OUTPUTS.items():
            setattr(part, name, value)


def restore_generation(config: GenerationConfig) -> None:
    """The same for how the model's own `generate` returns an answer; no length limits it but the caller's."""
    for name in EXTRAS:
        setattr(config, name, False)
    config.max_length = None  # Llama 2's is 4096, and transformers warns of it beside max_new_tokens


def reread_generation(folder: ModelFolder, config: PreTrainedConfig) -> GenerationConfig:
    """How the folder's publisher samples, before restore_generation changed it: to save it with a model.

    transformers saves what nobody has changed, and refuses a changed one with odd settings, such as a
    temperature without sampling, or the pad token -1.
    """
    try:
        return GenerationConfig.from_pretrained(folder.path)
    except OSError:  # there is none
        return GenerationConfig.from_model_config(config)
