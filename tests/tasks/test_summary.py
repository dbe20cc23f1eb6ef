"""What a training records of its rows: numbers, and no text."""

import json

from helpers.tasks import TaskData
from helpers.tasks.chats import ChatForm
from helpers.tasks.summary import describe_data
from helpers.tasks.template import Template


def test_labels_are_counted_and_copies_found():
    template = Template("quiz", "", "{text}", {"yes": "Yes", "no": "No"})
    rows = [
        {"text": "One two three", "label": "yes"},
        {"text": "one, two three!", "label": "yes"},
        {"text": "one, two three!", "label": "no"},
        {"text": "four", "label": "no"},
    ]
    assert describe_data(TaskData(template, rows, rows[:1])) == {
        "kind": "labels",
        "columns": ["text"],
        "parts": {"train": 4, "validation": 0, "test": 1},
        "audit": {"copies": 1, "question_words": 3, "labels": {"no": 2, "yes": 2}},
    }


def test_free_answers_have_a_median_length():
    template = Template("quiz", "", "{question}", answer="{reply}")
    rows = [{"question": "a b", "reply": "c"}, {"question": "a b c d", "reply": "d e f g"}]
    audit = describe_data(TaskData(template, rows))["audit"]
    assert audit == {"copies": 0, "question_words": 3, "answer_words": 2.5}


def test_chats_are_counted_in_messages_and_no_text_of_theirs_is_told():
    said = ["Who wrote Faust?", "Goethe", "When?", "In 1808"]
    roles = ["user", "assistant"] * 2
    chat = {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]}
    found = describe_data(TaskData(ChatForm(), [chat, chat]))
    assert found["audit"] == {"copies": 1, "question_words": 3, "answer_words": 2, "messages": 4}
    assert not [text for text in said if text in json.dumps(found)]


def test_data_without_training_rows_has_no_audit():
    assert describe_data(TaskData(ChatForm(), []))["audit"] == {}
