"""What the command line takes: verbs, and the options that several of them share."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline import flags
from pipeline.export import FILE_KINDS, FORMATS, SCORED, SELECTED


class Parser(argparse.ArgumentParser):
    """Of a verb or flag that there is not it says which is nearest."""

    verbs: argparse._SubParsersAction[argparse.ArgumentParser]

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse has it."""
        words = sys.argv[1:] if args is None else args
        verb = next((word for word in words if not word.startswith("-")), None)
        if verb is not None and verb not in self.verbs.choices:
            shown = "a URL" if "://" in verb else repr(verb)  # it may hold credentials
            self.error(
                f"{shown} is no command; {_near(verb, self.verbs.choices)}accepted: {', '.join(self.verbs.choices)}"
            )
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(_no_such_argument(unknown[0].partition("=")[0], self.verbs.choices[parsed.name]))
        return parsed


def _no_such_argument(word: str, verb: argparse.ArgumentParser) -> str:
    shown = word if word.startswith("-") else "a URL" if "://" in word else repr(word)
    flags_of_verb = verb._option_string_actions
    hint = _near(word, flags_of_verb)
    if not hint and "--set" in flags_of_verb and word.startswith("--"):
        from pipeline.read_config import keys_called

        keys = keys_called(word.removeprefix("--").replace("-", "_"))
        hint = f"a key is set by --set {keys[0]}=...; " if keys else ""
    return f"{shown}: {verb.prog} takes no such argument; {hint}`{verb.prog} --help` lists all"


def _near(word: str, accepted: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, accepted, n=1)
    return f"did you mean {close[0]}? " if close else ""


def make_parser() -> Parser:
    """The parser of `tss`. The verb is in `name`; `output_folder` is for it to fill in, once it knows where it writes."""
    parser = Parser(prog="tss", description="Score instruction-tuning examples by task specificity, select the best.")
    parser.set_defaults(fresh=False, quiet=False, debug=False, json=False, output_folder=None)
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="name", parser_class=argparse.ArgumentParser)
    parser.verbs = verbs
    flags.add_init(verbs)
    run = verbs.add_parser("run", help="read, score, select and publish: the main job")
    plan = verbs.add_parser(
        "plan", help="what a run would take, from a sample of its inputs: tokens, pairs, hours, space"
    )
    refresh = verbs.add_parser("refresh", help="run anew on a corpus that has changed, and say what that changed")
    store = verbs.add_parser("store", help="what is stored of likelihoods and embeddings: stats, compact, prune")
    select = verbs.add_parser("select", help="score and select anew from a published run, without any model")
    flags.add_runs(verbs)
    demo = verbs.add_parser("demo", help="run the main job on a generated corpus with the bundled scorer")
    report = verbs.add_parser("report", help="what a published run did, and how much other scores would select alike")
    export = verbs.add_parser("export", help="write the rows of a published run as a trainer takes them")
    _add_inspection(verbs)
    push = verbs.add_parser("push", help="send a published run to a data set of the Hugging Face hub")
    flags.add_completion(verbs)
    submit = verbs.add_parser("submit", help="do one of these on a cluster, as a job: run, refresh, select, demo")

    for verb in (select, report, export, push):
        verb.add_argument("run", help="an output folder, or one of its runs/<id>")
    store.add_argument(
        "what", choices=["stats", "compact", "prune"], help="show it; join small files; remove what is of no use"
    )
    store.add_argument("output", help="an output folder")
    demo.add_argument("--rows", type=_positive, default=2000, help="rows of the generated corpus (default 2000)")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="output folder (default runs/demo)")
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    report.add_argument("--open", action="store_true", help="open the page of the run in a browser")
    _add_export(export)
    _add_push(push)
    submit.add_argument("--address", help="of the cluster's dashboard, such as http://head:8265 (default: RAY_ADDRESS)")
    submit.add_argument("--id", help="name of the job (default: one of Ray's)")
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job to its end")

    _add_flag([run, refresh, demo], "--fresh", "compute everything anew, whatever is stored or was begun")
    for verb in (verbs.choices["init"], run, plan, refresh, select, demo):
        _add_overrides(verb)
    for verb in (run, refresh, select, demo):
        _add_strict(verb)
    flags.add_flags(verbs.choices)
    _add_flag([run, refresh, select, demo, store, export, push], "--quiet", "no progress on standard error")
    _add_flag([parser, *verbs.choices.values()], "--debug", "show the traceback of a command that fails")
    submit.add_argument("command", nargs=argparse.REMAINDER, metavar="VERB ...", help="the command, as without submit")
    return parser


def _add_inspection(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    explain = verbs.add_parser(
        "explain", help="one row of a published run: its likelihoods, why it was selected, its tokens"
    )
    explain.add_argument("run", help="an output folder, or one of its runs/<id>")
    explain.add_argument("id", metavar="ID", help="of the row, or its beginning; or FILE:LINE, where the row was read")
    explain.add_argument("--no-model", action="store_true", help="all but the tokens, which need the model that scored")
    explain.add_argument("--model", metavar="NAME", help="that model in another folder or by another name")
    explain.add_argument("--trust-remote-code", action="store_true", help="let the model's own code run, if it has any")
    explain.add_argument("--html", metavar="FILE", help="write a page, too")
    compare = verbs.add_parser("compare", help="two published runs: scores, selections, rows that moved, settings")
    compare.add_argument("run", help="an output folder, or one of its runs/<id>")
    compare.add_argument("other", metavar="run", help="another one")
    compare.add_argument("--by", metavar="SCORE", default="tss_pp", help="by which rows have moved (default tss_pp)")
    compare.add_argument("--rows", type=_positive, default=5, metavar="N", help="that moved most each way (default 5)")
    _add_flag([explain, compare], "--json", "print one JSON object")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("--to", required=True, choices=FORMATS, help="format of the rows")
    export.add_argument(
        "--as", dest="suffix", choices=FILE_KINDS, default=FILE_KINDS[0], help="kind of file (default jsonl)"
    )
    export.add_argument(
        "--kind", choices=[SELECTED, SCORED], default=SELECTED, help="which rows (default selected; scored: all)"
    )
    export.add_argument("--split-by", choices=["source"], help="a file for each source instead of one")
    export.add_argument("--weights", action="store_true", help="add the column weight, for a weighted loss")
    export.add_argument("--resample", type=_positive, metavar="N", help="draw N rows with replacement by weight")
    export.add_argument("--seed", type=int, help="of the draw (default: the run's)")
    export.add_argument(
        "--mark-answer", action="store_true", help="add to each turn whether it is the scored answer: train"
    )
    export.add_argument(
        "--output", metavar="DIR", help="folder of the export (default: in exports/ of the run's output)"
    )


def _add_push(push: argparse.ArgumentParser) -> None:
    push.add_argument("repository", metavar="OWNER/NAME", help="the data set; it is made where it does not exist")
    push.add_argument("--public", action="store_true", help="everybody may see it (default: private)")


def _add_overrides(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, for example select.budget.tokens=100000",
    )


def _add_strict(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--strict",
        dest="overrides",
        action="append_const",
        const="strict=true",
        help="publish nothing if the scorer is unfit for these rows, or the selection is another score's; as --set strict=true",
    )


def _add_flag(verbs: list[argparse.ArgumentParser], name: str, words: str) -> None:
    # Without a default of its own a verb leaves what stands before it: `tss --debug run`.
    for verb in verbs:
        verb.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=words)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text[:80]!r}; accepted: a whole number of at least 1")
    return number
