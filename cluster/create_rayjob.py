"""Create a RayJob from its manifest and wait until it has ended: the whole of a CronJob's pod.

    python create_rayjob.py rayjob.yaml --entrypoint="tss refresh /etc/tss/config.yaml" --label=KEY=VALUE --owner=JOB

It needs nothing but Python's standard library, and a service account that may create, get and list RayJobs of its
namespace.

One RayJob is made for one owner, under a name that follows from the owner's: a second pod of the same Job finds it and
waits for it. Where a RayJob with the same label has not ended yet, because the pod that waited for it is gone, that one
is waited for, and none is made.

Exit status: 0 the run succeeded; 1 it failed, was deleted, had not ended at the deadline, or the API server refused a
request; 75 the API server was out of reach: try again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# KubeRay's names for a RayJob that will not change any more (rayjob_types.go). Retrying and Suspended are none of these.
ENDED = {"Complete", "Failed", "ValidationFailed"}
OUT_OF_REACH = 75  # EX_TEMPFAIL of sysexits.h
_SUFFIX = "-ray"  # KubeRay gives the RayJob's own name to the Job that submits it: it must not be that of the owner
_LONGEST_NAME = 47  # of a RayJob: KubeRay appends to it, and refuses more


class Refused(Exception):
    """The API server's answer to a request that will not be better the next time."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class OutOfReach(Exception):
    """No answer, or only errors of the server's own, to every attempt."""


