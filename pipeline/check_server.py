"""Whether the server of a scorer can score, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from operators.json_server import JsonServer, NoKey, key_of
from operators.scoring.server_scorer import SECTION, LogprobServer, ServerProblem, check_server
from pipeline.config import Scorer
from pipeline.errors import BadRequest

_SAME_MODEL = 0.05  # nats a token: one model differs by less between dtypes, kernels and batches
_TRIES = 2  # of a server that does not answer, before there is any work
_TRIAL = (
    "The first train leaves the old station at seven in the morning, and whoever wants to reach the sea before noon has "
    "to be on it."
)
_SHOWN_MODELS = 20


def check_scorer_server(scorer: Scorer, tokenizer: Any) -> dict[str, Any]:
    """What workers need of the server: how it is asked, what is behind the name of its model, and the ids that it was tried
    with. Raises BadRequest where it cannot be the scorer."""
    asked = scorer.server
    name = asked.model or scorer.model
    try:
        key = key_of(asked.api_key_env)
    except NoKey as problem:
        raise BadRequest(
            f"{SECTION}.api_key_env: {problem}, on the machine that would ask; accepted: a variable that holds the key"
        ) from problem
    http = JsonServer(str(asked.base_url), key, min(asked.timeout, 60.0), _TRIES, SECTION, ServerProblem)
    server = LogprobServer(http, name)
    ids = tokenizer(_TRIAL, add_special_tokens=False)["input_ids"]
    try:
        served = server.served()
        if name not in served:
            names = ", ".join(sorted(served)[:_SHOWN_MODELS]) or "none"
            raise BadRequest(f"{SECTION}.model: the server at {asked.base_url} has no {name!r}; accepted: {names}")
        logprobs = check_server(server, ids, [tokenizer.decode([id]) for id in ids], ids[len(ids) // 2 :][::-1])
    except ServerProblem as problem:
        raise BadRequest(f"{SECTION}.base_url: {str(problem).removeprefix(f'{SECTION}: ')}") from problem
    _require_room(scorer, name, served[name].get("max_model_len"))
    return {
        "base_url": asked.base_url,
        "model": name,
        "root": str(served[name].get("root") or ""),
        "protocol": server.protocol,
        "trial": ids,
        "trial_logprobs": logprobs,
        **{setting: getattr(asked, setting) for setting in ("api_key_env", "concurrency", "timeout", "tries")},
    }


def require_same_model(server: dict[str, Any], noted: Sequence[float] | None) -> None:
    """Raise BadRequest where the server gives other numbers for the trial than when its likelihoods were first stored."""
    now = server["trial_logprobs"]
    if noted is None or len(noted) != len(now):
        return
    off = float(np.abs(np.array(noted) - now).mean())
    if off > _SAME_MODEL:
        raise BadRequest(
            f"{SECTION}: behind the name {server['model']!r} is another model than the one whose likelihoods are stored in "
            f"this output: tokens of a fixed sentence differ by {off:.2g} nats on the mean; accepted: another name of the "
            f"model there ({SECTION}.model), or another output"
        )


def _require_room(scorer: Scorer, name: str, positions: Any) -> None:
    """Raise BadRequest where the server takes no sequences as long as those that will be asked for, and one token more, which
    servers write in any case."""
    if isinstance(positions, int) and scorer.max_length + 1 > positions:
        raise BadRequest(
            f"scorer.max_length: found {scorer.max_length}, and the server gives {name!r} {positions} positions, of which one "
            f"is for what it writes; set it to at most {positions - 1}"
        )
