"""How many rows get as many written alternatives as are asked for, how fast, and whether the same texts come twice.

    python tests/benchmarks/generated.py MODEL [--rows 300] [--count 4] [--corpus alpaca.jsonl]

Takes rows of the corpus that have an input, lets the model write for each distinct input, and again in the opposite order, so
that other inputs share a batch. Rules 1 and 2 are applied with the embedder `lexical`, or with `--embedder`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from pathlib import Path

import torch
import transformers

from operators.prompts.load_tokenizer import load_tokenizer
from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder
from operators.retrieval.answers import Answer
from operators.retrieval.embedder import embed_folded, load_embedder
from operators.retrieval.generated import Generated, input_key
from operators.retrieval.generation_prompt import DEFAULT, fill_prompt
from operators.retrieval.generator import Generator, Request
from operators.retrieval.instruction_table import has_input
from operators.retrieval.parse_instructions import parse_instructions
from operators.schema import WRITTEN, from_rows
from operators.scoring import models
from pipeline.config import Alternatives
from pipeline.config import Generator as Settings

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca.jsonl"
SHOWN = 5


def rows_of(corpus: Path, count: int) -> list[dict[str, str]]:
    """The first rows that have an input."""
    rows = (json.loads(line) for line in corpus.open(encoding="utf-8"))
    return [row for row, _ in zip((row for row in rows if has_input(row["input"])), range(count), strict=False)]


def writer(model: str, asked: Settings, seed: int) -> tuple[Generator, object]:
    """The generator as a run has it, and its tokenizer."""
    tokenizer = load_tokenizer(model)
    loaded = models.load_model(model, dtype=asked.dtype)
    generator = Generator(
        loaded,
        tokenizer,
        batch_size=asked.batch_size,
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        seed=seed,
        window=models.window(loaded.config),
    )
    return generator, tokenizer


def write_all(generator: Generator, requests: list[Request]) -> tuple[dict[bytes, Answer], float]:
    """All answers by key, and the seconds that they took."""
    answers: dict[bytes, Answer] = {}
    began = time.monotonic()
    for batch in generator.batches(requests):
        answers.update(zip((request.key for request in batch), generator.write(batch), strict=True))
    return answers, time.monotonic() - began


def offered(
    rows: list[dict[str, str]], parsed: dict[bytes, list[str]], embedder_name: str
) -> tuple[list[list[str]], int]:
    """What each row is offered by rules 1 and 2, and how many paraphrases were passed over."""
    texts = sorted({text for some in parsed.values() for text in some})
    place = {text: row for row, text in enumerate(texts)}
    embedder = load_embedder(embedder_name, 64)
    vectors = embed_folded(embedder, texts or ["none"])
    written = [{"key": key, "instructions": [place[text] for text in some]} for key, some in parsed.items()]
    generated = Generated(from_rows(written, WRITTEN), texts, vectors, paraphrase_max=Alternatives().paraphrase_max)
    own = embed_folded(embedder, [row["instruction"] for row in rows])
    offers = [generated.offers(row["input"], row["instruction"], vector) for row, vector in zip(rows, own, strict=True)]
    return [[offer.text for offer in some] for some, _ in offers], sum(skipped for _, skipped in offers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=192)
    parser.add_argument("--temperature", type=float, default=Settings().temperature)
    parser.add_argument("--batch-size", type=int, default=Settings().batch_size)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--embedder", default="lexical")
    given = parser.parse_args()
    asked = Settings(
        model=given.model,
        count=given.count,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        batch_size=given.batch_size,
    )
    rows = rows_of(given.corpus, given.rows)
    generator, tokenizer = writer(given.model, asked, seed=0)
    encoder = Encoder(tokenizer, load_template("chat", tokenizer), append_eos=False, max_length=2**31 - 1)
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    prompts = [(fill_prompt(DEFAULT, input, given.count, asked.max_input_chars), "") for input in inputs]
    requests = [Request(input_key(input), ids) for input, ids in zip(inputs, encoder.prompts(prompts), strict=True)]
    answers, seconds = write_all(generator, requests)
    report(given, rows, inputs, answers, seconds)
    again, _ = write_all(generator, requests[::-1])
    same = sum(answers[key] == again[key] for key in answers)
    print(f"\nsame twice   {same} of {len(answers)} texts, in the opposite order")


def report(
    given: argparse.Namespace,
    rows: list[dict[str, str]],
    inputs: list[str],
    answers: dict[bytes, Answer],
    seconds: float,
) -> None:
    """Print the figures."""
    bare = fill_prompt(DEFAULT, "", given.count, 0)
    parsed = {
        input_key(input): parse_instructions(
            answers[input_key(input)].text or "",
            given.count,
            finished=answers[input_key(input)].finished,
            prompt=bare,
            input=input[: Settings().max_input_chars],
        )
        for input in inputs
    }
    offers, paraphrases = offered(rows, parsed, given.embedder)
    tokens = sum(answer.tokens for answer in answers.values())
    whole = sum(len(some) >= given.count for some in offers)
    print(f"machine      {platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}, python {platform.python_version()}")
    print(f"rows         {len(rows)} with an input, {len(inputs)} distinct inputs")
    print(f"alternatives {whole} of {len(rows)} rows ({whole / len(rows):.1%}) have {given.count}; ", end="")
    print(f"rows by number: {dict(sorted(Counter(map(len, offers)).items()))}; {paraphrases} paraphrases passed over")
    print(f"distinct     {len({text for some in parsed.values() for text in some})} instructions in all")
    print(f"answers      {sum(not answer.finished for answer in answers.values())} cut off, ", end="")
    print(f"{sum(answer.text is None for answer in answers.values())} refused")
    print(f"speed        {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:.1f} tokens a second")
    for row, some in list(zip(rows, offers, strict=True))[:SHOWN]:
        print(f"\n{row['instruction'][:80]!r} | {row['input'][:60]!r}")
        for text in some:
            print(f"    {text[:140]}", flush=True)


if __name__ == "__main__":
    main()
