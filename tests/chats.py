"""Chat templates as models have them, a conversation, and what a trainer sees of it."""

from conftest import byte_tokenizer

from operators.prompts.answer_place import AnswerPlace
from operators.prompts.special_text import SpecialText
from operators.prompts.template import Template, prepare
from operators.prompts.tokenise import Encoder

# As models of these families have them, with what they do for one message of a user.
CHATS = {
    "llama 3": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system's message, so that it can be put at the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "qwen": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- content.rstrip('\\n') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages if not message.get("tool_calls") %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
    {% generation %}
    {{ message['content'] + eos_token }}
    {% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
  {{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "all that transformers adds": """{% for message in messages %}
    {% generation %}
    {% set kept = 1 %}
    {{ message|tojson }} {{ message|tojson(indent=2, sort_keys=true) }} {{ [message]|tojson(ensure_ascii=true) }}
    {% endgeneration %}
    {{ kept }}{{ nothing }}{{ pad_token }}{{ dict(a=1) }}{{ messages|map(attribute='role')|join('|') }}
    {% if loop.last %}{% break %}{% endif %}
    {% continue %}
{% endfor %}
{{ eos_token }}{{ tools is none }}{{ documents }}{{ add_generation_prompt }}

""",
}

# As above; each ends an answer with its last control token, "" with none.
ENDS = {"llama 3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "<eos>", "zephyr": "<eos>"}
# A block of thoughts, which is empty, before the last answer alone.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# A header with a channel, and another end for the last answer than for those before it.
CHANNELS = (
    "{% for message in messages %}<|start|>{{ message.role }}{% if message.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ message.content }}{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# Nothing ends an answer but the next turn.
OPEN = "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|end|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
)

ROLES = ("system", "user", "assistant")
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATION = [
    SYSTEM,
    {"role": "user", "content": "Hello.\nuser: not a turn"},
    {"role": "assistant", "content": "Hi.", "weight": 1, "name": None},
    {"role": "user", "content": "Sort: b a"},
    {"role": "assistant", "content": "a b"},
]


def tokenizer_with(chat, *, bos=True):
    tokenizer = byte_tokenizer(bos=bos)
    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL)})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = chat
    return tokenizer


def template_here(tokenizer, variables=None):
    """What `load_template` gives, rendered in this process: another takes a second to start."""
    render = prepare("chat", tokenizer.chat_template, tokenizer.special_tokens_map, variables or {})()
    place = AnswerPlace(render, SpecialText(tokenizer).control)
    return Template("chat", tokenizer.chat_template, place.render, variables or {}, place.end)


def encoder_of(chat, *, variables=None, append_eos=True, bos=True, max_length=2048):
    tokenizer = tokenizer_with(chat, bos=bos)
    return Encoder(tokenizer, template_here(tokenizer, variables), append_eos, max_length)


def trained(encoder, messages, end):
    """The ids that a trainer sees of a conversation, up to the token that ends its last turn."""
    ids = encoder.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    last = len(ids) - ids[::-1].index(encoder.tokenizer.convert_tokens_to_ids(end))
    return ids[:last]
