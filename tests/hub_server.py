"""A stand-in for the Hugging Face hub's protocol, as far as a push of a data set asks: for tests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Repository:
    """A data set: files of each commit, oldest first, and the commit of each tag."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    tags: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]


class Hub:
    """What the hub holds, and how it answers: `fails[(method, part of a path)]` is the status of a request instead."""

    def __init__(self, token: str, owners: tuple[str, ...]):
        self.token, self.owners = token, owners
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.fails: dict[tuple[str, str], int] = {}
        self.requests: list[str] = []
        self.url = ""


@contextmanager
def hub_server(token="hf_secret_of_tests", owners=("ann",)):
    """A `Hub` on the loopback, until the context ends."""
    hub = Hub(token, owners)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def sha_of(number: int) -> str:
    return f"{number:040x}"


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given):
            pass

        def reply(self, status, value=None, **headers):
            data = json.dumps(value if value is not None else {}).encode()
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_request(self):
            data, path = self.body(), self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            for (method, part), status in hub.fails.items():
                if self.command == method and part in path:
                    return self.reply(status, {"error": "as the test wants it"})
            if path.startswith("/lfs/"):
                hub.objects[path.removeprefix("/lfs/")] = data
                return self.reply(200)
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                words = "Invalid credentials in Authorization header"
                return self.reply(401, {"error": words}, **{"X-Error-Message": words})
            return self.answer(path, data)

        do_GET = do_POST = do_PUT = handle_request

        def answer(self, path, data):
            if path == "/api/whoami-v2":
                return self.reply(200, {"name": "ann", "type": "user", "orgs": []})
            if path == "/api/validate-yaml":
                return self.reply(200, {"warnings": [], "errors": []})
            if path == "/api/repos/create":
                asked = json.loads(data)
                if asked["organization"] not in hub.owners or asked["type"] != "dataset":
                    return self.reply(403, {"error": "you may not create this"})
                name = f"{asked['organization']}/{asked['name']}"
                hub.repositories[name] = Repository(asked["visibility"] == "private")
                return self.reply(200, {"url": f"{hub.url}/datasets/{name}", "name": name, "id": "0"})
            found = re.fullmatch(r"(?:/api)?/datasets/([^/]+/[^/]+?)(?:\.git)?(?:/(.*))?", path)
            repository = hub.repositories.get(found[1]) if found else None
            if found is None or repository is None:
                return self.reply(404, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
            return self.of_repository(repository, found[1], found[2] or "", data)

        def of_repository(self, repository, name, rest, data):
            sha = sha_of(len(repository.commits) - 1)
            if rest in ("", "revision/main"):
                siblings = [{"rfilename": path} for path in repository.files]
                return self.reply(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings})
            if rest == "refs":
                refs = ((tag, f"refs/tags/{tag}", sha_of(at)) for tag, at in repository.tags.items())
                tags = [dict(zip(("name", "ref", "targetCommit"), ref, strict=True)) for ref in refs]
                return self.reply(200, {"branches": [], "converts": [], "tags": tags})
            if rest == "preupload/main":
                return self.reply(
                    200, {"files": [self.mode_of(repository, file) for file in json.loads(data)["files"]]}
                )
            if rest == "info/lfs/objects/batch":
                objects = [self.action_of(asked) for asked in json.loads(data)["objects"]]
                return self.reply(200, {"transfer": "basic", "objects": objects})
            if rest == "commit/main":
                return self.commit(repository, name, [json.loads(line) for line in data.splitlines()])
            if rest.startswith("tag/"):
                number = int(rest.removeprefix("tag/"), 16)
                repository.tags[json.loads(data)["tag"]] = number
                return self.reply(200)
            return self.reply(404, {"error": "no such address"})

        def mode_of(self, repository, file):
            mode = "lfs" if file["path"].endswith(".parquet") else "regular"
            there = repository.files.get(file["path"])
            oid = None if there is None else hashlib.sha256(there).hexdigest() if mode == "lfs" else _blob_id(there)
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        def action_of(self, asked):
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in hub.objects:
                answer["actions"] = {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}
            return answer

        def commit(self, repository, name, lines):
            files = dict(repository.files)
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "deletedFile":
                    del files[value["path"]]
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                else:
                    files[value["path"]] = base64.b64decode(value["content"])
            repository.commits.append(files)
            sha = sha_of(len(repository.commits) - 1)
            return self.reply(
                200, {"success": True, "commitUrl": f"{hub.url}/datasets/{name}/commit/{sha}", "commitOid": sha}
            )

    return Handler