class Api:
    """RayJobs of one namespace, over HTTP. What may pass is tried again, after pauses that double up to half a minute."""

    def __init__(self, server: str, account: Path, attempts: int, pause: float) -> None:
        namespace = (account / "namespace").read_text().strip()
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._account, self._attempts, self._pause = account, attempts, pause
        trust = ssl.create_default_context(cafile=str(account / "ca.crt")) if server.startswith("https:") else None
        # Without the proxies of the environment: the server is inside the cluster.
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)]
        self._opener = urllib.request.build_opener(*handlers)

    def labelled(self, label: str) -> list[dict[str, Any]]:
        """The RayJobs that carry a label, KEY=VALUE."""
        return self._call("GET", "?" + urllib.parse.urlencode({"labelSelector": label}))["items"]

    def get(self, name: str) -> dict[str, Any]:
        """One RayJob; raises Refused with status 404 where there is none."""
        return self._call("GET", "/" + urllib.parse.quote(name))

    def read(self, manifest: bytes) -> dict[str, Any]:
        """A manifest in YAML as data: the server parses and checks it, and creates nothing. Misspelt keys are refused."""
        return self._call("POST", "?dryRun=All&fieldValidation=Strict", manifest, "application/yaml")

    def create(self, rayjob: dict[str, Any]) -> None:
        """Create a RayJob that has a name. One that exists already is as good: an earlier answer may have been lost."""
        try:
            self._call("POST", "", json.dumps(rayjob).encode())
        except Refused as refused:
            if refused.status != 409:
                raise

    def _call(self, method: str, rest: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        problem: Exception | None = None
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(min(self._pause * 2 ** (attempt - 1), 30))
            request = urllib.request.Request(self._url + rest, data=body, method=method)
            # Read each time: the token in the file is renewed before it expires.
            request.add_header("Authorization", f"Bearer {(self._account / 'token').read_text().strip()}")
            request.add_header("Accept", "application/json")
            if body is not None:
                request.add_header("Content-Type", kind)
            try:
                with self._opener.open(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise Refused(error.code, _message(error)) from error
                problem = error
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = error
        raise OutOfReach(f"{method} {self._url}: {self._attempts} attempts failed, the last one with {problem}")


def _message(error: urllib.error.HTTPError) -> str:
    """What the API server says about an error: the message of its Status object, or the plain text."""
    text = error.read(10_000).decode("utf-8", "replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        return text or error.reason


def begin(api: Api, options: argparse.Namespace) -> str:
    """The name of the RayJob to wait for: the owner's, one that still runs, or a new one."""
    name = options.owner + _SUFFIX
    known = {one["metadata"]["name"]: one for one in api.labelled(options.label)}
    unfinished = sorted(
        (one["metadata"]["creationTimestamp"], other) for other, one in known.items() if _status(one)[0] not in ENDED
    )
    if name in known:
        print(f"{name}: exists already", flush=True)
        return name
    if unfinished:
        print(f"{unfinished[0][1]}: has not ended yet, so no other one is made", flush=True)
        return unfinished[0][1]
    draft = api.read(options.manifest.read_bytes())
    key, _, value = options.label.partition("=")
    rayjob = {
        "apiVersion": draft["apiVersion"],
        "kind": draft["kind"],
        "metadata": {
            "name": name,
            "labels": {**draft["metadata"].get("labels", {}), key: value},  # of a queue, too
            **{field: draft["metadata"][field] for field in ("annotations",) if field in draft["metadata"]},
        },
        "spec": {**draft["spec"], **({"entrypoint": options.entrypoint} if options.entrypoint else {})},
    }
    if options.owner_uid:  # so that it is deleted with the Job, when the CronJob's history is full
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": options.owner, "uid": options.owner_uid}
        rayjob["metadata"]["ownerReferences"] = [owner]
    api.create(rayjob)
    print(f"{name}: created", flush=True)
    return name


def wait(api: Api, name: str, deadline: float, poll: float) -> int:
    """Follow a RayJob to its end, printing each change; the exit status."""
    shown = None
    while True:
        try:
            rayjob = api.get(name)
        except Refused as refused:
            if refused.status != 404:
                raise
            print(f"{name}: was deleted", flush=True)
            return 1
        status = _status(rayjob)
        if status != shown:
            print(f"{name}: {' '.join(part for part in status if part) or 'New'}", flush=True)
            shown = status
        if status[0] in ENDED:
            # A run that somebody stopped is Complete as well, with STOPPED.
            return 0 if status[:2] == ["Complete", "SUCCEEDED"] else 1
        if time.monotonic() >= deadline:
            print(f"{name}: has not ended at the deadline; it goes on, unattended", flush=True)
            return 1
        time.sleep(min(poll, max(deadline - time.monotonic(), 0.01)))


def _status(rayjob: dict[str, Any]) -> list[str]:
    """What KubeRay says of it, each on one line; nothing yet of a new one."""
    status = rayjob.get("status") or {}
    keys = ("jobDeploymentStatus", "jobStatus", "reason", "message")
    return [" ".join(str(status.get(key) or "").split()) for key in keys]


def main(argv: list[str] | None = None) -> int:
    """Create and wait; the exit status."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    parser = argparse.ArgumentParser(description="Create a RayJob from its manifest and wait until it has ended.")
    parser.add_argument("manifest", type=Path, help="a RayJob in YAML")
    parser.add_argument("--owner", required=True, help="the Job that this is a pod of; names the RayJob")
    parser.add_argument("--owner-uid", default="", help="its uid: with it the RayJob is deleted together with the Job")
    parser.add_argument("--label", required=True, metavar="KEY=VALUE", help="what RayJobs of this kind carry")
    parser.add_argument("--entrypoint", default="", help="instead of the manifest's")
    parser.add_argument("--deadline", type=float, default=86400, help="seconds to wait (default a day)")
    parser.add_argument("--poll", type=float, default=15, help="seconds between two looks (default 15)")
    parser.add_argument(
        "--attempts", type=int, default=9, help="of a request that fails (default 9, in about 2 minutes)"
    )
    parser.add_argument("--pause", type=float, default=1, help="seconds before the second attempt (default 1)")
    parser.add_argument("--server", default=server, help="the API server (default the one of this cluster)")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="the folder of token, ca.crt and namespace")
    options = parser.parse_args(argv)
    if len(options.owner + _SUFFIX) > _LONGEST_NAME:
        parser.error(
            f"--owner: at most {_LONGEST_NAME - len(_SUFFIX)} characters: KubeRay refuses longer names of RayJobs"
        )
    deadline = time.monotonic() + options.deadline
    try:
        api = Api(options.server, options.account, options.attempts, options.pause)
        return wait(api, begin(api, options), deadline, options.poll)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 1
    except OutOfReach as gone:
        print(f"out of reach: {gone}", file=sys.stderr)
        return OUT_OF_REACH


if __name__ == "__main__":
    sys.exit(main())
