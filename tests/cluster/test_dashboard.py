"""The dashboard asks for what there is: each metric of ours, by the tags that it has, and no other."""

import re

import dashboard
import pytest

from pipeline.engine import metrics

OURS = {f"ray_{name}_total": tags for name, (tags, _) in metrics.COUNTERS.items()} | {
    f"ray_{name}": tags for name, (tags, _) in metrics.GAUGES.items()
}
OF_ALL = {
    "SessionName",
    "NodeAddress",
    "WorkerId",
    metrics.RUN,
}  # tags of every metric of ours; all but the last are Ray's


def test_each_metric_of_ours_is_shown_and_exists():
    assert {name for name in dashboard.metrics() if name.startswith("ray_tss_")} == set(OURS)


@pytest.mark.parametrize("panel", dashboard.panels(), ids=lambda panel: panel["title"])
def test_panels_use_tags_that_their_metrics_have(panel):
    for target in panel["targets"]:
        names = dashboard.metrics_of(target["expr"])
        assert names, panel["title"]
        if not all(name in OURS for name in names):
            continue
        known = OF_ALL.union(*(OURS[name] for name in names))
        used = set(re.findall(r"(\w+)=~?\"", target["expr"])) | set(re.findall(r"by \((\w+)\)", target["expr"]))
        used |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert used <= known, panel["title"]


def test_counters_of_runs_do_not_add_up():
    """All that is ours is of the runs that are chosen, by a variable over the runs that there are."""
    for expression in (target["expr"] for panel in dashboard.panels() for target in panel["targets"]):
        assert expression.count("ray_tss_") == expression.count(f'{metrics.RUN}=~"$run"'), expression
    (chosen,) = [one for one in dashboard.variables() if one["name"] == "run"]
    assert re.fullmatch(rf"label_values\(ray_tss_\w+\{{.*\}}, {metrics.RUN}\)", chosen["query"]["query"])


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    places = set()
    for panel in dashboard.panels():
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not own & places
        places |= own
    assert len({panel["id"] for panel in dashboard.panels()}) == len(dashboard.panels())
