"""Whether the server of a scorer can score, before any work."""

from __future__ import annotations

from typing import Any

from operators.json_server import JsonServer, NoKey, key_of
from operators.scoring.logprob_server import SECTION, LogprobServer, ServerProblem
from operators.scoring.server_scorer import ServerTrial, check_server
from pipeline.config import Scorer
from pipeline.errors import BadRequest

_TRIES = 2  # of a server that does not answer, before there is any work
_TRIAL = (
    "The first train leaves the old station at seven in the morning, and whoever wants to reach the sea before noon has "
    "to be on it."
)
_SHOWN_MODELS, _SPECIAL = 20, 64


def check_scorer_server(scorer: Scorer, tokenizer: Any) -> dict[str, Any]:
    """What workers need of the server: how it is asked, what is behind the name of its model, and the ids that it was tried
    with. Raises BadRequest where it cannot be the scorer."""
    asked = scorer.server
    name = asked.model or scorer.model
    key = required_key(asked.api_key_env, SECTION)
    http = JsonServer(str(asked.base_url), key, min(asked.timeout, 60.0), _TRIES, SECTION, ServerProblem)
    server = LogprobServer(http, name)
    trial = _trial_of(tokenizer)
    try:
        served = http.models()
        if name not in served:
            names = ", ".join(sorted(served)[:_SHOWN_MODELS]) or "none"
            raise BadRequest(f"{SECTION}.model: the server at {asked.base_url} has no {name!r}; accepted: {names}")
        logprobs = check_server(server, trial)
    except ServerProblem as problem:
        raise BadRequest(f"{SECTION}.base_url: {str(problem).removeprefix(f'{SECTION}: ')}") from problem
    parent = served[name].get("parent")
    if parent and server.protocol == "sglang":  # whose /generate is not told a model
        raise BadRequest(
            f"{SECTION}.model: {name!r} is an adapter of {parent!r} there, and SGLang would score without it; accepted: a "
            "server of the merged model"
        )
    _require_room(scorer, name, served[name].get("max_model_len") or served.get(str(parent), {}).get("max_model_len"))
    return {
        "base_url": asked.base_url,
        "model": name,
        "root": str(served[name].get("root") or ""),
        "protocol": server.protocol,
        "trial": list(trial.ids),
        "trial_logprobs": logprobs,
        **{setting: getattr(asked, setting) for setting in ("api_key_env", "concurrency", "timeout", "tries")},
    }


def required_key(variable: str | None, section: str) -> str | None:
    """The key of a server, where a section of the configuration names a variable with one; raises BadRequest."""
    try:
        return key_of(variable)
    except NoKey as problem:
        raise BadRequest(
            f"{section}.api_key_env: {problem}, on the machine that would ask; accepted: a variable that holds the key"
        ) from problem


def _trial_of(tokenizer: Any) -> ServerTrial:
    ids = tokenizer(_TRIAL, add_special_tokens=False)["input_ids"]
    special = sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder})[:_SPECIAL]
    return ServerTrial(
        ids=ids,
        texts=[tokenizer.decode([id]) for id in ids],
        others=ids[len(ids) // 2 :][::-1],
        special={id: tokenizer.decode([id], skip_special_tokens=False) for id in special},
    )


def _require_room(scorer: Scorer, name: str, positions: Any) -> None:
    """Raise BadRequest where the server takes no sequences as long as those that will be asked for, and one token more, which
    servers write in any case."""
    if isinstance(positions, int) and scorer.max_length + 1 > positions:
        raise BadRequest(
            f"scorer.max_length: found {scorer.max_length}, and the server gives {name!r} {positions} positions, of which one "
            f"is for what it writes; set it to at most {positions - 1}"
        )
