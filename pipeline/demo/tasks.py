"""The demo's tasks: small text transformations over two kinds of shared input.

Every task is a pure function of its input, so what each instruction of the pool would answer to each input is
known exactly. That is what makes the kinds of `corpus.py` true by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Kind of thing, then its words in English, Spanish and German.
_LEXICON = {
    "animal": (
        "ant bear cat dog fox horse mouse otter rabbit wolf",
        "hormiga oso gato perro zorro caballo raton nutria conejo lobo",
        "Ameise Baer Katze Hund Fuchs Pferd Maus Otter Hase Wolf",
    ),
    "fruit": (
        "apple banana cherry fig grape lemon mango peach plum quince",
        "manzana platano cereza higo uva limon mango durazno ciruela membrillo",
        "Apfel Banane Kirsche Feige Traube Zitrone Mango Pfirsich Pflaume Quitte",
    ),
    "colour": (
        "amber black blue green ivory orange pink red silver white",
        "ambar negro azul verde marfil naranja rosa rojo plata blanco",
        "Bernstein Schwarz Blau Gruen Elfenbein Orange Rosa Rot Silber Weiss",
    ),
    "tool": (
        "axe brush drill file hammer knife nail rake saw wrench",
        "hacha cepillo taladro lima martillo cuchillo clavo rastrillo sierra llave",
        "Axt Pinsel Bohrer Feile Hammer Messer Nagel Rechen Saege Schluessel",
    ),
}
KINDS: dict[str, tuple[str, ...]] = {kind: tuple(english.split()) for kind, (english, _, _) in _LEXICON.items()}
WORDS: tuple[str, ...] = tuple(sorted(word for words in KINDS.values() for word in words))
NUMBERS: tuple[str, ...] = tuple(str(n) for n in range(1, 41))

_KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}
_SPANISH, _GERMAN = (
    {
        word: other
        for texts in _LEXICON.values()
        for word, other in zip(texts[0].split(), texts[language].split(), strict=True)
    }
    for language in (1, 2)
)


@dataclass(frozen=True)
class Task:
    """One task: its family, the domain of its inputs, its wordings (the first is the plain one) and its answer."""

    name: str
    family: str
    domain: str
    instructions: tuple[str, ...]
    answer: Callable[[list[str]], str]


def _fold(word: str) -> str:
    return word.lower()


def _kind(word: str) -> str:
    return _KIND_OF[_fold(word)]


def _join(items: list[str]) -> str:
    return " ".join(items) if items else "none"


def _keep(kind: str) -> Callable[[list[str]], str]:
    return lambda items: _join([item for item in items if _kind(item) == kind])


def _leave_out(kind: str) -> Callable[[list[str]], str]:
    return lambda items: _join([item for item in items if _kind(item) != kind])


def _count(kind: str) -> Callable[[list[str]], str]:
    return lambda items: str(sum(_kind(item) == kind for item in items))


def _word(name: str, family: str, answer: Callable[[list[str]], str], *instructions: str) -> Task:
    return Task(name, family, "words", instructions, answer)


def _number(name: str, family: str, answer: Callable[[list[str]], str], *instructions: str) -> Task:
    return Task(name, family, "numbers", instructions, answer)


TASKS: tuple[Task, ...] = (
    _word("same", "order", _join, "Write the words in the same order.", "Copy the list of words as it is."),
    _word(
        "sort",
        "order",
        lambda w: _join(sorted(w, key=_fold)),
        "Write the words in alphabetical order.",
        "Sort the words from A to Z.",
    ),
    _word(
        "sort_down",
        "order",
        lambda w: _join(sorted(w, key=_fold, reverse=True)),
        "Write the words in reverse alphabetical order.",
        "Sort the words from Z to A.",
    ),
    _word(
        "reverse",
        "order",
        lambda w: _join(w[::-1]),
        "Write the words in reverse order.",
        "Turn the list of words around.",
    ),
    _word(
        "swap_ends",
        "order",
        lambda w: _join([w[-1], *w[1:-1], w[0]]) if len(w) > 1 else _join(w),
        "Swap the first word and the last word.",
    ),
    _word("first_to_end", "order", lambda w: _join(w[1:] + w[:1]), "Move the first word to the end."),
    _word("last_to_front", "order", lambda w: _join(w[-1:] + w[:-1]), "Move the last word to the front."),
    _word("first", "pick", lambda w: w[0], "Write only the first word.", "Which word stands at the start?"),
    _word("last", "pick", lambda w: w[-1], "Write only the last word.", "Which word stands at the end?"),
    _word("second", "pick", lambda w: w[min(1, len(w) - 1)], "Write only the second word."),
    _word("second_last", "pick", lambda w: w[max(len(w) - 2, 0)], "Write only the second to last word."),
    _word("a_most", "pick", lambda w: min(w, key=_fold), "Write the word that comes first in the alphabet."),
    _word("z_most", "pick", lambda w: max(w, key=_fold), "Write the word that comes last in the alphabet."),
    _word("both_ends", "pick", lambda w: _join([w[0], w[-1]]), "Write the first word and the last word."),
    _word("drop_first", "drop", lambda w: _join(w[1:]), "Leave out the first word.", "Write all but the first word."),
    _word("drop_last", "drop", lambda w: _join(w[:-1]), "Leave out the last word.", "Write all but the last word."),
    _word("drop_ends", "drop", lambda w: _join(w[1:-1]), "Leave out the first word and the last word."),
    _word("odd_places", "drop", lambda w: _join(w[::2]), "Write every second word, beginning with the first."),
    _word("even_places", "drop", lambda w: _join(w[1::2]), "Write every second word, beginning with the second."),
    _word("once", "drop", lambda w: _join(list(dict.fromkeys(w))), "Leave out every word that was there before."),
    _word(
        "upper",
        "case",
        lambda w: _join([x.upper() for x in w]),
        "Write the words in capital letters.",
        "Change the words to upper case.",
    ),
    _word(
        "lower",
        "case",
        lambda w: _join([x.lower() for x in w]),
        "Write the words in small letters.",
        "Change the words to lower case.",
    ),
    _word("title", "case", lambda w: _join([x.title() for x in w]), "Write each word with one capital at its start."),
    _word("upper_first", "case", lambda w: _join([w[0].upper(), *w[1:]]), "Write the first word in capital letters."),
    _word("upper_last", "case", lambda w: _join([*w[:-1], w[-1].upper()]), "Write the last word in capital letters."),
    *(
        _word(f"keep_{kind}", "keep", _keep(kind), f"Keep only the {kind}s.", f"Which of the words are {kind}s?")
        for kind in KINDS
    ),
    *(
        _word(
            f"omit_{kind}", "omit", _leave_out(kind), f"Leave out the {kind}s.", f"Write the words without the {kind}s."
        )
        for kind in KINDS
    ),
    *(_word(f"count_{kind}", "count", _count(kind), f"How many {kind}s are there?") for kind in ("animal", "fruit")),
    _word("count", "count", lambda w: str(len(w)), "How many words are there?", "Count the words."),
    _word(
        "kinds",
        "replace",
        lambda w: _join([_kind(x) for x in w]),
        "Write the kind of each word.",
        "Replace each word by what kind of thing it is.",
    ),
    _word(
        "initials",
        "replace",
        lambda w: _join([x[0] for x in w]),
        "Write the first letter of each word.",
        "Replace each word by its first letter.",
    ),
    _word(
        "spanish",
        "replace",
        lambda w: _join([_SPANISH[_fold(x)] for x in w]),
        "Write the words in Spanish.",
        "Translate the words into Spanish.",
    ),
    _word(
        "german",
        "replace",
        lambda w: _join([_GERMAN[_fold(x)] for x in w]),
        "Write the words in German.",
        "Translate the words into German.",
    ),
    _word("each_twice", "repeat", lambda w: _join([x for x in w for _ in range(2)]), "Write each word twice."),
    _word("list_twice", "repeat", lambda w: _join(w + w), "Write the whole list twice."),
    _word("first_twice", "repeat", lambda w: _join([w[0], *w]), "Write the first word twice, the others once."),
    _word(
        "commas", "format", lambda w: ", ".join(w), "Put commas between the words.", "Separate the words with commas."
    ),
    _word(
        "dashes", "format", lambda w: " - ".join(w), "Put dashes between the words.", "Separate the words with dashes."
    ),
    _word(
        "numbered",
        "format",
        lambda w: " ".join(f"{i}. {x}" for i, x in enumerate(w, 1)),
        "Put a number before each word.",
        "Number the words.",
    ),
    _word("brackets", "format", lambda w: f"[ {' '.join(w)} ]", "Put brackets around the list."),
    _number(
        "rising",
        "number order",
        lambda n: _join(sorted(n, key=int)),
        "Write the numbers from small to large.",
        "Sort the numbers in rising order.",
    ),
    _number(
        "falling",
        "number order",
        lambda n: _join(sorted(n, key=int, reverse=True)),
        "Write the numbers from large to small.",
        "Sort the numbers in falling order.",
    ),
    _number("same_numbers", "number order", _join, "Write the numbers in the same order."),
    _number("reverse_numbers", "number order", lambda n: _join(n[::-1]), "Write the numbers in reverse order."),
    _number(
        "largest", "number pick", lambda n: max(n, key=int), "Write the largest number.", "Which number is the largest?"
    ),
    _number(
        "smallest",
        "number pick",
        lambda n: min(n, key=int),
        "Write the smallest number.",
        "Which number is the smallest?",
    ),
    _number("first_number", "number pick", lambda n: n[0], "Write only the first number."),
    _number("last_number", "number pick", lambda n: n[-1], "Write only the last number."),
    _number("even", "number keep", lambda n: _join([x for x in n if int(x) % 2 == 0]), "Keep only the even numbers."),
    _number("odd", "number keep", lambda n: _join([x for x in n if int(x) % 2]), "Keep only the odd numbers."),
    _number("plus_one", "number change", lambda n: _join([str(int(x) + 1) for x in n]), "Add one to each number."),
    _number(
        "minus_one", "number change", lambda n: _join([str(int(x) - 1) for x in n]), "Take one away from each number."
    ),
    _number("plus_ten", "number change", lambda n: _join([str(int(x) + 10) for x in n]), "Add ten to each number."),
)
BY_DOMAIN: dict[str, tuple[Task, ...]] = {
    domain: tuple(task for task in TASKS if task.domain == domain) for domain in ("words", "numbers")
}
GENERIC: tuple[str, ...] = (
    "Sure, here it is.",
    "Here is the answer.",
    "Of course, here you are.",
    "I hope that this helps.",
    "Please let me know if you need more.",
    "This is the result that you asked for.",
)
