"""A server that speaks the OpenAI chat-completions protocol, as far as a generator asks: for tests."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """What a server was asked, and how it answers: `answer(body, number)` gives the text of a completion, a list of text and
    reason to finish, or (status, headers)."""

    def __init__(self, answer, model="writer", key=None, lists=True):
        self.answer, self.model, self.key, self.lists = answer, model, key, lists
        self.bodies, self.keys, self.lock = [], [], threading.Lock()
        self.url = ""
        self.busy = self.most_at_once = 0

    def prompts(self):
        return [body["messages"][0]["content"] for body in self.bodies]


@contextmanager
def chat_server(answer, **settings):
    """A `Served` on the loopback, until the context ends."""
    served = Served(answer, **settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def _handler(served):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given):
            pass

        def reply(self, status, value=None, headers=()):
            data = json.dumps(value).encode() if value is not None else b""
            self.send_response(status)
            for name, text in dict(headers).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def known(self):
            if served.key is None or self.headers.get("Authorization") == f"Bearer {served.key}":
                return True
            self.reply(401, {"error": {"message": "who is there?"}})
            return False

        def do_GET(self):
            if self.known():
                listed = [{"id": served.model, "root": "/models/of-it"}]
                self.reply(200, {"data": listed if served.lists else []})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.known():
                return
            if body["model"] != served.model:
                self.reply(404, {"error": {"message": "there is no such model"}})
                return
            with served.lock:
                served.bodies.append(body)
                served.keys.append(self.headers.get("Authorization"))
                number = len(served.bodies)
                served.busy += 1
                served.most_at_once = max(served.most_at_once, served.busy)
            try:
                answered = served.answer(body, number)
            finally:
                with served.lock:
                    served.busy -= 1
            if isinstance(answered, tuple):
                status, headers = answered
                self.reply(status, {"error": {"message": f"status {status} for {served.key}"}}, headers)
            else:
                text, reason = answered if isinstance(answered, list) else (answered, "stop")
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
                self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 7}})

    return Handler
