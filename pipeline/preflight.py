"""Everything about a request that can be known to be wrong before any work starts."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.template import TemplateProblem, find_template, make_template, source_of
from operators.text import first_line
from pipeline import storage
from pipeline.config import Config
from pipeline.errors import BadRequest

_LOOKS = 4  # a second apart


@dataclass(frozen=True)
class Checked:
    """What the checks found: settings for the workers' encoder, and what identifies the scorer once its dtype is known."""

    encoder: dict[str, Any]
    identity: str  # of the scorer, but for its dtype
    template_hash: str
    embedder: str  # its fingerprint
    embedder_version: str  # that workers load

    def model(self, dtype: str) -> dict[str, Any]:
        """Settings for `load_model` on a worker."""
        asked = self.encoder
        return {
            "name": asked["model"],
            "version": asked["version"],
            "dtype": dtype,
            "trust_remote_code": asked["trust_remote_code"],
        }

    def scorer(self, dtype: str) -> dict[str, Any]:
        """The scorer as the manifest names it."""
        return {
            "model": self.encoder["model"],
            "fingerprint": storage.digest_of(f"{self.identity} {dtype}".encode()),
            "dtype": dtype,
            "template_text": self.encoder["template_text"],
            "template_hash": self.template_hash,
        }


def check_output(output: str) -> str:
    """The output folder, absolute; raises BadRequest where nothing can be written there. Creates nothing."""
    if storage.is_url(output):
        return _check_store(output.rstrip("/"))
    try:
        path = Path(output).expanduser().absolute()
        is_file = path.exists() and not path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a home folder of nobody
        raise BadRequest(f"output: {output!r} is no place for a folder: {error}") from error
    if is_file:
        raise BadRequest(f"output: {output!r} is a file; accepted: a folder, which need not exist yet")
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise BadRequest(f"output: {output!r}: {existing} is a file; accepted: a folder, which need not exist yet")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadRequest(f"output: {output!r}: {existing} is not writable")
    return str(path)


def _check_store(output: str) -> str:
    scheme, _, inner = output.partition("://")
    if storage.has_credentials(output) or "?" in output:
        raise BadRequest(
            "output: a URL with credentials or options in it, which would be kept in logs and manifests; accepted: a URL "
            "without, and both in the environment, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
        )
    if scheme not in storage.SCHEMES or not inner:
        raise BadRequest(
            f"output: {output!r}: found a URL of {scheme!r}; accepted: a folder, or a URL of "
            f"{', '.join(storage.SCHEMES)} with a bucket, such as s3://bucket/runs"
        )
    bucket = f"{scheme}://{inner.partition('/')[0]}"
    try:
        reached = storage.exists(bucket)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(f"output: {output!r} cannot be reached: {first_line(error)}") from error
    if not reached:
        raise BadRequest(f"output: {output!r}: there is no bucket {bucket}; accepted: one that exists")
    return output


def check_shared(output: str, claim: str) -> None:
    """Raise BadRequest where this worker does not see the claim that the driver has just written into the output."""
    for _ in range(_LOOKS):  # a network file system may show a new file a moment later
        if storage.exists(claim):
            return
        time.sleep(1.0)
    raise BadRequest(
        f"output: {output!r} is not the same folder on {platform.node()}, where work is done, as where the command runs; "
        "accepted: a folder on storage that all machines of the cluster see, or a URL such as s3://bucket/runs"
    )


def check_shadowing() -> None:
    """Raise BadRequest where the working folder holds other packages of our names: Ray's workers would import those."""
    here, installed = Path.cwd(), Path(__file__).resolve().parents[1]
    for name in ("operators", "pipeline"):
        other = next((path for path in (here / name / "__init__.py", here / f"{name}.py") if path.is_file()), None)
        if other and other.resolve().parent not in (installed / name, installed):
            raise BadRequest(
                f"{other} would be imported by Ray's workers instead of the installed package {installed / name}; "
                "run tss from another folder"
            )


def read_template(name: str) -> str:
    """The source of a template, where there is one to read; raises BadRequest."""
    try:
        return source_of(name)
    except TemplateProblem as problem:
        raise BadRequest(f"scorer.template: {problem}") from problem


def check_models(config: Config, template_text: str) -> Checked:
    """Load tokenizer and configuration, try the template, and ask for the embedder; raises BadRequest."""
    from operators import models
    from operators.embedder import EmbedderProblem, fingerprint, resolve_embedder
    from operators.encode import empty_context, encode_prompts
    from operators.template_trial import try_template

    wanted = config.scorer
    try:
        embedder_version = resolve_embedder(config.embedder.model)
        embedder = fingerprint(config.embedder.model, embedder_version)
        version = models.resolve(wanted.model)
        loaded: dict[str, Any] = {"version": version, "trust_remote_code": wanted.trust_remote_code}
        tokenizer = models.load_tokenizer(wanted.model, **loaded)
        model = models.load_config(wanted.model, **loaded)
        models.check_weights(wanted.model, version, model)
        source = find_template(wanted.template, tokenizer, template_text)
        prompt, *_ = try_template(source)
        template = make_template(source)
        if not encode_prompts(tokenizer, [prompt])[0]:
            raise TemplateProblem("the template renders an empty prompt")
        empty_context(tokenizer)
    except (EmbedderProblem, models.ModelProblem) as problem:
        raise BadRequest(str(problem)) from problem
    except TemplateProblem as problem:
        raise BadRequest(f"scorer.template: {problem}") from problem
    except ValueError as problem:
        raise BadRequest(f"scorer.model: {problem}") from problem
    except OSError as problem:  # of a name that no file can have
        raise BadRequest(f"scorer.model or embedder.model cannot be looked for: {problem}") from problem
    if wanted.append_eos and tokenizer.eos_token_id is None:
        raise BadRequest("scorer.append_eos: the tokenizer has no EOS token; set it to false")
    positions = models.window(model)
    if positions is not None and wanted.max_length > positions:
        raise BadRequest(
            f"scorer.max_length: found {wanted.max_length}, and {wanted.model!r} has {positions} positions; "
            f"set it to at most {positions}"
        )
    return Checked(
        encoder={
            "model": wanted.model,
            **loaded,
            "template": wanted.template,
            "template_text": template.text,
            "append_eos": wanted.append_eos,
            "max_length": wanted.max_length,
            "vocab_size": _vocab_size(model),
        },
        identity=models.identity(
            wanted.model,
            version,
            tokenizer,
            template_hash=template.hash,
            append_eos=wanted.append_eos,
            trust_remote_code=wanted.trust_remote_code,
        ),
        template_hash=template.hash,
        embedder=embedder,
        embedder_version=embedder_version,
    )


def _vocab_size(model: Any) -> int | None:
    """How many ids a model knows, or None where its configuration does not say."""
    size = getattr(model.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def check_quota(config: Config, sources: set[str]) -> None:
    """Raise BadRequest where a quota names a source that the run does not have."""
    for source in config.select.quota:
        if source not in sources:
            raise BadRequest(f"select.quota.{source}: no such source; accepted: {', '.join(sorted(sources))}")
