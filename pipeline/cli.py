"""The command line: verbs, exit statuses, and errors as words. 0 done, 2 the request is wrong, 1 the run failed, 3 a refresh
that was asked for its news has none."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import advice
from pipeline.arguments import make_parser
from pipeline.errors import BadRequest, printable
from pipeline.interruption import EXIT_STATUS, obey_signals, say
from pipeline.shadowing import check_shadowing

# Everything else is imported within functions: after the check for modules that would hide it, and where it is wanted.
if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.engine.job import Publishing
    from pipeline.engine.progress import Reporter
    from pipeline.runs.summary import Summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        obey_signals()
        return _exit_status(arguments)
    except KeyboardInterrupt as interrupt:
        say(printable(f"tss: interrupted; {str(interrupt) or advice.after_interrupt(arguments)}"), error=True)
        return EXIT_STATUS


def _exit_status(arguments: argparse.Namespace) -> int:
    try:
        check_shadowing(starts_ray=arguments.name not in _WITHOUT_RAY)
        _quiet_libraries()
        result = _VERBS[arguments.name](arguments)
    except BadRequest as problem:
        _tell(str(problem), problem, arguments)
        return 2
    except Exception as error:  # noqa: BLE001 (whatever it is, a person reads words and a log keeps the traceback)
        from pipeline import failures

        words = advice.words_of(error, arguments)
        log = failures.keep_log(error, arguments.name, arguments.output_folder)
        _tell(f"{words}\ntss: the traceback is in {log}", error, arguments)
        return 1
    if isinstance(result, int):
        return result
    if not say(printable(result.text)):
        # What was done is done, and a scheduler must not do it again; a command that only shows has shown nothing.
        again = "what was asked is done" if arguments.name in advice.AFTER_INTERRUPT else "`tss report` prints it again"
        say(f"tss: the summary could not be printed; {again}", error=True)
        return (
            1
            if arguments.name in ("report", "plan", "explain", "compare") or getattr(arguments, "what", "") == "stats"
            else result.status
        )
    return result.status


def _tell(words: str, error: Exception, arguments: argparse.Namespace) -> None:
    """Say on standard error what has ended a command, with its traceback where that was asked for."""
    say(printable(f"tss: {words}"), error=True)
    if arguments.debug:
        from pipeline import failures

        say(printable(failures.traceback_of(error)), error=True)


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


def _init(arguments: argparse.Namespace) -> Summary:
    from pipeline.first_config import first_config
    from pipeline.runs.summary import Summary

    text, lines = first_config(arguments.config, arguments.overrides)
    say(printable("\n".join(lines)), error=True)
    return Summary("", text)


def _run(arguments: argparse.Namespace) -> Summary:
    if arguments.dry_run:
        return _plan(arguments)
    from pipeline import unchanged

    config = _config_of(arguments)
    key = unchanged.key_of(config)
    if not (arguments.fresh or arguments.label) and (current := unchanged.current_of(config, key)) is not None:
        return current
    from pipeline import flow

    publishing = replace(_publishing(arguments), key=key)
    return flow.run(config, _reporter(arguments), fresh=arguments.fresh, publishing=publishing)


def _refresh(arguments: argparse.Namespace) -> Summary:
    if arguments.dry_run:
        return _plan(arguments)
    from pipeline import flow
    from pipeline.runs import changes, open_run

    asked = {"fresh": arguments.fresh, "publishing": _publishing(arguments)}
    summary = flow.refresh(_config_of(arguments), _reporter(arguments), **asked)
    if not arguments.exit_code:
        return summary
    return replace(summary, status=changes.exit_status(open_run.read_manifest(summary.run).changes))


def _plan(arguments: argparse.Namespace) -> Summary:
    from pipeline import config_or_data, plan
    from pipeline.planning import words
    from pipeline.runs.summary import Summary

    made = plan.plan(config_or_data.load(arguments.config, arguments.overrides))
    return Summary("", words.as_json(made) if getattr(arguments, "json", False) else words.as_lines(made))


def _config_of(arguments: argparse.Namespace) -> Config:
    from pipeline import config_or_data

    config = config_or_data.load(arguments.config, arguments.overrides)
    arguments.output_folder = config.output
    return config


def _publishing(arguments: argparse.Namespace) -> Publishing:
    from pipeline.engine.job import Publishing

    return Publishing(arguments.label or "", arguments.allow_empty)


def _reporter(arguments: argparse.Namespace) -> Reporter:
    from pipeline.engine.progress import Reporter

    return Reporter(quiet=arguments.quiet)


def _store(arguments: argparse.Namespace) -> Summary:
    from pipeline.runs import maintenance, open_run

    arguments.output_folder = open_run.locate(arguments.output)
    if arguments.what == "stats":
        return maintenance.stats(arguments.output, _reporter(arguments))
    if arguments.what == "compact":
        return maintenance.compact(arguments.output, _reporter(arguments))
    return maintenance.prune(arguments.output, _reporter(arguments))


def _select(arguments: argparse.Namespace) -> Summary:
    from pipeline import flow, selecting

    config, run = selecting.asked(arguments.run, arguments.overrides)
    if arguments.dry_run:
        return flow.try_selection(config, run, _reporter(arguments))
    arguments.output_folder = config.output
    return flow.select(config, run, _reporter(arguments), publishing=_publishing(arguments))


def _runs(arguments: argparse.Namespace) -> Summary:
    from pipeline.runs import history

    return history.runs(arguments.output)


def _use(arguments: argparse.Namespace) -> Summary:
    from pipeline.runs import history

    return history.use(arguments.output, arguments.run)


def _submit(arguments: argparse.Namespace) -> int:
    from pipeline import config_or_data, submit

    if arguments.command[:1] not in ([name] for name in ("run", "refresh", "select", "demo")):
        first = next(iter(arguments.command), "").partition("=")[0]  # what follows may hold credentials
        raise BadRequest(
            f"VERB: found {'a URL' if '://' in first else repr(first)}; accepted: run, refresh, select or demo with "
            "their arguments, behind the flags of submit (--address, --id, --no-wait)"
        )
    parsed = make_parser().parse_args(arguments.command)
    with_config = parsed.name in ("run", "refresh")
    config = config_or_data.load(parsed.config, parsed.overrides, here=False) if with_config else None
    return submit.submit(parsed, config, arguments.address, arguments.id, not arguments.no_wait)


def _report(arguments: argparse.Namespace) -> Summary:
    from pipeline.runs import open_run, report

    arguments.output_folder, run = open_run.find_run(arguments.run)
    printed = report.of_run(run)
    if not arguments.open:
        return printed
    from pipeline.report import show

    return replace(printed, text=f"{printed.text}\n{show.show(run)}")


def _explain(arguments: argparse.Namespace) -> Summary | int:
    from pipeline import explain

    return explain.verb(arguments)


def _compare(arguments: argparse.Namespace) -> Summary:
    from pipeline.inspection import compare_words

    return compare_words.verb(arguments)


def _export(arguments: argparse.Namespace) -> Summary:
    from pipeline.export import export_run, request

    wanted = request.Wanted(
        to=arguments.to,
        kind=arguments.kind,
        suffix=arguments.suffix,
        by_source=arguments.split_by == "source",
        weights=arguments.weights,
        resample=arguments.resample,
        seed=arguments.seed,
        mark_answer=arguments.mark_answer,
        output=arguments.output,
    )
    return export_run.export(arguments.run, wanted, _reporter(arguments))


def _push(arguments: argparse.Namespace) -> Summary:
    from pipeline.export import push

    return push.push(arguments.run, arguments.repository, arguments.public, _reporter(arguments))


def _demo(arguments: argparse.Namespace) -> Summary:
    from pipeline.demo.run_demo import run_demo

    return run_demo(arguments, _reporter(arguments))


def _completion(arguments: argparse.Namespace) -> Summary:
    from pipeline.completion import completion
    from pipeline.runs.summary import Summary

    return Summary("", completion(make_parser(), arguments.shell))


_WITHOUT_RAY = ("init", "plan", "report", "runs", "use", "explain", "compare", "export", "push", "submit", "completion")
# What has come of a command that publishes no run.
_VERBS: dict[str, Callable[[argparse.Namespace], Summary | int]] = {
    "init": _init,
    "run": _run,
    "plan": _plan,
    "refresh": _refresh,
    "store": _store,
    "select": _select,
    "runs": _runs,
    "use": _use,
    "demo": _demo,
    "report": _report,
    "explain": _explain,
    "compare": _compare,
    "export": _export,
    "push": _push,
    "submit": _submit,
    "completion": _completion,
}
