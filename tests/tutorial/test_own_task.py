"""A learner's own task: its template, its rows, its board, and the page to hand in."""

import pytest

from helpers import tasks, training
from helpers.common.errors import AlreadyThereError, UsageError
from helpers.tutorial import hand_in, own_task

NOTES = ("data/repair_notes/dataset.csv", "templates/repair_notes.yaml")
QUESTIONS = ("data/clock_house/dataset.csv", "templates/clock_house.yaml")
RUN = {
    "base": "some-model", "rows": 90, "steps": 12, "seconds": 34.5, "device": "CPU", "commit": "abc",
    "date": "2026-11-01", "settings": training.pick_settings("tiny").__dict__,
}  # fmt: skip


def test_first_template_is_kept_and_what_its_author_changed_stays(home):
    path = home / own_task.keep_template(QUESTIONS[0], "mine")
    assert path == home / "runs" / "your_turn" / "mine.yaml" and "{question}" in path.read_text()
    path.write_text("task: my own\n")
    assert own_task.keep_template(QUESTIONS[0], "mine").endswith("mine.yaml")
    assert path.read_text() == "task: my own\n"


def test_chats_need_no_template(home, tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'
    )
    assert own_task.keep_template(str(chats), "mine") is None


@pytest.mark.parametrize("name", ["../mine", "a.b", ""])
def test_name_that_no_lora_can_have_is_refused(home, name):
    with pytest.raises(UsageError):
        own_task.keep_template(QUESTIONS[0], name)


def pick(files, most=20, rows=60):
    """(data, training rows, judged rows) of a data set of the kit."""
    data = tasks.load_task_data(*files)
    settings = training.pick_settings("tiny").replace({"max_rows": rows})
    return data, *own_task.pick_rows(data, settings, most)


@pytest.mark.parametrize("files", [NOTES, QUESTIONS])
def test_rows_are_few_held_out_and_the_same_in_every_run(files):
    data, train, judged = pick(files)
    assert len(train) == 60 and len(judged) == 20
    assert all(row in data.train for row in train) and all(row in data.test for row in judged)
    assert pick(files)[1:] == (train, judged)


@pytest.mark.parametrize(
    ("files", "names"),
    [(NOTES, ["majority", "bag of words"]), (QUESTIONS, ["most frequent answer", "nearest neighbour"])],
)
def test_board_starts_with_the_ways_that_need_no_model(files, names):
    data, train, judged = pick(files)
    table = own_task.start_board(data.template, train, judged).tabulate()
    assert list(table.index) == names
    assert all("%" in cell and "[" in cell for cell in table.iloc[:, 0])


def test_players_are_counted_on_the_rounds_alone():
    data, train, judged = pick(NOTES)
    board = own_task.start_board(data.template, train, judged)
    board.add_predictions("right", "always right", [row["label"] for row in judged])
    rounds, wrong = judged[3:6], [None, None, 9]
    found = own_task.count_right(board, rounds, [judged[3]["label"], *wrong[1:]])
    assert found["you"] == 1 and found["right"] == 3
    assert "you" not in own_task.count_right(board, rounds, [None] * 3)
    assert own_task.count_right(board, [], []) == {}


def make_page(files=NOTES, said=None, players=None):
    """The page of a board without a model."""
    data, train, judged = pick(files)
    board = own_task.start_board(data.template, train, judged)
    return hand_in.write_results(data, board, RUN, said or hand_in.Sayings(), players or {})


@pytest.mark.parametrize("files", [NOTES, QUESTIONS])
def test_page_has_data_model_settings_and_each_line_with_its_rows(home, files):
    page = make_page(files)
    for words in (
        "/dataset.csv: ",
        "some-model",
        "90 rows, 12 steps",
        "lora_r 16",
        "| 20 |",
        "95% interval",
    ):
        assert words in page
    assert (home / "runs" / "your_turn" / "results.md").read_text().startswith(page)


def test_page_has_the_learner_s_words_and_says_what_is_missing(home):
    page = make_page(
        said=hand_in.Sayings("my | shop", "", "It learned\nso fast."), players={"you": 4, "LoRA": 3}
    )
    assert "my \\| shop" in page and "It learned so fast." in page and "you 4, LoRA 3" in page
    assert page.count(hand_in.MISSING) == 1


def test_page_has_no_text_of_a_row(home):
    data, _, judged = pick(NOTES)
    page = make_page()
    assert not [row for row in judged if row["text"] in page]


def test_page_replaces_an_older_one_unless_somebody_has_changed_it(home):
    path = home / "runs" / "your_turn" / "results.md"
    make_page()
    make_page(said=hand_in.Sayings(surprise="Again."))
    assert "Again." in path.read_text()
    path.write_text(path.read_text().replace("Again.", "My own words."))
    with pytest.raises(AlreadyThereError):
        make_page()
    assert "My own words." in path.read_text()
