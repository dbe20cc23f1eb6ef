"""`python -m helpers.tasks check`: what stops a training, what spoils it, and what it will take."""

import json

import pytest
from support.tiny import make_tiny_model

from helpers import tasks
from helpers.common.command import run_command
from helpers.common.machine import Choice, pick_dtype
from helpers.common.training_settings import TrainingSettings
from helpers.tasks.__main__ import main
from helpers.tasks.audit import pair_near_copies
from helpers.tasks.checks import estimate
from helpers.tasks.checks.showing import describe_check
from helpers.weights.folders import find_model

TEMPLATE = "task: '{text}'\nlabel: {good: Good, bad: Bad}\n"
THINGS = "kettle lamp clock radio chair stove fan iron drill mixer".split()


@pytest.fixture
def write(home):
    """Writes rows as a table and a template; returns their paths."""

    def write(rows, template=TEMPLATE, name="rows.jsonl"):
        path = home / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (home / "t.yaml").write_text(template, encoding="utf-8")
        return str(path), str(home / "t.yaml")

    return write


def make_rows(*more):
    """20 good rows: two labels, no two texts alike."""
    rows = [
        {"text": f"{one} {'went well' if good else 'broke'}", "label": "good" if good else "bad"}
        for one in THINGS
        for good in (True, False)
    ]
    return [*rows, *more]


def list_codes(check):
    return {finding.code: finding for finding in check.findings}


def test_good_table_can_be_trained_and_nothing_is_found(write, capsys):
    data, template = write(make_rows())
    check = tasks.check_data(data, template)
    assert (check.trainable, check.findings, check.rows) == (True, [], 20)
    assert check.train_rows + check.test_rows == 20
    assert check.labels.counts == {"bad": 10, "good": 10} and check.labels.bag_of_words > 0.9
    assert run_command(main, ["check", data, "--template", template]) == 0
    assert "words" in capsys.readouterr().out


