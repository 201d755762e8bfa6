"""The command line: verbs, exit statuses, and errors as words. 0 done, 2 the request is wrong, 1 the run failed."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from operators.error_text import first_line
from pipeline.errors import BadRequest, DamagedInput, RunFailed
from pipeline.shadowing import check_shadowing


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        check_shadowing(starts_ray=arguments.name not in ("report", "submit"))
        _quiet_libraries()
        _obey_signals()
        summary = arguments.verb(arguments)
    except BadRequest as problem:
        print(_shown(f"tss: {problem}"), file=sys.stderr)
        return 2
    except RunFailed as failure:
        print(_shown(f"tss: the run failed in {failure}\n") + _advice(arguments, failure), file=sys.stderr)
        return 1
    except Exception as error:
        if not _of_storage(error):
            raise
        print(
            _shown(f"tss: the run failed: {first_line(error)}\n")
            + "tss: is the disk full, or the object store out of reach? Run the same command again once the cause is gone.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as interrupt:
        print(_shown(f"tss: interrupted; {str(interrupt) or _left(arguments)}"), file=sys.stderr)
        return 130
    if isinstance(summary, int):
        return summary
    print(_shown(summary.text))
    return 0


def _shown(text: str) -> str:
    """The text with control characters, marks of direction and the like as escapes: names of files, keys and columns are a
    stranger's, and a terminal obeys them."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _obey_signals() -> None:
    """End in order on Ctrl-C, and on a scheduler's SIGTERM as well."""
    from pipeline.engine.progress import Reporter

    def stop(number: int, frame: Any) -> None:
        Reporter.interrupted = True
        raise KeyboardInterrupt

    Reporter.interrupted, Reporter.published = False, ""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)


def _left(arguments: argparse.Namespace) -> str:
    """What has come of a command that was interrupted."""
    from pipeline.engine.progress import Reporter

    if Reporter.published:
        return f"{Reporter.published} was published before; what is left to tidy up waits for the next run."
    return f"nothing was published. The same command{_plainly(arguments)} goes on from here."


def _plainly(arguments: argparse.Namespace) -> str:
    """With which words a command goes on with what it has begun."""
    return " without --fresh" if getattr(arguments, "fresh", False) else ""


def _advice(arguments: argparse.Namespace, failure: RunFailed) -> str:
    """What to do now."""
    if arguments.name == "store":
        return "tss: nothing that was stored is lost. Run the same command again once the cause is gone."
    if isinstance(failure, DamagedInput) and arguments.name == "select":
        return (
            "tss: nothing was published. Name another run of runs/, or make one with `tss run`: "
            "pairs that are stored are not computed again."
        )
    return (
        "tss: nothing was published; an earlier run, if there is one, stays current. Run the same command"
        f"{_plainly(arguments)} again once the cause is gone: pairs that were computed are not computed again."
    )


