"""Chat templates are rendered as transformers does, and within limits."""

import pytest
from support.tiny import CHAT_TEMPLATE, make_tiny_model
from transformers.utils.chat_template_utils import render_jinja_template

from helpers import loading
from helpers.common.errors import DamagedError
from helpers.loading import rendering
from helpers.loading.chat_templates import ADMIT_SYSTEM, TEMPLATES
from helpers.loading.rendering import TooMuchError, render_limited

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Where to?"},
    {"role": "assistant", "content": " Home "},
]
GROW = "{% set n = namespace(x=['ab']) %}{% for i in range(60) %}{% set n.x = GROWN %}{% endfor %}"
LIST = "{% set l = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] %}"
FEATURES = """\
{%- for message in messages -%}
{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ message.content | trim | upper }}
{{- message['role'] + ':' }}
{%- if loop.first and not loop.last %} {{ loop.nextitem.role ~ '!' }}{% endif %}
{%- endfor -%}
{% for key, value in {'a': 1}.items() %}{{ key }}{{ '%s' % value }}{% else %}none{% endfor %}
{% for each in nothing %}x{% else %}none{% endfor %}{{ '{}-{}'.format(1, 2) }}
{{ messages | tojson(indent=2) }}
{% for row in [[1, [2]]] recursive %}{{ row if row is number else loop(row) }}{% endfor %}
{{ messages | map(attribute='role') | join(', ') }}{{ messages[1:] | length * 2 }}{{ bos_token }}
{% for message in messages if message.role != 'system' %}{{ message.role }}{% endfor %}{{ 'a' * 3 }}
"""


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, ADMIT_SYSTEM + CHAT_TEMPLATE, FEATURES])
def test_text_is_that_of_transformers(source):
    expected = render_jinja_template([MESSAGES], chat_template=source, bos_token="<s>")[0][0]
    assert render_limited(source, MESSAGES, bos_token="<s>") == expected


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_text_of_the_kit_s_templates_is_that_of_transformers(path):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected = render_jinja_template([MESSAGES[1:]], chat_template=path.read_text(), **tokens)[0][0]
    assert render_limited(path.read_text(), MESSAGES[1:], **tokens) == expected


@pytest.fixture
def small(monkeypatch):
    """Small limits, so that nothing here takes long."""
    for name, value in (("STEPS", 10_000), ("LARGEST", 10_000), ("WIDTH", 1000), ("SECONDS", 5)):
        monkeypatch.setattr(rendering, name, value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
        LIST + "".join(f"{{% for i{i} in l %}}" for i in range(6)) + "{% endfor %}" * 6,
        "{{ 'x' * 100000 }}",
        "{{ [1] * 100000 }}",
        "{{ '%200000d' % 1 }}",
        "{{ '{:200000}'.format(1) }}",
        "{{ 'x' | center(100000) }}",
        "{{ 'x'.ljust(100000) }}",
        "{{ lipsum(n=100000) }}",
        "{{ 2 ** 1000000 }}",
        GROW.replace("GROWN", "[n.x, n.x]") + "{{ n.x }}",
        GROW.replace("GROWN", "[n.x, n.x]") + "{{ n.x | tojson }}",
        GROW.replace("GROWN", "n.x ~ n.x"),
        GROW.replace("GROWN", "n.x + n.x"),
        "{% macro m(n) %}{{ m(n + 1) if n < 60 }}{{ m(n + 1) if n < 60 }}{% endmacro %}{{ m(0) }}",
        "{% for i in range(999) %}{{ messages[1].content * 20 }}{% endfor %}",
    ],
)
def test_template_that_takes_too_much_is_ended(small, source):
    with pytest.raises(TooMuchError):
        render_limited(source, MESSAGES)


def test_model_with_an_endless_template_is_refused_in_a_line(home, small):
    folder = make_tiny_model(home / "models" / "tiny")
    endless = "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(endless)
    with pytest.raises(DamagedError, match="too much time or memory"):
        loading.load_model("tiny")
