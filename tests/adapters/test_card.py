"""A LoRA's card, README.md and report.html, which says what was measured and nothing else."""

import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import pytest
from support.browser import needs_chromium
from support.loras import change_json, read_json

from helpers import adapters
from helpers.adapters import facts
from helpers.common.files import write_json

RESULT = {"accuracy": 0.5, "interval": [0.4, 0.6], "macro_f1": 0.3, "rows": 90, "majority_accuracy": 0.25}
ANSWERS = {
    "rows": 40,
    "exact_match": 0.35,
    "exact_interval": [0.2, 0.5],
    "token_f1": 0.5,
    "token_f1_interval": [0.4, 0.6],
    "chrf": 0.6,
    "chrf_interval": [0.5, 0.7],
    "perplexity": None,
    "baselines": {"nearest neighbour": {"exact_match": 0.3, "token_f1": 0.4, "chrf": 0.45}},
}
# As version 0.1.0 wrote it, whose fingerprint holds a row.
OLD_RUN = {
    "base": "tiny",
    "base_sha256": {},
    "rows": 12,
    "settings": {"epochs": 1, "batch_size": 4, "accumulation": 1, "learning_rate": 0.01},
    "trainable_parameters": 1000,
    "seconds": 3.0,
    "loss": [3.0, 2.0, 1.0],
    "peak_mb": 500.0,
    "device": "CPU",
    "commit": "abc",
    "date": "2026-11-26",
    "template": "quiz",
    "template_sha256": "0" * 64,
    "rows_sha256": "1" * 64,
    "fingerprint": [{"messages": [{"role": "user", "content": "a private row"}], "top": {"1": 2.0}}],
}
EXAMPLES = {
    "right": [{"prompt": "Is it <b>wet</b>?\n```", "right": "yes", "said": "yes"}],
    "wrong": [{"prompt": "Is it dry?", "right": "no", "said": "perhaps | not"}],
}


@pytest.fixture
def folder(tmp_path):
    """A LoRA's folder with a config and run.json; PEFT's weights are not needed for a card."""
    path = tmp_path / "loras" / "mine"
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "models/tiny"}
    write_json(path / "adapter_config.json", config)
    write_json(path / "run.json", OLD_RUN)
    return path