def test_every_fault_is_listed_and_rows_are_shown_only_on_request(write, capsys):
    faulty = [{"text": "secret words", "label": "secret"}, {"text": "", "label": "good"}]
    data, template = write(make_rows(*faulty))
    arguments = ["check", data, "--template", template]
    assert run_command(main, arguments) == 1
    printed = capsys.readouterr().out
    assert "secret" not in printed and "row 21" in printed and "row 22" in printed
    assert run_command(main, [*arguments, "--show-rows", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["faults"]) == 2 and "secret" in found["faults"][0]["problem"]
    assert found["findings"][0]["code"] == "faults" and not found["trainable"]


def test_copies_contradictions_and_odd_texts_are_found_with_their_places(write):
    more = [
        {"text": "Kettle, went well!", "label": "good"},
        {"text": "lamp  Broke", "label": "good"},
        {"text": "a cafÃ© and a zero\u200bwidth &amp; more", "label": "bad"},
    ]
    found = list_codes(tasks.check_data(*write(make_rows(*more))))
    assert {"copies", "contradictions", "mojibake", "control_characters", "html"} == set(found)
    assert "21" in found["copies"].places[0] and "1" in found["copies"].places[0]
    assert found["contradictions"].level == "warns" and "22" in found["contradictions"].places[0]


def test_text_on_both_sides_of_the_split_asks_for_group_by(write):
    rows = [
        {
            "context": f"A long text about the {one} of the house.",
            "question": f"Q{n}?",
            "answer": f"A{one}{n}",
        }
        for one in THINGS
        for n in range(4)
    ]
    template = "task: '{context} {question}'\nanswer: '{answer}'\n"
    found = list_codes(tasks.check_data(*write(rows, template)))
    assert "group_by: context" in found["group_by"].remedy and "near_leaks" in found
    assert "group_by" not in list_codes(tasks.check_data(*write(rows, template + "group_by: context\n")))


def test_column_that_gives_the_answer_away_is_named(write):
    rows = [{**row, "mood": row["label"].upper()} for row in make_rows()]
    found = list_codes(tasks.check_data(*write(rows, TEMPLATE.replace("{text}", "{text} {mood}"))))
    assert "mood" in found["answer_in_prompt"].problem
    assert "mood" in list_codes(tasks.check_data(*write(rows)))["unused_columns"].problem


def test_rows_longer_than_the_limit_are_counted_in_the_model_s_tokens(write, home):
    make_tiny_model(home / "models" / "tiny")
    data, template = write(make_rows({"text": "x" * 300, "label": "good"}))
    check = tasks.check_data(data, template, "tiny", TrainingSettings(max_length=200, batch_size=4))
    assert (check.model, check.lengths.unit, check.lengths.limit) == ("tiny", "tokens", 200)
    assert (check.lengths.cut, check.lengths.lost) == (1, 1) and "21" in check.lengths.places[0]
    assert check.lengths.longest > 300 and check.trainable
    assert check.estimate.minutes > 0 and check.estimate.memory_bytes > 0
    assert check.estimate.steps == 5 * -(-check.train_rows // 4)
    assert not tasks.check_data(data, template, "tiny", TrainingSettings(max_length=20)).trainable


def test_batch_that_is_chosen_is_estimated_with_its_reason(write, home):
    make_tiny_model(home / "models" / "tiny")
    check = tasks.check_data(*write(make_rows()), "tiny", TrainingSettings(batch_size="auto"))
    assert check.estimate.steps == 5 * -(-check.train_rows // 4)
    assert "batch_size 4: " in check.estimate.batch_reason
    assert check.estimate.batch_reason in "\n".join(describe_check(check))


@pytest.mark.parametrize(("free", "checkpointing"), [(80 * 10**9, False), (10**6, True)])
def test_gpu_computes_forward_passes_again_only_where_memory_asks_for_it(
    write, home, monkeypatch, free, checkpointing
):
    make_tiny_model(home / "models" / "tiny")
    for name, value in {
        "pick_device": Choice("cuda", "given"),
        "pick_dtype": pick_dtype("cuda", (8, 0)),
        "measure_memory": Choice((free, free), "given"),
        "measure_speed": 10**12,
    }.items():
        monkeypatch.setattr(f"helpers.tasks.checks.estimate.{name}", lambda *_, value=value: value)
    counted = []
    count = estimate.count_operations
    monkeypatch.setattr(
        estimate, "count_operations", lambda *given: counted.append(given[-1]) or count(*given)
    )
    found = tasks.check_data(*write(make_rows()), "tiny", TrainingSettings(batch_size=4)).estimate
    assert counted == [checkpointing]
    assert ("recorded steps" in [term.name for term in found.terms]) is not checkpointing


def test_forward_pass_that_is_computed_again_costs_half_as_much_as_the_backward_pass(write, home):
    folder = find_model(make_tiny_model(home / "models" / "tiny").name)
    counts = [
        estimate.count_operations(folder, TrainingSettings(), 10**6, 0, checkpointing)
        for checkpointing in (False, True)
    ]
    assert 1.3 < counts[1] / counts[0] < 1.5


def test_chats_need_no_template_and_other_tables_are_checked_with_the_suggested_one(write):
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows = [{"messages": [{**chat[0], "content": f"Q{one}"}, chat[1]]} for one in THINGS]
    check = tasks.check_data(write(rows)[0])
    assert (check.kind, check.trainable, check.answers.different) == ("chats", True, 1)
    assert "same_answer" in list_codes(check)
    check = tasks.check_data(write(make_rows())[0])
    assert (check.template, check.trainable) == ("suggested", False)


def test_row_that_the_chat_template_rejects_stops_a_training(write, home):
    folder = make_tiny_model(home / "models" / "tiny")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = folder / "chat_template.jinja"
    source = template.read_text() if template.is_file() else config["chat_template"]
    refusal = "{% if messages[1].role == 'user' %}{{ raise_exception('two in a row') }}{% endif %}"
    template.write_text(refusal + source)
    user, assistant = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    rows = [{"messages": [{**user, "content": f"Q{one}"}, assistant]} for one in THINGS]
    check = tasks.check_data(write([*rows, {"messages": [user, user, assistant]}])[0], model="tiny")
    found = list_codes(check)["refused"]
    assert (found.level, found.count) == ("stops", 1) and "11" in found.places[0] and not check.trainable


def test_too_few_rows_for_the_split_stop_a_training(write):
    check = tasks.check_data(*write(make_rows()[:4]))
    assert not check.trainable and list_codes(check)["split"].level == "stops"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "nothing.csv"],
        ["check", "{data}", "--epochs", "0"],
        ["check", "{data}", "--settings", "nothing"],
        ["check", "{data}", "--model", "nothing"],
        ["preview", "{data}", "--rows", "0"],
        ["preview", "{data}"],
        ["suggest", "{data}", "--output", "{data}"],
    ],
)
def test_wrong_usage_is_one_line_and_code_2(write, capsys, arguments):
    data, _ = write(make_rows())
    assert run_command(main, [one.format(data=data) for one in arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_near_copies_of_known_texts_are_found_without_comparing_the_others():
    texts = ["one two three four five", "one two three four six", "one two three four seven"]
    assert sorted(pair_near_copies(texts)) == [(1, 0), (2, 0), (2, 1)]
    assert list(pair_near_copies(texts, known=1)) == [(1, 0), (2, 0)]
    assert len(list(pair_near_copies(texts, every=False))) == 2


def test_suggested_template_is_written_once(write, home, capsys):
    data, _ = write(make_rows())
    output = str(home / "new.yaml")
    assert run_command(main, ["suggest", data, "--output", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label_column"] == "label"
    assert tasks.load_template(output).label == {"bad": "bad", "good": "good"}
    assert run_command(main, ["check", data, "--template", output]) == 0
    assert run_command(main, ["suggest", data, "--output", output]) == 2


def test_preview_frames_what_the_loss_sees_and_loses_no_text(write, home, capsys):
    make_tiny_model(home / "models" / "tiny")
    data, template = write([{"text": "Café 🙂", "label": "good"}])
    (row,) = tasks.preview_rows(data, template, "tiny").rows
    assert row.text == "<|im_start|>user\nCafé 🙂<|im_end|>\n<|im_start|>assistant\n[[Good<|im_end|>]]"
    assert [token.token for token in row.tokens if token.learned] == [*"Good", "<|im_end|>"]
    assert run_command(main, ["preview", data, "--template", template, "--model", "tiny", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["tokens"][-1] == {"token": "<|im_end|>", "learned": True}


def test_own_folder_without_a_home_can_be_checked(tmp_path, monkeypatch):
    monkeypatch.delenv("OPEN_LLM_KIT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    lines = ["question,answer", *(f"What is {number}?,It is {number * number}" for number in range(10))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    (tmp_path / "mine.yaml").write_text('task: "{question}"\nanswer: "{answer}"\n')
    found = tasks.check_data("mine.csv", "mine.yaml")
    assert found.trainable and found.lengths.unit == "words"


def test_chat_of_thousands_of_turns_is_checked_and_shown_as_far_as_it_is_kept(write, home):
    make_tiny_model(home / "models/acme_x")
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    long, _ = write([{"messages": turns * 3000}])
    check = tasks.check_data(long, model="acme_x", settings=TrainingSettings(max_length=64))
    assert check.lengths.longest > 6000 and check.lengths.cut == 1 and check.lengths.lost == 0
    (row,) = tasks.preview_rows(long, model="acme_x").rows
    assert "the turns within" in row.place and "[[y" in row.text


@pytest.mark.parametrize(
    ("targets", "trainable"),
    [("all-linear", True), ("q_proj,v_proj", True), ("lm_head", True), (r".*\.q_proj", True), ("nope", False),
     ("q_proj,nope", False), ("", False)],
)  # fmt: skip
def test_targets_that_the_model_lacks_stop_a_training(targets, trainable, write, home):
    make_tiny_model(home / "models" / "tiny")
    check = tasks.check_data(*write(make_rows()), "tiny", TrainingSettings(targets=targets))
    assert check.trainable == trainable and ("targets" in list_codes(check)) != trainable
