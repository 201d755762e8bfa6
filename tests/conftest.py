"""Shared by all tests: one Ray session, a byte-level tokenizer, random two-layer models of three families."""

from __future__ import annotations

import os

os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # Models are tiny: threads would cost more than they give, most of all threads that spin while they wait.
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # Nobody reads what workers print: it is looked for now and then.
        "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
        "LOG_NAME_UPDATE_INTERVAL_S": "60",
        # What hangs fails.
        "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "240",
    }
)

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from simulated_death import Died

# Heavy libraries are imported where they are used: the process that hands tests out to others needs none of them.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

# A suite that is started in the background inherits that these are ignored; what it starts must not.
for _number, _action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _action)

settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("suite")

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}<bos>{% endif %}"
    "[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the folder of real corpora is not here")


def byte_tokenizer(*, bos: bool) -> PreTrainedTokenizerFast:
    """A token per byte; with or without a BOS that the tokenizer's own rule adds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<eos>", "<bos>"] if bos else ["<eos>"]
    vocabulary = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<bos>" if bos else None, chat_template=CHAT_TEMPLATE
    )


def random_model(family: str) -> torch.nn.Module:
    """A random two-layer model with weights large enough that its distributions are far from flat."""
    import torch
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(7)
    shape = {
        "vocab_size": 260,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 512,
    }
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape))
    elif family == "qwen":
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    else:
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **shape,
                sliding_window=16,
                layer_types=["sliding_attention", "full_attention"],
                final_logit_softcapping=20.0,
            )
        )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.15)
    return model.eval()


# Tests that ask for one of these, through other fixtures too, start Ray, processes or servers.
RAY_FIXTURES = {"ray_session", "object_store", "own_ray"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what is not a unit test. Files with such tests go first: of two processes, neither is left alone with them."""
    starting = [item for item in items if RAY_FIXTURES & set(getattr(item, "fixturenames", ()))]
    for item in starting:
        item.add_marker("ray")
    slow = {item.path for item in starting}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", params=["llama", "qwen", "gemma"])
def model(request):
    """Each family in turn."""
    return random_model(request.param)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A random Llama with a byte tokenizer, saved as a user would have it."""
    folder = tmp_path_factory.mktemp("model")
    random_model("llama").save_pretrained(folder)
    byte_tokenizer(bos=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def object_store():
    """An S3 server on the loopback with a bucket `bucket`; the environment names it, also for workers that start later."""
    import pyarrow.fs as pafs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    named = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
    os.environ.update({f"AWS_{name}": value for name, value in named.items()})
    store = pafs.S3FileSystem(endpoint_override=url, allow_bucket_creation=True)
    store.create_dir("bucket")
    yield store
    server.stop()


@pytest.fixture(scope="session")
def ray_session(object_store):
    """The suite's one Ray session. Four slots: shuffles need free ones beside the actors."""
    import ray
    import shared_workers

    from pipeline.engine.session import session

    # Workers are sent some functions of the tests' own modules by name.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300 << 20,
        log_to_driver=False,
        logging_level="error",
        # Workers that wait are kept: one that has imported torch is most of what a small run costs.
        _system_config={"idle_worker_killing_time_threshold_ms": 3_600_000},
    )
    with session(None), _in_actors(shared_workers.in_tasks, *_with_actors()):
        yield
    ray.shutdown()


@pytest.fixture(scope="session")
def own_ray():
    """The environment of processes that start a Ray of their own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


@pytest.fixture
def actors(ray_session):
    """Runs have actors of their own, as outside of tests."""
    from pipeline.engine import job

    with _in_actors(job.in_actors, *_with_actors()):
        yield


@pytest.fixture
def scorer_actors(ray_session):
    """Runs have actors of their own that score, as outside of tests."""
    from pipeline.engine import job
    from pipeline.scoring import rounds

    with _in_actors(job.in_actors, rounds):
        yield


@pytest.fixture
def mortal(monkeypatch):
    """What is marked when Died is raised stays marked, as when a process ends without a word."""
    from pipeline.storage import files

    delete = files.delete
    monkeypatch.setattr(files, "delete", lambda path: None if isinstance(sys.exc_info()[1], Died) else delete(path))


def _with_actors():
    """The stages that have actors."""
    from pipeline.retrieval import embeddings, generate
    from pipeline.scoring import rounds

    return embeddings, generate, rounds


@contextlib.contextmanager
def _in_actors(how, *stages):
    """Actors of these stages are made by `how`."""
    with pytest.MonkeyPatch.context() as patch:
        for stage in stages:
            patch.setattr(stage, "in_actors", how)
        yield


def write_jsonl(path: Path, rows: list) -> Path:
    """Rows as JSON lines; a row that is bytes or text is written as it is."""
    with path.open("wb") as file:
        for row in rows:
            data = (
                row
                if isinstance(row, bytes)
                else row.encode()
                if isinstance(row, str)
                else json.dumps(row, ensure_ascii=False).encode()
            )
            file.write(data + b"\n")
    return path
