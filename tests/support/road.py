"""The whole road with one model, from loading to export, and `make zoo`, the table of all kinds."""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from helpers import adapters, clients, evaluation, loading, tasks, training
from helpers.common.paths import PROJECT
from helpers.evaluation.scoring import tokenize_row
from helpers.generation.request import GenerationRequest
from helpers.generation.transformers_engine import TransformersEngine
from helpers.server.openai_api import make_openai_app
from helpers.server.service import Service
from support.real_tokenizers import find_tokenizer
from support.server import serve_app
from support.zoo import MADE, REAL, make_zoo_model

COLLEGES = ["Alderbrook College", "Dunmarsh State University"]
SETTINGS = training.TrainingSettings().replace(
    {"lora_r": 4, "batch_size": 2, "epochs": 1, "checkpoint_steps": 0, "learning_rate": 1e-2}
)
ANSWER = "Repaired"
FIT_STEPS = 120  # at most, until a model of 2 layers says one answer by heart


class Road:
    """One model, step by step. A step raises an AssertionError, or what the kit raises."""

    def __init__(self, name: str, **changes: object):
        self.name = name
        self.template = tasks.load_template(PROJECT / "templates" / "college_preferences.yaml")
        pair = dict(zip(("alternative_a", "alternative_b"), COLLEGES, strict=True))
        self.rows = [{"text": f"Comment {number}", **pair, "label": number} for number in range(4)]
        make_zoo_model(name, Path(os.environ["OPEN_LLM_KIT_HOME"]) / "models" / name, **changes)

    def load(self) -> None:
        """The model, with a chat template."""
        self.loaded = loading.load_model(self.name, dtype="float32", purpose="training")

    def tokens(self) -> None:
        """What is trained is what is scored is what the engine is given."""
        chat = loading.make_chat_tokenizer(self.loaded.tokenizer)
        dataset = training.build_dataset(self.rows, self.template, SETTINGS, self.loaded.tokenizer)
        trained = sorted(zip(dataset["input_ids"], dataset["completion_mask"], strict=True))
        scored = []
        for row in self.rows:
            found = tokenize_row(chat, row, self.template)
            answer = found.answers[row["label"]]
            scored.append((found.prompt + answer, [0] * len(found.prompt) + [1] * len(answer)))
        assert trained == sorted(scored)
        engine = TransformersEngine(self.loaded)
        for row in self.rows:
            request = GenerationRequest(messages=self.template.build_messages(row))
            assert engine.check(request) == tokenize_row(chat, row, self.template).prompt
        engine.close()

    def train(self) -> None:
        """Two steps with the shared prefix, or with TRL's trainer where it cannot be used."""
        data = tasks.TaskData(self.template, self.rows)
        run = training.train_lora(
            self.loaded, data, SETTINGS, adapters.loras_folder() / "mine", progress=False
        )
        assert run["steps"] == 2

    def evaluate(self) -> None:
        """Scores of all answers are log-probabilities of whole sequences."""
        self.loaded = adapters.attach_adapter(loading.load_model(self.name, dtype="float32"), "mine")
        scores = evaluation.score_answers(self.loaded, self.rows, self.template, progress=False)
        chat = loading.make_chat_tokenizer(self.loaded.tokenizer)
        prompt, (answer,) = chat.tokenize_answers(self.template.build_messages(self.rows[0]), [self._right()])
        with torch.inference_mode():
            logits = self.loaded.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum().item()
        assert abs(scores[0][0] - expected) < 1e-2

    def _right(self) -> str:
        return self.template.build_answers(self.rows[0])[0]

    def prove(self) -> None:
        """Every finding speaks for the LoRA."""
        findings = adapters.prove(self.loaded, "mine", self.template)
        assert all(finding.passed for finding in findings), [one for one in findings if not one.passed]

    def merge(self) -> None:
        """Base and LoRA as one folder; merge_adapter compares the logits."""
        adapters.merge_adapter("mine", "merged")

    def serve(self) -> None:
        """Over HTTP, a merged model that has one answer by heart gives its tokens, and ends."""
        loaded = loading.load_model("merged", dtype="float32")
        chat = loading.make_chat_tokenizer(loaded.tokenizer)
        messages = self.template.build_messages(self.rows[0])
        prompt, (answer,) = chat.tokenize_answers(messages, [ANSWER])
        learn_by_heart(loaded.model, prompt, answer)
        engine = TransformersEngine(loaded)
        with serve_app(make_openai_app(Service(engine=engine))) as address:
            client = clients.make_openai_client(f"{address}/v1")
            said = client.chat.completions.create(
                model="merged", messages=messages, max_tokens=40, temperature=0
            )
        engine.close()
        assert said.choices[0].message.content.strip() == ANSWER
        assert said.choices[0].finish_reason == "stop"
        assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (len(prompt), len(answer))
        assert loading.chat(loaded, messages, max_new_tokens=40) == ANSWER

    def export(self) -> None:
        """The LoRA for the WebUI, of 2023 and of today, and the line for vLLM."""
        for program in ("webui-2023", "webui"):
            assert adapters.export_adapter("mine", program).is_dir()
        assert adapters.build_vllm_command(["mine"])


STEPS = ("load", "tokens", "train", "evaluate", "prove", "merge", "serve", "export")


def learn_by_heart(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> None:
    """Trains all weights until the model gives this answer to this prompt."""
    ids = torch.tensor([prompt + answer])
    target = ids[0, len(prompt) :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(FIT_STEPS):
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        if (logits.softmax(-1).gather(-1, target[:, None]) > 0.9).all():
            return
        torch.nn.functional.cross_entropy(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"not learned in {FIT_STEPS} steps")


def walk(name: str) -> dict[str, str]:
    """{step: "ok" and its seconds, or what went wrong}, up to the first step that failed."""
    found = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["OPEN_LLM_KIT_HOME"] = home
        road = Road(name)
        for step in STEPS:
            start = time.monotonic()
            try:
                getattr(road, step)()
            except Exception as error:
                found[step] = f"{type(error).__name__}: {str(error)[:90]}"
                break
            found[step] = f"ok {time.monotonic() - start:.1f} s"
    return found


def main() -> None:
    """Prints the table: a line for each kind of model, a column for each step."""
    print("| model | " + " | ".join(STEPS) + " |")
    print("|---" * (len(STEPS) + 1) + "|")
    for name in sys.argv[1:] or [*REAL, *MADE]:
        if name in REAL and not find_tokenizer(name):
            print(f"| {name} | its tokenizer was not fetched |")
            continue
        found = walk(name)
        print(f"| {name} | " + " | ".join(found.get(step, "") for step in STEPS) + " |", flush=True)


if __name__ == "__main__":
    main()
