"""The paper's SUM: ARC-C, MMLU, HellaSwag and TruthfulQA of lm-evaluation-harness, where it and its data are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The paper does not say which accuracies it adds up: plain ones without examples in the prompt are this project's choice.
TASKS = ("arc_challenge", "mmlu", "hellaswag", "truthfulqa_mc1")


@dataclass(frozen=True)
class Suite:
    """Tasks of lm-eval, of which `include` names a folder with more, and how many questions of each are asked (None: all)."""

    tasks: tuple[str, ...] = TASKS
    include: str | None = None
    limit: int | None = None


def why_not(suite: Suite) -> str | None:
    """Why the tasks cannot be run here; None where they can."""
    try:
        from lm_eval.tasks import TaskManager

        TaskManager(include_path=suite.include).load(list(suite.tasks))
    except ImportError as error:
        return f"lm-eval cannot be imported ({error})"
    except (
        OSError,
        ValueError,
        KeyError,
    ) as error:  # of data sets that neither a cache nor the hub has, of unknown names
        return f"its tasks cannot be loaded ({str(error)[:200]})"
    return None


def run(model: Any, tokenizer: Any, suite: Suite) -> dict[str, list[float]]:
    """Of each task whether each question was answered right, 1 or 0; those of a group's parts one after the other."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    bare = model.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters, with them in its layers
    answers = simple_evaluate(
        model=HFLM(pretrained=bare, tokenizer=tokenizer, batch_size=8),
        tasks=list(suite.tasks),
        task_manager=TaskManager(include_path=suite.include),
        num_fewshot=0,
        limit=suite.limit,
        log_samples=True,
        bootstrap_iters=0,
    )["samples"]
    return {task: _right(answers, task) for task in suite.tasks}


def _right(answers: dict[str, Sequence[dict[str, Any]]], task: str) -> list[float]:
    """By the number of the question, which any model is asked in the same order."""
    parts = sorted(name for name in answers if name == task or name.startswith(f"{task}_"))
    right = [float(row["acc"]) for part in parts for row in sorted(answers[part], key=lambda row: int(row["doc_id"]))]
    if not right:
        raise ValueError(f"lm-eval gave no answers to {task}; it gave some to {', '.join(sorted(answers))}")
    return right
