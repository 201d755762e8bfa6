"""What a refresh has changed, as an exit status that a scheduler can ask for."""

import pytest

from pipeline import cli
from pipeline.runs.changes import NOTHING_NEW, exit_status
from pipeline.runs.manifest import RowChanges

SAME = RowChanges(entered=0, left=0, stayed=9, moved=0)


@pytest.mark.parametrize(
    ("scored", "selected", "status"),
    [
        (SAME, SAME, NOTHING_NEW),
        (SAME, RowChanges(entered=0, left=0, stayed=9, moved=2), NOTHING_NEW),
        (RowChanges(entered=1, left=0, stayed=9, moved=0), SAME, 0),
        (RowChanges(entered=0, left=1, stayed=8, moved=0), SAME, 0),
        (SAME, RowChanges(entered=1, left=1, stayed=8, moved=0), 0),
    ],
)
def test_rows_that_entered_or_left_are_news(scored, selected, status):
    assert exit_status({"scored": scored, "selected": selected}) == status


def test_what_could_not_be_compared_counts_as_news():
    assert exit_status(None) == 0


def test_a_dry_run_has_no_news_to_tell(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["refresh", "c.yaml", "--dry-run", "--exit-code"])
    assert ended.value.code == 2 and "not allowed with argument --dry-run" in capsys.readouterr().err
