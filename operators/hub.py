"""Whether something is on a model hub, asked once and answered in words instead of minutes of retries."""

from __future__ import annotations

from pathlib import Path

SECONDS = 10.0


def looks_local(name: str) -> bool:
    """Whether a name means a folder: it exists, or it is written as a path and so is never asked of a hub."""
    return Path(name).exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def why_not_on_hub(name: str, kind: str = "model") -> str | None:
    """None where the hub, or its local cache, has the model or dataset `name`; otherwise the reason in one line."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if kind == "model" and isinstance(try_to_load_from_cache(name, "config.json"), str):
        return None
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=SECONDS)
    except Exception as error:  # noqa: BLE001 - the hub's client changes its HTTP library, and so its errors, by release
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
