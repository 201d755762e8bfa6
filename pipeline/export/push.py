"""`tss push`: a published run as a data set of the Hugging Face hub, in one commit that a tag named by the run points to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.error_text import one_line
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest, DamagedInput, RunFailed
from pipeline.runs import open_run
from pipeline.runs.card import card
from pipeline.runs.manifest import Manifest
from pipeline.runs.summary import Summary
from pipeline.storage import files, urls
from pipeline.storage.parts import DamagedPart, checked_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

TOKEN, ENDPOINT = "HF_TOKEN", "HF_ENDPOINT"  # variables of the environment
_KIND = "dataset"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_BESIDE = (open_run.CONFIG, open_run.REPORT, open_run.MANIFEST)
_REFUSED = {  # statuses by which the hub refuses a request, which no second try mends
    400: "the hub does not take this; accepted: what it says in brackets",
    401: f"the hub does not accept the token in {TOKEN}; accepted: one that may write, from the settings of an account",
    403: f"the token in {TOKEN} may not do this; accepted: one that may write to this data set, or to its owner's",
    404: "no such owner or data set, or the token may not see it; accepted: owner/name of an account or organisation",
    409: "somebody else writes there just now, or this exists already; run the same command again in a moment",
}


def push(path: str, name: str, public: bool, reporter: Reporter) -> Summary:
    """Send a run to the data set `name`, which is made, private unless `public`, where it does not exist.

    Raises BadRequest, RunFailed."""
    from huggingface_hub import HfApi

    token = _token()
    _require_name(name)
    _, run = open_run.find_run(path)
    manifest = open_run.read_manifest(run)
    if urls.is_url(run):
        raise BadRequest(f"{run}: accepted: a run on a disk of this machine; copy its folder here first")
    sent = _files(run, manifest, reporter)
    api = HfApi(token=token, endpoint=os.environ.get(ENDPOINT) or None)
    with _in_words(api, name, token):
        api.whoami()
        there = _existing(api, name)
        _require_fit(api, name, manifest.run, there, public)
        if there is None:
            api.create_repo(name, repo_type=_KIND, private=not public)
        commit = _commit(api, name, manifest.run, sent, there, reporter)
        api.create_tag(name, tag=manifest.run, revision=commit, repo_type=_KIND)
    size = sum(len(data) if isinstance(data, bytes) else data.stat().st_size for data in sent.values())
    seen = "public" if public else "private"
    kind = "selected" if manifest.counts.selected else "scored"
    return Summary(
        run,
        f"push         {len(sent):,} files, {size:,} bytes of run {manifest.run} to {name} ({seen}), commit {commit[:12]}\n"
        f'load         load_dataset("{name}", "{kind}", revision="{manifest.run}", split="train")\n'
        f"output       {api.endpoint}/datasets/{name}/tree/{manifest.run}",
    )


def _token() -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise BadRequest(
            f"{TOKEN} is not set; accepted: a token of the hub that may write, in this environment variable"
        )
    return token


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        found = "a URL" if "://" in name else repr(name[:200])  # a URL may hold a token
        raise BadRequest(
            f"OWNER/NAME: found {found}; accepted: owner/name, an account or organisation of the hub and the name of a "
            "data set, each of letters, digits, '.', '_' and '-', such as ann/alpaca-selected"
        )


def _files(run: str, manifest: Manifest, reporter: Reporter) -> dict[str, Path | bytes]:
    """What is sent, by its path: parts, every byte of which is checked; the card, as its owner may have filled it in; and what
    else lies beside the manifest. Raises BadRequest, DamagedInput."""
    parts = {
        published.path: record.part
        for kind in manifest.files.values()
        for published, record in zip(kind, open_run.parts_of(run, kind), strict=True)
    }
    with reporter.stage("check", len(parts)) as stage:
        for part in parts.values():
            try:
                checked_bytes(part)
            except DamagedPart as damaged:
                raise DamagedInput("push", str(damaged)) from damaged
            stage.advance()
    beside = {name: Path(urls.join(run, name)) for name in _BESIDE if files.exists(urls.join(run, name))}
    written = Path(urls.join(run, open_run.CARD))
    own_card = written if written.is_file() else card(manifest).encode()  # early releases wrote none
    return {open_run.CARD: own_card, **beside, **{path: Path(part.path) for path, part in parts.items()}}


def _existing(api: HfApi, name: str) -> DatasetInfo | None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.dataset_info(name)
    except RepositoryNotFoundError:
        return None


def _require_fit(api: HfApi, name: str, run: str, there: DatasetInfo | None, public: bool) -> None:
    """Raise BadRequest where rows would be seen by more people than was asked for, or the run is there already."""
    if there is None:
        return
    if not there.private and not public:
        raise BadRequest(
            f"{name}: is public, so everybody would see these rows; accepted: --public, or another data set"
        )
    if there.private and public:
        raise BadRequest(f"{name}: is private, and this command does not publish it; accepted: without --public")
    if run in {tag.name for tag in api.list_repo_refs(name, repo_type=_KIND).tags}:
        raise BadRequest(
            f"{name}: run {run} is there already, as the revision {run}; accepted: another run or data set"
        )


def _commit(
    api: HfApi,
    name: str,
    run: str,
    sent: dict[str, Path | bytes],
    there: DatasetInfo | None,
    reporter: Reporter,
) -> str:
    """Put the files into one commit, without the parts of the run that was there before; its id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # An earlier run may have listed near duplicates where this one did not look for any.
    folders = {"near_duplicates/", *(path.partition("/")[0] + "/" for path in sent if "/" in path)}
    names = [sibling.rfilename for sibling in (there.siblings or [] if there else [])]
    stale = [path for path in names if path not in sent and path.startswith(tuple(folders))]
    operations: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in stale]
    operations += [CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in sent.items()]
    with reporter.stage("push", len(sent), "files") as stage:
        made = api.create_commit(name, operations, commit_message=f"Run {run}", repo_type=_KIND)
        stage.advance(len(sent))
    return str(made.oid)


@contextmanager
def _in_words(api: HfApi, name: str, token: str) -> Iterator[None]:
    """Turn what the hub or the way to it answers into BadRequest or RunFailed, without the token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (BadRequest, RunFailed):
        raise
    except OfflineModeIsEnabled as error:
        raise BadRequest("HF_HUB_OFFLINE is set, so the hub is not asked; accepted: without it") from error
    except Exception as error:
        answer = _answer_in(error, HfHubHTTPError)
        words = one_line(answer or error).replace(token, f"<{TOKEN}>")
        status = answer.response.status_code if answer is not None else None
        if status in _REFUSED:
            raise BadRequest(f"{name} on {api.endpoint}: {_REFUSED[status]} ({words})") from error
        if isinstance(error, ValueError) and answer is None:  # what the hub finds wrong in the card
            raise BadRequest(f"{name} on {api.endpoint}: {words}") from error
        reached = f"the hub answered {status}" if status else f"{api.endpoint} cannot be reached"
        raise RunFailed("push", f"{reached}: {words}") from error


def _answer_in(error: BaseException | None, kind: type[Any]) -> Any:
    """The answer of the hub in an error or what caused it; uploads run in threads, which wrap it."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
