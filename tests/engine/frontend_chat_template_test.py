"""Templates render as in Hugging Face's `apply_chat_template`, the oracle."""

from __future__ import annotations

import pytest

from semipd_engine.frontend.api_errors import ApiError
from semipd_engine.frontend.chat_template import ChatTemplate

TALK = [
    {"role": "system", "content": 'say <b>"hi"</b> & ünïcödé'},
    {"role": "user", "content": "  spaces\tand\nlines  "},
    {"role": "assistant", "content": "{{ not a template }}"},
    {"role": "user", "content": "go on"},
]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nbe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = """{% if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{% endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}
    {%- if message.role == 'user' %}
{{ bos_token }}[INST] {% if loop.first %}{{ system }}{% endif %}{{ message.content | trim }} [/INST]
    {%- else %} {{ message.content }} {{ eos_token }}{% endif %}
{%- endfor %}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(CHATML, id="ChatML with a default system turn"),
        pytest.param(LLAMA2, id="Llama 2, blocks on their own lines"),
        pytest.param("{{ messages | tojson }}", id="tojson escapes nothing for HTML"),
        pytest.param("{{ messages | tojson(indent=2) }}", id="tojson with indent"),
        pytest.param("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", id="loop controls"),
        pytest.param("{{ tools is none }} {{ missing is defined }}", id="absent variables"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("messages", [TALK, TALK[1:2]], ids=["whole talk", "one turn"])
def test_equals_hugging_face(source, messages):
    from transformers.utils.chat_template_utils import render_jinja_template

    special = {"bos_token": "<s>", "eos_token": "</s>"}
    (expected,), _ = render_jinja_template(
        conversations=[messages], chat_template=source, add_generation_prompt=True, **special
    )
    assert ChatTemplate(source, special).render(messages) == expected


@pytest.mark.parametrize(
    ("source", "wording"),
    [
        pytest.param("{{ raise_exception('only one turn') }}", "only one turn", id="the template refuses"),
        pytest.param("{{ messages.append(1) }}", "unsafe", id="the sandbox forbids changing the messages"),
        pytest.param("{{ ''.__class__.__mro__ }}", "unsafe", id="the sandbox forbids leaving it"),
    ],
)  # fmt: skip
def test_refusals_name_the_messages(source, wording):
    with pytest.raises(ApiError, match=wording) as caught:
        ChatTemplate(source, {}).render(TALK)
    assert caught.value.param == "messages"
    assert caught.value.status == 400


def test_strftime_now_gives_a_date():
    assert len(ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", {}).render(TALK)) == len("2026-01-01")