def read_card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def read_report(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def write(folder, **facts):
    """Adds facts to run.json; returns README.md and report.html."""
    adapters.add_to_run(adapters.AdapterFolder(folder), **facts)
    return read_card(folder), read_report(folder)


class Elements(HTMLParser):
    """The elements of a page: (name, attributes)."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def list_named(self, *names):
        """Those with one of these names, in order."""
        return [(tag, attributes) for tag, attributes in self.found if tag in names]


# What a training begins


def test_card_names_base_rank_rows_split_and_template(trained):
    for card in (read_card(trained), read_report(trained)):
        assert "rank 4" in card
        assert "tiny" in card
        assert "12 rows" in card
        assert "20% of the texts, seed 0" in card
        assert "college_preferences" in card


def test_card_tells_the_rows_in_numbers(trained):
    run = read_json(trained / "run.json")
    assert run["kind"] == "labels"
    assert run["columns"] == ["alternative_a", "alternative_b", "text"]
    assert run["parts"] == {"train": 12, "validation": 0, "test": 0}
    assert sum(run["audit"]["labels"].values()) == 12
    assert f"question {run['audit']['question_words']:g} words" in read_card(trained)


def test_card_that_is_begun_says_how_to_measure(trained):
    command = "python -m helpers.evaluation --model tiny --lora mine --base --data FILE --template TEMPLATE"
    for card in (read_card(trained), read_report(trained)):
        assert "Not measured yet: base, lora" in card
        assert f"{command} --split test --seed 0 --test-size 0.2" in card


def test_training_that_ended_early_says_how_far_it_came(trained):
    (trained / "README.md").unlink()
    change_json(trained / "run.json", steps=2, planned_steps=3)
    adapters.write_card(adapters.AdapterFolder(trained))
    assert "2 of 3" in read_card(trained)


def test_card_of_a_lora_from_elsewhere_records_no_training(made):
    (made[0] / "README.md").unlink()
    adapters.write_card(adapters.AdapterFolder(made[0]))
    for card in (read_card(made[0]), read_report(made[0])):
        assert "rank 4" in card
        assert "Not recorded." in card
        assert "epochs" not in card


# What an evaluation completes


def test_card_grows_with_what_is_measured(folder):
    card, report = write(folder, evaluation={"base": {**RESULT, "accuracy": 0.2}, "lora": RESULT})
    assert "| lora | 50.0% (40.0% to 60.0%) | 0.30 | 90 |" in card
    assert "| base | 20.0% (40.0% to 60.0%) |" in card
    assert "| majority | 25.0% |" in card
    assert "<td>50.0% (40.0% to 60.0%)</td>" in report
    assert "Not measured yet" not in card + report


def test_base_that_was_not_judged_is_said_to_be_missing(folder):
    card, _ = write(folder, evaluation={"lora": RESULT})
    assert "Not measured yet: base." in card and "--base" in card


def test_free_answers_are_shown_beside_what_needs_no_model(folder):
    card, report = write(folder, evaluation={"base": {**ANSWERS, "perplexity": 4.0}, "lora": ANSWERS})
    assert "| lora | 35.0% (20.0% to 50.0%) | 0.50 (0.40 to 0.60) | 0.60 (0.50 to 0.70) |  | 40 |" in card
    assert "| nearest neighbour | 30.0% | 0.40 | 0.45 |  |  |" in card
    assert "not shown to be better than the baseline 'nearest neighbour'" in card
    assert "<td>0.60 (0.50 to 0.70)</td>" in report


def test_figures_that_nobody_measured_have_no_column(folder):
    card, _ = write(folder, evaluation={"lora": ANSWERS})
    assert "perplexity" not in card and "macro-F1" not in card


def test_bag_of_words_stands_beside_the_lora(folder):
    card, _ = write(
        folder, evaluation={"lora": RESULT}, baselines={"bag of words": {"accuracy": 0.45, "rows": 100}}
    )
    assert "| bag of words | 45.0% |  | 100 |" in card
    assert "baseline 'bag of words': its interval begins at 40.0%, and the baseline has 45.0%" in card


def test_lora_above_every_baseline_is_not_doubted(folder):
    card, _ = write(folder, evaluation={"lora": RESULT})
    assert "not shown to be better" not in card


@pytest.mark.parametrize(("low", "doubted"), [(0.05, False), (-0.01, True)])
def test_gain_is_doubted_if_its_interval_includes_0(folder, low, doubted):
    gain = {"accuracy": {"value": 0.12, "interval": [low, 0.2]}}
    card, report = write(folder, evaluation={"lora": RESULT}, gain=gain)
    for text in (card, report):
        assert f"accuracy +12.0 percentage points (95% interval {100 * low:+.1f} to +20.0" in text
        assert ("may be chance" in text) is doubted


def test_validation_is_told_and_drawn(folder):
    found = {"rows": 8, "steps": [1, 3], "loss": [2.5, 1.5], "exact": [0.25, 0.5], "best_step": 3}
    card, report = write(folder, validation={**found, "stopped_early": True})
    assert "loss 2.50 at first, 1.50 at last, on 8 rows; the LoRA is that of step 3" in card
    assert "stopped early" in card
    assert report.count("<polyline") == 2
    assert "50.0%" in report


def test_card_of_a_lora_that_comes_with_the_kit_loads_it_from_its_folder(folder, monkeypatch):
    assert 'PeftModel.from_pretrained(base, "loras/mine")' in write(folder)[0]
    shipped = folder.parent.rename(folder.parent.with_name("shipped"))
    monkeypatch.setattr(facts, "SHIPPED", shipped)
    assert 'PeftModel.from_pretrained(base, "shipped/mine")' in write(shipped / "mine")[0]


def test_facts_that_are_added_leave_the_others_in_place(folder):
    write(folder, evaluation={"lora": RESULT})
    assert read_json(folder / "run.json") == {**OLD_RUN, "evaluation": {"lora": RESULT}}


@pytest.mark.parametrize("name", ["README.md", "report.html"])
def test_card_of_somebody_else_stays_and_the_other_file_is_written(folder, name):
    (folder / name).write_text("my own words: \xe4", encoding="latin-1")
    adapters.add_to_run(adapters.AdapterFolder(folder), evaluation={"lora": RESULT})
    assert (folder / name).read_text(encoding="latin-1") == "my own words: \xe4"
    (other,) = {"README.md", "report.html"} - {name}
    assert "50.0%" in (folder / other).read_text(encoding="utf-8")


# Rows are private, and texts are only texts


def test_card_of_an_earlier_version_shows_no_row_of_its_fingerprint(folder):
    card, report = write(folder, evaluation={"lora": RESULT})
    assert "12 rows" in card
    assert "private" not in card + report


def test_examples_are_shown_as_they_are(folder):
    assert "answered right" not in "".join(write(folder, evaluation={"lora": RESULT}))
    card, report = write(folder, evaluation={"lora": {**RESULT, "examples": EXAMPLES}})
    assert "````\nAsked: Is it <b>wet</b>?\n```\nRight: yes\nSaid: yes\n````" in card
    assert "Is it &lt;b&gt;wet&lt;/b&gt;?" in report
    assert "perhaps | not" in report


def test_names_are_escaped(folder):
    card, report = write(folder, data="<script>a|b`c", template="[x](y)")
    assert "| file | \\<script\\>a\\|b\\`c |" in card
    assert "\\[x\\](y)" in card
    assert not Elements(report).list_named("script")
    assert "&lt;script&gt;a|b`c" in report


# The page


@pytest.fixture
def page(folder):
    """The elements of a filled report."""
    validation = {"rows": 8, "steps": [1, 3], "loss": [2.5, 1.5], "exact": [0.25, 0.5], "best_step": 3}
    evaluation = {"base": RESULT, "lora": {**RESULT, "examples": EXAMPLES}}
    return Elements(write(folder, evaluation=evaluation, validation=validation)[1])


def test_report_is_one_file_that_loads_nothing(page):
    assert not page.list_named("script", "link", "img", "iframe", "object")
    assert not [attributes for _, attributes in page.found if {"src", "href", "onclick"} & set(attributes)]


def test_report_can_be_read_by_a_screen_reader(page):
    assert ("html", {"lang": "en"}) in page.found and page.list_named("title")
    levels = [int(tag[1]) for tag, _ in page.list_named("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all("scope" in attributes for _, attributes in page.list_named("th"))
    assert len(page.list_named("caption")) == len(page.list_named("table"))
    ((_, figure),) = page.list_named("svg")
    identifiers = {attributes.get("id") for _, attributes in page.found}
    assert figure["role"] == "img" and set(figure["aria-labelledby"].split()) <= identifiers


def test_curve_has_its_numbers_in_a_table(folder):
    report = write(folder)[1]
    figure = xml.fromstring(report[report.index("<svg") : report.index("</svg>") + 6])
    texts = [text.text for text in figure.iter("text")]
    assert "step" in texts and "loss" in texts
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0)):
        assert f'<tr><th scope="row">{step}</th><td>{loss:.3f}</td></tr>' in report


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_a_narrow_page_in_colours_that_can_be_read(folder, browser, scheme):
    write(folder, evaluation={"base": ANSWERS, "lora": ANSWERS}, data="a" * 200)
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}')"
    text, quiet, first, second, back = (
        measure_light(page.evaluate(style.format(name)))
        for name in ("text", "quiet", "first", "second", "page")
    )
    for colour in (text, quiet, first, second):  # WCAG's contrast of ordinary text
        assert (max(colour, back) + 0.05) / (min(colour, back) + 0.05) >= 4.5
    page.close()


def measure_light(colour):
    """The relative luminance of #rgb or #rrggbb, as WCAG defines it."""
    digits = colour.strip().lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
