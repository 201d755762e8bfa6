"""A server that tells log-probabilities of prompts, as vLLM and SGLang do, with a model of the test behind it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


class Behind:
    """What is served: a model and its tokenizer, by the given protocols; `meddle(ids, logprobs, number)` may change the
    numbers, or give a status to answer with. `ids` are those that were asked for."""

    def __init__(
        self, model, tokenizer, protocols=("vllm", "sglang"), name="served", meddle=None, positions=None, parent=None
    ):
        self.model, self.tokenizer, self.protocols, self.name = model, tokenizer, protocols, name
        self.meddle = meddle or (lambda ids, logprobs, number: logprobs)
        self.positions, self.parent = positions, parent
        self.ids, self.lock = [], threading.Lock()
        self.url = ""

    def logprobs(self, ids):
        """Of all ids but the first; or a status."""
        with self.lock, torch.inference_mode():
            self.ids.append(ids)
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
            chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            return self.meddle(ids, chosen.tolist(), len(self.ids))

    def text(self, id):
        return self.tokenizer.decode([id])


@contextmanager
def logprob_server(*given, **settings):
    """A `Behind` on the loopback, until the context ends."""
    behind = Behind(*given, **settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(behind))
    behind.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield behind
    finally:
        server.shutdown()
        server.server_close()


def _handler(behind):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given):
            pass

        def reply(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            served = {"id": behind.name, "root": "/models/behind", "parent": behind.parent}
            if behind.positions:
                served["max_model_len"] = behind.positions
            self.reply(200, {"data": [served]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            protocol = {"/v1/completions": "vllm", "/generate": "sglang"}.get(self.path)
            if protocol not in behind.protocols:
                self.reply(404, {"error": {"message": "there is nothing here"}})
                return
            ids = body["prompt"] if protocol == "vllm" else body["input_ids"]
            found = behind.logprobs(ids)
            if isinstance(found, int):
                self.reply(found, {"error": {"message": f"status {found}"}})
            elif protocol == "vllm":
                assert body["model"] == behind.name and body["prompt_logprobs"] == 0
                told = [
                    {str(id): {"logprob": logprob, "rank": 1, "decoded_token": behind.text(id)}}
                    for id, logprob in zip(ids[1:], found, strict=True)
                ]
                self.reply(200, {"choices": [{"index": 0, "text": "x", "prompt_logprobs": [None, *told]}]})
            else:
                start = body["logprob_start_len"]
                told = [[None, ids[start], None]]
                told += [
                    [found[place - 1], ids[place], behind.text(ids[place])] for place in range(start + 1, len(ids))
                ]
                self.reply(200, {"text": "x", "meta_info": {"input_token_logprobs": told}})

    return Handler
