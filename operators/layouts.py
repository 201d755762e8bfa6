"""The layouts of rows that are recognised: columns, keys of turns and roles. The table of the documentation says the same.

A row has the first layout of LAYOUTS whose columns it has. A null column is none; so is an instruction and an output that are
both empty, as CSV has it, where the row has another layout. Upper and lower case are one, so that `Instruction` is
`instruction`. Wherever a layout takes a text it takes turns too: those of its instruction end with the question, those of its
output begin with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """The columns of a layout; of several inputs or outputs, the first that a row has is meant. `turns` is a column that holds
    a whole conversation, in place of instruction and output."""

    name: str
    instruction: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    turns: str = ""


LAYOUTS = (
    Layout("Alpaca", "instruction", ("input", "context"), ("output",)),
    Layout("Dolly", "instruction", ("context", "input"), ("response",)),
    Layout("Natural Instructions", "definition", ("input", "inputs"), ("output", "targets")),
    Layout("completion", "prompt", (), ("completion",)),
    Layout("preference", "prompt", (), ("chosen",)),
    Layout("preference, instruction", "instruction", ("input", "context"), ("chosen", "chosen_response")),
    Layout("preference, question", "question", ("context", "passage", "article"), ("chosen",)),
    Layout("preference, input", "input", (), ("chosen",)),
    Layout("preference, chat", "messages", (), ("chosen",)),
    Layout("preference, ShareGPT", "conversations", (), ("chosen",)),
    Layout("preference, WildChat", "conversation", (), ("chosen",)),
    Layout("chat", turns="messages"),
    Layout("ShareGPT", turns="conversations"),
    Layout("WildChat", turns="conversation"),
    Layout("preference, whole conversations", turns="chosen"),
    Layout(
        "instruction and answer", "instruction", ("input", "context"), ("answer", "completion", "target", "targets")
    ),
    Layout("prompt and response", "prompt", ("input", "context"), ("response", "output", "answer", "generation")),
    Layout(
        "question and answer", "question", ("context", "passage", "article", "input"), ("answer", "response", "output")
    ),
    Layout("query and response", "query", ("context", "input"), ("response", "answer", "output")),
    Layout("problem and solution", "problem", ("context", "input"), ("solution", "answer")),
    Layout("input and output", "input", ("context",), ("output",)),
    Layout("FLAN", "inputs", (), ("targets",)),
)
CHAT_COLUMNS = ("messages", "conversations", "conversation")  # where a text is the JSON of turns, whatever the layout
# A row that has one of these columns, be it null, means no instruction by `input` or `inputs`, but a context.
INSTRUCTIONS = ("instruction", "definition", "prompt", "question", "query", "problem")
# Columns with turns before the question, beside any layout; a chat has its own history.
SYSTEM, HISTORY = ("system", "system_prompt"), "history"

# A turn is an object with one key of each of these, or one with a key for each side: {"user": ..., "assistant": ...}.
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value", "text")
PART_KEYS = ("text", "value")  # of a part of a text that comes as a list of parts
# Parts that are no text; <image> in a text stands for one that a column `image` or `images` holds.
MEDIA = ("image", "audio", "video")
CALLS = ("tool_calls", "function_call")  # what a turn may have in place of a text
USER, ASSISTANT, SYSTEM_SIDE, TOOL = "user", "assistant", "system", "tool"
# Roles by side, in any case; a turn of any other role is a turn before or after the question, under its own name.
ROLES = {
    USER: ("user", "human"),
    ASSISTANT: ("assistant", "gpt", "bing", "chatgpt", "model", "bard", "bot"),
    SYSTEM_SIDE: ("system",),
    TOOL: ("tool", "observation", "function_call", "function"),
}
SIDE_OF_ROLE = {role: side for side, roles in ROLES.items() for role in roles}
# A call is what the assistant writes: chat templates know it by that name.
NAME_IN_CHATS = {**SIDE_OF_ROLE, "function_call": ASSISTANT}

# What a file of Natural Instructions repeats for no row: its rows, and examples that are none of them.
_OF_THE_FILE = ("Instances", "Positive Examples", "Negative Examples")


def expand(record: Any) -> list[Any]:
    """The rows of an object of a file: of a task file of Natural Instructions one for each of its instances, which has the
    definition and what else the file says of the task, but for its examples. Any other record is one row."""
    if not isinstance(record, Mapping) or not is_task_file(record):
        return [record]
    task = {key: value for key, value in record.items() if key not in _OF_THE_FILE}
    return [{**task, **instance} if isinstance(instance, Mapping) else instance for instance in record["Instances"]]


def is_task_file(record: Mapping[str, Any]) -> bool:
    """Whether an object is a task file of Natural Instructions."""
    return "Definition" in record and isinstance(record.get("Instances"), list)


def accepted_columns() -> str:
    """The layouts in words, for a row that has none of them."""
    pairs = [layout.turns or f"{layout.instruction}+{'/'.join(layout.outputs)}" for layout in LAYOUTS]
    return ", ".join(dict.fromkeys(pairs))


def accepted_turns() -> str:
    """The keys of a turn in words."""
    keys = f"{listed(ROLE_KEYS, 'or')}, and {listed(TEXT_KEYS, 'or')}"
    return f"a turn with {keys}; or a pair such as user and assistant in one object"


def accepted_roles() -> str:
    """The roles of users and assistants in words."""
    return f"of a user {listed(ROLES[USER], 'or')}, of an assistant {listed(ROLES[ASSISTANT], 'or')}, in any case"


def listed(names: Iterable[Any], word: str = "and") -> str:
    """Names in words, as a message shows them: the first twelve, none longer than 60 characters."""
    every = list(dict.fromkeys(str(name) for name in names))
    shown = [name[:60] for name in every[:12]]
    if len(every) > len(shown):
        return f"{', '.join(shown)} {word} {len(every) - len(shown)} more"
    return f" {word} ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown) or "none"
