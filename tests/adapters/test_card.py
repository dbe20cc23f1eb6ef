"""A LoRA's model card, which says what was measured and nothing else."""

from support.loras import change_json

from helpers import adapters

RESULT = {"accuracy": 0.5, "interval": [0.4, 0.6], "macro_f1": 0.3, "rows": 90, "majority_accuracy": 0.25}


def read_card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_card_names_base_rank_rows_and_split(trained):
    card = read_card(trained)
    assert "rank 4" in card
    assert "models/tiny" in card
    assert "12 rows" in card
    assert "20%" in card
    assert "college_preferences" in card


def test_card_grows_with_what_is_measured(trained):
    assert "| lora |" not in read_card(trained)
    results = {"base": {**RESULT, "accuracy": 0.2}, "lora": RESULT}
    adapters.add_to_run(adapters.AdapterFolder(trained), evaluation=results)
    card = read_card(trained)
    assert "| lora | 50.0% | 40.0% to 60.0% | 0.30 | 90 |" in card
    assert "| base | 20.0% |" in card
    assert "25.0%" in card


def test_facts_that_are_added_leave_the_others_in_place(trained):
    folder = adapters.AdapterFolder(trained)
    before = folder.run
    adapters.add_to_run(folder, evaluation={"lora": RESULT})
    assert folder.run == {**before, "evaluation": {"lora": RESULT}}


def test_card_of_somebody_else_stays(trained):
    (trained / "README.md").write_text("my own words")
    adapters.add_to_run(adapters.AdapterFolder(trained), evaluation={"lora": RESULT})
    assert read_card(trained) == "my own words"


def test_card_of_a_lora_from_elsewhere_records_no_training(made):
    (made[0] / "README.md").unlink()
    adapters.write_card(adapters.AdapterFolder(made[0]))
    card = read_card(made[0])
    assert "rank 4" in card
    assert "epochs" not in card


def test_training_that_ended_early_says_how_far_it_came(trained):
    (trained / "README.md").unlink()
    change_json(trained / "run.json", steps=2, planned_steps=3)
    adapters.write_card(adapters.AdapterFolder(trained))
    assert "2 of 3" in read_card(trained)


def test_card_shows_free_answers_with_what_is_reached_without_a_model(trained):
    means = {"exact_match": 0.125, "token_f1": 0.5, "chrf": 0.25}
    result = {**means, "exact_interval": [0.1, 0.2], "perplexity": 1.5, "rows": 90}
    results = {"lora": {**result, "baselines": {"nearest neighbour": means}}, "base": RESULT}
    adapters.add_to_run(adapters.AdapterFolder(trained), evaluation=results)
    card = read_card(trained)
    assert "| lora | 12.5% | 10.0% to 20.0% | 0.50 | 0.25 | 1.50 | 90 |" in card
    assert "| nearest neighbour | 12.5% |  | 0.50 | 0.25 |  |  |" in card
    assert "| base | 50.0% | 40.0% to 60.0% |" in card