def _of_storage(error: Exception) -> bool:
    """Whether a disk or an object store is the cause; pyarrow has errors of its own for the latter."""
    return isinstance(error, OSError) or type(error).__module__.startswith("pyarrow")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tss", description="Score instruction-tuning examples by task specificity, select the best."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="name")

    run = verbs.add_parser("run", help="read, score, select and publish: the main job")
    run.add_argument("config", type=Path, help="YAML configuration")
    run.set_defaults(verb=_make)

    refresh = verbs.add_parser("refresh", help="run anew on a corpus that has changed, and say what that changed")
    refresh.add_argument("config", type=Path, help="YAML configuration")
    refresh.set_defaults(verb=_make)

    kept = verbs.add_parser("store", help="what is stored of likelihoods and embeddings: stats, compact, prune")
    kept.add_argument(
        "what", choices=["stats", "compact", "prune"], help="show it; join small files; remove what is of no use"
    )
    kept.add_argument("output", help="an output folder")
    kept.set_defaults(verb=_store)

    select = verbs.add_parser("select", help="score and select anew from a published run, without any model")
    select.add_argument("run", help="an output folder, or one of its runs/<id>")
    select.set_defaults(verb=_select)

    demo = verbs.add_parser("demo", help="run the main job on a generated corpus with the bundled scorer")
    demo.add_argument("--rows", type=_positive, default=2000, help="rows of the generated corpus (default 2000)")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="output folder (default runs/demo)")
    demo.set_defaults(verb=_demo)

    report = verbs.add_parser("report", help="what a published run did, and how much other scores would select alike")
    report.add_argument("run", help="an output folder, or one of its runs/<id>")
    report.set_defaults(verb=_report)

    submit = verbs.add_parser("submit", help="do one of these on a cluster, as a job: run, refresh, select, demo")
    submit.add_argument("--address", help="of the cluster's dashboard, such as http://head:8265 (default: RAY_ADDRESS)")
    submit.add_argument("--id", help="name of the job (default: one of Ray's)")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job to its end")
    submit.add_argument("command", nargs=argparse.REMAINDER, metavar="VERB ...", help="the command, as without submit")
    submit.set_defaults(verb=_submit)

    for verb in (run, refresh, demo):
        verb.add_argument(
            "--fresh", action="store_true", help="compute everything anew, whatever is stored or was begun"
        )
    for verb in (run, refresh, select, demo):
        verb.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a key of the configuration, for example select.budget.tokens=100000",
        )
    for verb in (run, refresh, select, demo, kept):
        verb.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _quiet_libraries() -> None:
    """Libraries' own progress and advice would drown the run's; what matters of them comes back as an error."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }.items():
        os.environ.setdefault(name, value)


def _make(arguments: argparse.Namespace) -> Any:
    """`run` and `refresh`."""
    from pipeline import flow, read_config
    from pipeline.engine.progress import Reporter

    wanted = read_config.load(arguments.config, arguments.overrides)
    return getattr(flow, arguments.name)(wanted, Reporter(quiet=arguments.quiet), fresh=arguments.fresh)


def _store(arguments: argparse.Namespace) -> Any:
    from pipeline.engine.progress import Reporter
    from pipeline.runs import maintenance

    return getattr(maintenance, arguments.what)(arguments.output, Reporter(quiet=arguments.quiet))


def _select(arguments: argparse.Namespace) -> Any:
    from pipeline import flow, read_config
    from pipeline.engine.progress import Reporter
    from pipeline.runs import open_run
    from pipeline.storage import urls

    free = {"score", "select", "ray", "output", "seed", "keep_runs"}
    fixed = [text for text in arguments.overrides if _section(text) not in free]
    if fixed:
        raise BadRequest(
            f"--set {fixed[0]!r}: this would need the model; "
            "accepted by `tss select`: keys under score, select and ray, output, keep_runs and seed"
        )
    output, run = open_run.find_run(arguments.run)
    known = open_run.read_manifest(run)
    data = read_config.override({**known.config, **known.base, "output": output}, arguments.overrides)
    return flow.select(
        read_config.validate(data, urls.join(run, open_run.MANIFEST), overrides=arguments.overrides),
        run,
        Reporter(quiet=arguments.quiet),
    )


def _submit(arguments: argparse.Namespace) -> int:
    from pipeline import read_config, submit

    if arguments.command[:1] not in ([name] for name in ("run", "refresh", "select", "demo")):
        raise BadRequest(
            f"tss submit: found {' '.join(arguments.command)!r}; accepted: run, refresh, select or demo with their arguments"
        )
    parsed = _parser().parse_args(arguments.command)
    with_config = parsed.name in ("run", "refresh")
    wanted = read_config.load(parsed.config, parsed.overrides) if with_config else None
    return submit.submit(parsed, wanted, arguments.address, arguments.id, not arguments.no_wait)


def _section(override: str) -> str:
    """The outermost key of an `a.b=value`."""
    return override.partition("=")[0].partition(".")[0].strip()


def _report(arguments: argparse.Namespace) -> Any:
    from pipeline.runs import open_run, report

    return report.of_run(open_run.find_run(arguments.run)[1])


def _demo(arguments: argparse.Namespace) -> Any:
    from pipeline import config, demo, flow, read_config
    from pipeline.demo import truth
    from pipeline.engine.progress import Reporter
    from pipeline.runs.output import check_output

    if any(_section(text) == "input" for text in arguments.overrides):
        raise BadRequest("--set input: `tss demo` runs on its own corpus; accepted: `tss run CONFIG` for any other")

    def settings(corpus: Path, output: Path, model: Path) -> config.Config:
        data = read_config.override(demo.settings(corpus, output, model), arguments.overrides)
        return read_config.validate(data, "the demo's configuration")

    wanted = settings(Path("corpus.jsonl"), arguments.output, demo.MODEL)
    if "://" in wanted.output:
        raise BadRequest(
            f"output: {wanted.output!r}: `tss demo` writes to a folder; accepted: `tss run CONFIG` for URLs"
        )
    output = Path(check_output(wanted.output))
    wanted = settings(*demo.prepare(output, arguments.rows, wanted.seed))
    summary = flow.run(wanted, Reporter(quiet=arguments.quiet), fresh=arguments.fresh)
    if wanted.select.mode == "bounded":
        judged = "\nplanted      not judged: bounded selection leaves most rows without the scores to compare"
    else:
        judged = truth.section(truth.read(Path(summary.run)))
    return replace(summary, text=f"{summary.text}\n{judged}")
