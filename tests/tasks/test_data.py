"""TaskData: rows, split, and where they came from."""

from dataclasses import asdict

from helpers import PROJECT, tasks

DATA, TEMPLATE = "data/college_preferences/dataset.csv", "templates/college_preferences.yaml"


def test_loaded_data_is_split_as_split_rows_does_it(template):
    data = tasks.load_task_data(DATA, TEMPLATE)
    assert (data.train, data.test) == tasks.split_rows(tasks.load_rows(PROJECT / DATA, template))


def test_facts_say_where_rows_and_template_came_from():
    split = tasks.Split(seed=3, test_size=0.25)
    data = tasks.load_task_data(DATA, TEMPLATE, split)
    facts = data.list_facts()
    assert (facts["data"], facts["template_file"], facts["split"]) == (DATA, TEMPLATE, asdict(split))
    assert facts["rows_sha256"] == tasks.hash_rows(data.train)
    assert facts["template_sha256"] == data.template.sha256


def test_rows_from_memory_have_no_source(template, rows):
    facts = tasks.TaskData(template, rows).list_facts()
    assert not {"data", "template_file", "split"} & facts.keys()


def test_hash_of_rows_sees_every_change(rows):
    changed = [{**rows[0], "label": 3 - rows[0]["label"]}, *rows[1:]]
    assert tasks.hash_rows(rows) == tasks.hash_rows([dict(row) for row in rows])
    assert len({tasks.hash_rows(rows), tasks.hash_rows(changed), tasks.hash_rows(rows[::-1])}) == 3
