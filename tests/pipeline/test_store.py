"""What is computed once is not computed again, and what is damaged is found: resume, reuse, checksums, upkeep."""

import datetime
import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import byte_tokenizer, write_jsonl
from safetensors.torch import load_file, save_file
from small_runs import corpus, reselect, settings, table
from small_runs import run as run_with

from operators.schema import STORED
from pipeline import cli, finish
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest, RunFailed
from pipeline.preflight import check_models, read_template
from pipeline.retrieval import blocks
from pipeline.runs import maintenance, open_run, publish
from pipeline.runs import workspace as workspaces
from pipeline.runs.compact import rewrite
from pipeline.runs.workspace import Workspace, open_workspace
from pipeline.scoring import score_block
from pipeline.selection import choose
from pipeline.storage import computed, conditional, files, pointer, urls
from pipeline.storage.lock import hold
from pipeline.storage.parts import DamagedPart

LIKELIHOODS = ("loglik_sum", "loglik_mean", "loglik_empty_mean", "alternatives", "tss_pp")


@pytest.fixture(scope="module", autouse=True)
def several_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", 4000)
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "rows.jsonl", corpus(40))


@pytest.fixture(scope="module")
def whole(ray_session, rows, model_folder, tmp_path_factory):
    """A run that nothing interrupted."""
    return run(tmp_path_factory.mktemp("whole"), [rows], model_folder)


def run(*arguments, **more):
    """Small batches, each a part of its own."""
    return run_with(*arguments, **{"scorer__batch_tokens": 300, "store__write_every": 0, **more})


def manifest(done):
    return json.loads((done / "manifest.json").read_text())


def parts_of(output):
    return sorted(path for path in (output / "likelihoods").rglob("*.parquet"))


def same(one, other, exact=True, but=()):
    """Rows of two runs, bit by bit (`but` for some columns), or to the last digits of a float32."""
    got, expected = ({row["id"]: row for row in table(done, "scored")} for done in (one, other))
    assert got.keys() == expected.keys()
    for key, row in got.items():
        if exact:
            assert {**row, **dict.fromkeys(but)} == {**expected[key], **dict.fromkeys(but)}
        for name in but if exact else ["tss_pp"]:
            assert row[name] == pytest.approx(expected[key][name], abs=1e-4)
    assert [row["id"] for row in table(one, "selected")] == [row["id"] for row in table(other, "selected")]


class Stopped(Exception):
    pass


def stop(*arguments, **more):
    raise Stopped


@pytest.fixture(scope="module")
def stopped(ray_session, rows, model_folder, tmp_path_factory):
    """An output whose run was stopped when all was scored and nothing published."""
    output = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "select", stop)
        with pytest.raises(Stopped):
            run(output, [rows], model_folder)
    return output


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "out")


def test_a_run_goes_on_where_it_was_interrupted(interrupted, whole, rows, model_folder):
    before = parts_of(interrupted)
    assert before and not (interrupted / "latest.json").exists() and not (interrupted / "runs").exists()
    done = run(interrupted, [rows], model_folder)
    same(done, whole)
    found = manifest(done)
    assert found["pairs"]["computed"] == found["pairs"]["resumed"] == manifest(whole)["pairs"]["computed"]
    assert found["scorer"]["loaded"] == 0 and parts_of(interrupted) == before
    assert found["run"] in {path.relative_to(interrupted / "likelihoods").parts[1] for path in before}
    assert not (interrupted / ".work").exists() and not (interrupted / ".lock").exists()


def test_a_run_that_lacks_nothing_but_the_pointer_is_not_made_again(interrupted, rows, model_folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(publish, "point", stop)
        with pytest.raises(Stopped):
            run(interrupted, [rows], model_folder)
    (whole,) = (interrupted / "runs").iterdir()
    made = (whole / "manifest.json").read_bytes()
    assert not (interrupted / "latest.json").exists()
    done = run(interrupted, [rows], model_folder)
    assert done.name == whole.name and (done / "manifest.json").read_bytes() == made
    assert json.loads((interrupted / "latest.json").read_text())["run"] == f"runs/{whole.name}"


def filling(room):
    """Scorers on a disk with room for so many parts of the store."""

    class FullDisk:
        def __init__(self, **settings):
            from pipeline.scoring.score_block import ScoreBlock  # the worker's own

            self._actor, self._room = ScoreBlock(**settings), room

        def __call__(self, batch):
            write = files.write

            def full(path, data):
                if "/likelihoods/" in path and self._room == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                self._room -= "/likelihoods/" in path
                write(path, data)

            files.write = full
            try:
                return self._actor(batch)
            finally:
                files.write = write

    return FullDisk


def test_a_run_goes_on_after_the_disk_was_full(ray_session, whole, rows, model_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="No space left on device"):
        patch.setattr(score_block, "ScoreBlock", filling(3))
        run(tmp_path, [rows], model_folder)
    before = parts_of(tmp_path)
    assert before and not (tmp_path / "latest.json").exists()
    done = run(tmp_path, [rows], model_folder)
    same(done, whole)
    pairs = manifest(done)["pairs"]
    assert 0 < pairs["resumed"] < pairs["computed"] == manifest(whole)["pairs"]["computed"]
    assert set(before) < set(parts_of(tmp_path)) and not list(tmp_path.rglob(".*.parquet*"))


def test_a_request_that_differs_is_another_run_and_finds_the_pairs_all_the_same(interrupted, rows, model_folder):
    done = run(interrupted, [rows], model_folder, select__budget__examples=3)
    pairs = manifest(done)["pairs"]
    assert pairs["computed"] == pairs["resumed"] == 0 and pairs["stored"] > 0
    assert manifest(done)["scorer"]["loaded"] == 0
    assert list((interrupted / ".work").iterdir())  # the other one can still go on


def test_what_was_begun_fresh_goes_on_fresh(whole, rows, model_folder, tmp_path):
    output = shutil.copytree(whole.parents[1], tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(publish, "gather", stop)
        run(output, [rows], model_folder, fresh=True)
    before = len(parts_of(output))
    done = run(output, [rows], model_folder)
    same(done, whole)
    pairs = manifest(done)["pairs"]
    assert pairs["stored"] == 0 and pairs["resumed"] == pairs["computed"] > 0
    assert len(parts_of(output)) == before


def test_a_run_whose_manifest_was_cut_off_is_not_pointed_to(interrupted, rows, model_folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(publish, "point", stop)
        with pytest.raises(Stopped):
            run(interrupted, [rows], model_folder)
    (cut_off,) = (interrupted / "runs").iterdir()
    cut(cut_off / "manifest.json")
    done = run(interrupted, [rows], model_folder)
    assert done != cut_off and manifest(done)["pairs"]["computed"] == 0


def test_a_manifest_that_cannot_be_read_just_now_is_not_taken_for_none(tmp_path, monkeypatch):
    own = Workspace(str(tmp_path), "20260101T000000-000000", lock=None)
    assert not own.whole

    def busy(uri, **options):
        raise TimeoutError("the store does not answer")

    monkeypatch.setattr("pipeline.storage.files.read", busy)
    with pytest.raises(TimeoutError):
        own.whole  # noqa: B018 (a property that looks)


def test_fresh_takes_nothing_from_before(interrupted, whole, rows, model_folder):
    done = run(interrupted, [rows], model_folder, fresh=True)
    same(done, whole)
    pairs = manifest(done)["pairs"]
    assert pairs["stored"] == pairs["resumed"] == 0 and manifest(done)["scorer"]["loaded"] > 0
    assert not (interrupted / ".work").exists()  # nobody goes on with what was begun before


def test_a_second_run_computes_no_pair_and_loads_no_model(ray_session, whole, rows, model_folder):
    done = run(whole.parents[1], [rows], model_folder)
    # l(0) of an output that stands in two blocks is stored by both, and now both take one of them.
    same(done, whole, but=("loglik_empty_mean", "ifd", "ifd_loss"))
    assert done != whole and manifest(done)["pairs"]["computed"] == manifest(done)["scorer"]["loaded"] == 0


@pytest.fixture(scope="module")
def other_weights(model_folder, tmp_path_factory):
    """The same model with other weights: its configuration and its tokenizer are the same, and so are all token ids."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("model") / "other")
    weights = load_file(folder / "model.safetensors")
    save_file({name: one * 1.01 for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_another_scorer_sees_nothing_of_this_one(ray_session, whole, rows, other_weights):
    done = run(whole.parents[1], [rows], other_weights)
    assert manifest(done)["pairs"]["stored"] == 0 and manifest(done)["pairs"]["computed"] > 0


def test_all_that_decides_a_likelihood_makes_another_scorer(model_folder, other_weights, tmp_path):
    def fingerprint(model, dtype="float32", **more):
        wanted = settings(tmp_path, ["rows.jsonl"], model, **more)
        return check_models(wanted, read_template(wanted.scorer.template)).scorer(dtype).fingerprint

    other_tokens = shutil.copytree(model_folder, tmp_path / "tokens")
    byte_tokenizer(bos=False).save_pretrained(other_tokens)
    (tmp_path / "mine.jinja").write_text("{{ instruction }} {{ input }}\n")
    found = [
        fingerprint(model_folder),
        fingerprint(other_weights),
        fingerprint(other_tokens),
        fingerprint(model_folder, dtype="bfloat16"),
        fingerprint(model_folder, scorer__append_eos=False),
        fingerprint(model_folder, scorer__template="alpaca"),
        fingerprint(model_folder, scorer__template=str(tmp_path / "mine.jinja")),
    ]
    assert len(set(found)) == len(found)
    # What decides no likelihood makes none: pairs are found again.
    same_model = shutil.copytree(model_folder, tmp_path / "elsewhere")
    assert fingerprint(same_model, scorer__batch_tokens=99, scorer__max_length=100) == found[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def gone(path):
    path.unlink()


def test_damaged_parts_of_an_interrupted_run_are_computed_again(interrupted, whole, rows, model_folder):
    harmed, *others = parts_of(interrupted)[:3], *parts_of(interrupted)[4::2]
    assert len(others) > 1
    for path, harm in zip([*harmed, *others], (flip, cut, *[gone] * (len(others) + 1)), strict=True):
        harm(path)  # as after a kill, too: some parts were never written
    done = run(interrupted, [rows], model_folder)
    same(done, whole)
    pairs = manifest(done)["pairs"]
    assert 0 < pairs["resumed"] < pairs["computed"] == manifest(whole)["pairs"]["computed"]
    assert [path.with_name(path.name + computed.DAMAGED).exists() for path in harmed] == [True, True, False]
    assert manifest(done)["damaged"] == sorted(map(str, harmed[:2]))


def test_damaged_parts_of_the_store_are_named_and_computed_again(interrupted, whole, rows, model_folder):
    harmed = parts_of(interrupted)[:3]
    pairs = sum(pq.read_metadata(path).num_rows for path in harmed)
    for path, harm in zip(harmed, (flip, cut, gone), strict=True):
        harm(path)
    done = run(interrupted, [rows], model_folder, select__budget__token_fraction=0.3, score__hardest=3)
    assert 0 < manifest(done)["pairs"]["computed"] <= pairs
    assert manifest(done)["damaged"] == sorted(map(str, harmed[:2]))


@pytest.mark.parametrize("harm", [flip, cut, gone])
def test_a_damaged_run_is_refused_by_name(whole, tmp_path, harm):
    output = shutil.copytree(whole.parents[1], tmp_path / "out")
    done = output / "runs" / whole.name
    part = sorted((done / "scored").iterdir())[0]
    harm(part)
    with pytest.raises(RunFailed, match=rf"stage rescore: .*{part.name}: is (damaged|gone)"):
        reselect(done, output=str(output))
    harm(done / "manifest.json")
    words = r"manifest.json: (cannot be read|is not as it was published)"
    with pytest.raises(BadRequest, match=words):
        open_run.read_manifest(str(done))


def test_a_part_that_cannot_be_read_just_now_is_not_taken_for_damaged(tmp_path, monkeypatch):
    rows = pa.table({"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5]}).cast(STORED)
    path = computed.write(str(tmp_path), rows)

    def busy(uri, **options):
        raise TimeoutError("the store does not answer")

    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr("pipeline.storage.files.read", busy)
        list(computed.undamaged([path], str(tmp_path / "work")))
    assert [one for one, _ in computed.undamaged([path, str(tmp_path / "gone.parquet")], None)] == [path]


def test_a_part_of_another_scorer_is_never_used(tmp_path):
    """Copied by hand, from float32 into the folder of bfloat16."""
    rows = pa.table({"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5]}).cast(STORED)
    mine, other = (f"{computed.scorer_folder(str(tmp_path), name)}/run/block" for name in ("a" * 32, "b" * 32))
    path = computed.write(other, rows)
    Path(mine).mkdir(parents=True)
    copied = shutil.copy(path, mine)
    assert [part for part, _ in computed.undamaged([path], None)] == [path]
    work = str(tmp_path / "work")
    assert list(computed.undamaged([copied], work)) == [] and computed.damaged(work) == [copied]
    with pytest.raises(DamagedPart, match=f"belongs to {'b' * 32}, not to {'a' * 32}"):
        computed.checked(shutil.copy(path, mine))


def test_stats_beside_upkeep_list_again_what_is_gone(tmp_path, monkeypatch):
    folder = computed.scorer_folder(str(tmp_path), "a" * 32)
    rows = pa.table({"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5]}).cast(STORED)
    old, new = computed.write(f"{folder}/1", rows), computed.write(f"{folder}/2", rows.slice(0, 1))
    listed = computed.parts
    before = listed(folder)
    Path(old).unlink()
    looks = []
    monkeypatch.setattr(computed, "parts", lambda *a: looks.append(1) or (before if len(looks) == 1 else listed(*a)))
    assert "1 parts" in maintenance.stats(str(tmp_path), Reporter(quiet=True)).text and len(looks) == 2
    monkeypatch.setattr(computed, "parts", lambda *a: before)
    with pytest.raises(RunFailed, match="upkeep is under way"):
        maintenance.stats(str(tmp_path), Reporter(quiet=True))
    assert Path(new).exists()


def test_prune_believes_no_published_part_that_was_edited(whole, tmp_path):
    output = shutil.copytree(whole.parents[1], tmp_path / "out")
    (part, *_) = sorted((output / "runs" / whole.name / "scored").iterdir())
    pq.write_table(pq.read_table(part).slice(0, 0), part)  # as if no row used the store
    scorer = json.loads((output / "runs" / whole.name / "manifest.json").read_text())["scorer"]["fingerprint"]
    before = sorted((output / "likelihoods" / scorer).rglob("*.parquet"))
    with pytest.raises(RunFailed, match=rf"{part.name}: is damaged"):
        maintenance.prune(str(output), Reporter(quiet=True))
    assert before and sorted((output / "likelihoods" / scorer).rglob("*.parquet")) == before


def test_parts_with_columns_of_another_version_are_read(tmp_path):
    rows = pa.table({"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5], "later": ["x"]})
    schema = pa.schema([*STORED, pa.field("later", pa.string())])
    path = computed.write(str(tmp_path), rows.cast(schema), schema)
    assert computed.read(path).to_pylist() == [{"group": b"g" * 16, "pair": b"p" * 16, "tokens": 3, "sum": -1.5}]


def test_a_part_that_lacks_a_column_is_left_to_its_version(ray_session, tmp_path):
    """Of the store of an earlier version: neither used nor set aside, and no upkeep removes it."""
    folder = computed.scorer_folder(str(tmp_path), "scorer")
    older = pa.schema([field for field in STORED if field.name != "tokens"])
    rows = {"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5]}
    paths = [computed.write(f"{folder}/{run}", pa.table(rows).cast(STORED), STORED) for run in ("1", "2")]
    other = computed.write(f"{folder}/0", pa.table({**rows, "sum": [-2.5]}).select(older.names).cast(older), older)
    assert [path for path, _ in computed.undamaged([other, *paths], str(tmp_path / "work"))] == paths
    assert computed.damaged(str(tmp_path / "work")) == []
    maintenance.compact(str(tmp_path), Reporter(quiet=True))
    found = [path for path, _ in computed.parts(folder)]
    assert other in found and len(found) == 2 and not set(paths) & set(found)


def test_parts_written_anew_in_the_same_second_are_not_those_that_go(ray_session, tmp_path, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2026, 1, 1, tzinfo=tz)

    known = {"datetime": Clock, "timedelta": datetime.timedelta, "UTC": datetime.UTC}
    monkeypatch.setattr(workspaces, "datetime", SimpleNamespace(**known))
    folder = computed.scorer_folder(str(tmp_path), "scorer")
    rows = pa.table({"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5]}).cast(STORED)
    computed.write(f"{folder}/run", rows)
    names = []
    for _ in range(2):
        rewrite(Reporter(quiet=True), computed.LIKELIHOODS, folder, computed.by_run(folder))
        ((_, path, _),) = computed.by_run(folder)
        assert computed.read(path).equals(rows)
        names.append(urls.name_of(path))
    assert names[0] == names[1]  # the same content, in another folder


def test_parts_that_a_worker_does_not_see_are_not_rewritten(ray_session, tmp_path, monkeypatch):
    """Nor is one removed whose new one is not where the driver looks."""
    folder = computed.scorer_folder(str(tmp_path), "scorer")
    rows = pa.table({"group": [b"g" * 16], "pair": [b"p" * 16], "tokens": [3], "sum": [-1.5]}).cast(STORED)
    path = computed.write(f"{folder}/run", rows)
    unseen = ("run", f"{folder}/run/{'0' * 32}-1.parquet", 100)
    with pytest.raises(RunFailed, match="is gone, or this machine does not see it"):
        rewrite(Reporter(quiet=True), computed.LIKELIHOODS, folder, [*computed.by_run(folder), unseen])
    monkeypatch.setattr(files, "exists", lambda path: "-compacted" not in path)
    with pytest.raises(RunFailed, match="and it is not there"):
        rewrite(Reporter(quiet=True), computed.LIKELIHOODS, folder, computed.by_run(folder))
    assert computed.read(path).equals(rows)


def test_a_run_that_was_taken_for_dead_moves_no_part(interrupted, rows, model_folder, monkeypatch):
    digest = finish.digest_scores

    def lose(*given):
        for claim in (interrupted / ".lock").iterdir():
            claim.unlink()
        return digest(*given)

    monkeypatch.setattr(finish, "digest_scores", lose)
    monkeypatch.setattr(publish, "gather", stop)
    with pytest.raises(RunFailed, match="another run has taken over"):
        run(interrupted, [rows], model_folder)


def test_a_run_that_is_taken_for_dead_once_it_is_published_removes_none(interrupted, rows, model_folder, monkeypatch):
    point = publish.point

    def lose(own, say):
        run = point(own, say)
        for claim in (interrupted / ".lock").iterdir():
            claim.unlink()
        return run

    monkeypatch.setattr(publish, "point", lose)
    monkeypatch.setattr(publish, "remove_old_runs", stop)
    run(interrupted, [rows], model_folder)


def test_a_run_that_is_held_up_at_the_pointer_leaves_its_successors(interrupted, rows, model_folder, monkeypatch):
    create = conditional.create_file

    def held_up(path, data):
        """For so long that another process has taken it for dead, and has published."""
        monkeypatch.setattr(conditional, "create_file", create)
        for claim in (interrupted / ".lock").iterdir():
            claim.unlink()
        pointer.move_pointer(str(interrupted), "runs/successor", lambda: None)
        return create(path, data)

    monkeypatch.setattr(conditional, "create_file", held_up)
    with pytest.raises(RunFailed, match="another run has taken over"):
        run(interrupted, [rows], model_folder)
    assert json.loads((interrupted / "latest.json").read_text())["run"] == "runs/successor"


def test_what_storage_does_not_let_go_of_changes_no_end(tmp_path, monkeypatch):
    def gone(path):
        raise OSError(errno.EIO, "gone")

    with pytest.raises(Stopped), hold(str(tmp_path), "test") as lock, open_workspace(str(tmp_path), lock, "request"):
        monkeypatch.setattr(files, "exists", gone)
        monkeypatch.setattr(files, "delete", gone)
        raise Stopped


def test_what_was_begun_fresh_is_known_before_anything_is_stored(tmp_path):
    with hold(str(tmp_path), "test") as lock:
        with pytest.raises(Stopped), open_workspace(str(tmp_path), lock, "request", fresh=True) as own:
            raise Stopped
        with open_workspace(str(tmp_path), lock, "request") as again:
            assert (again.run_id, again.resumed, again.fresh) == (own.run_id, True, True)


def test_what_was_found_damaged_before_an_interruption_is_named_after(tmp_path):
    path = computed.write(str(tmp_path / "likelihoods"), STORED.empty_table())
    with hold(str(tmp_path), "test") as lock:
        with pytest.raises(Stopped), open_workspace(str(tmp_path), lock, "request") as own:
            (tmp_path / "likelihoods" / urls.name_of(path)).write_bytes(b"PAR1")
            assert list(computed.undamaged([path], own.folder)) == []
            raise Stopped
        with open_workspace(str(tmp_path), lock, "request") as again:
            assert again.run_id == own.run_id and computed.damaged(again.folder) == [path]


def test_parts_of_interrupted_runs_are_left_alone_and_others_are_joined(
    interrupted, rows, model_folder, capsys, monkeypatch
):
    kept = parts_of(interrupted)
    monkeypatch.setattr(maintenance, "PARTS_AT_MOST", 3)
    # Another request: its pairs are stored again, in many parts, which are joined when it is published.
    done = run(interrupted, [rows], model_folder, fresh=True, select__budget__examples=3)
    assert manifest(done)["pairs"]["computed"] > 0
    (joined,) = set(parts_of(interrupted)) - set(kept)
    assert joined.parent.name.endswith("-compacted")
    for what in ("compact", "prune"):
        assert cli.main(["store", what, str(interrupted), "--quiet"]) == 0
        assert "parts of interrupted runs are left alone" in capsys.readouterr().out
        assert set(kept) < set(parts_of(interrupted))
    back = run(interrupted, [rows], model_folder)
    assert manifest(back)["run"] in {path.parts[-4] for path in kept} and manifest(back)["scorer"]["loaded"] == 0


def test_an_interrupt_after_the_publish_says_so(interrupted, rows, model_folder, tmp_path, capsys, monkeypatch):
    wanted = settings(interrupted, [rows], model_folder, scorer__batch_tokens=300, store__write_every=0)
    (tmp_path / "config.yaml").write_text(json.dumps(wanted.model_dump()))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    for name, words in (("remove_old_runs", "was published before"), ("gather", "nothing was published")):
        with monkeypatch.context() as patch:
            patch.setattr(publish, name, interrupt)
            assert cli.main(["run", str(tmp_path / "config.yaml"), "--quiet", "--label", "again"]) == 130
        assert words in capsys.readouterr().err
    assert (interrupted / "latest.json").exists()


def test_the_run_before_stays_for_its_readers(tmp_path):
    def published_run(name):
        files.write(str(tmp_path / "runs" / name / "manifest.json"), b"{}")
        return str(tmp_path / "runs" / name)

    first, resumed, _, third = (published_run(f"2026010{day}T000000-000000") for day in (1, 2, 3, 4))
    files.write(str(tmp_path / "latest.json"), json.dumps({"run": f"runs/{urls.name_of(resumed)}"}).encode())
    former = open_run.current_run(str(tmp_path))
    assert former == resumed  # it was begun before the second and published after it
    assert publish.remove_old_runs(str(tmp_path), third, former, 3) == [urls.name_of(first)]
    for keep in (2, 1):
        publish.remove_old_runs(str(tmp_path), third, former, keep)
        assert {str(path) for path in (tmp_path / "runs").iterdir()} == {resumed, third}
    # Another process has taken over meanwhile, and `resumed` is what it has published.
    assert publish.remove_old_runs(str(tmp_path), third, third, 1) == []


def test_a_pointer_that_cannot_be_read_just_now_is_not_taken_for_none(tmp_path, monkeypatch):
    files.write(str(tmp_path / "latest.json"), b"{")
    assert open_run.current_run(str(tmp_path)) is None

    def unread(path, **options):
        raise OSError(errno.EIO, "not now")

    monkeypatch.setattr(files, "read", unread)
    with pytest.raises(OSError, match="not now"):
        open_run.current_run(str(tmp_path))


def test_store_commands(interrupted, whole, rows, model_folder, capsys):
    assert cli.main(["store", "compact", str(interrupted), "--quiet"]) == 0
    assert "nothing to compact" in capsys.readouterr().out  # an interrupted run looks for its parts under its own name
    done = run(interrupted, [rows], model_folder)
    parts = parts_of(interrupted)
    assert cli.main(["store", "stats", str(interrupted)]) == 0
    shown = capsys.readouterr().out
    assert f"{len(parts)} parts" in shown and str(model_folder) in shown
    assert cli.main(["store", "compact", str(interrupted), "--quiet"]) == 0
    assert len(parts_of(interrupted)) == 1 < len(parts)
    again = run(interrupted, [rows], model_folder, select__budget__examples=5)
    assert manifest(again)["pairs"]["computed"] == 0
    # Only rows of a smaller corpus are still published: pairs of the others go, and theirs stay.
    few = write_jsonl(rows.with_name("few.jsonl"), corpus(40)[:10])
    last = run(interrupted, [few], model_folder)
    reselect(last, keep_runs=1)  # the one before it stays
    assert not done.exists() and not again.exists() and last.exists()
    (parts_of(interrupted)[0].parent / ".draft.0").write_bytes(b"cut off")
    assert cli.main(["store", "prune", str(interrupted), "--quiet"]) == 0
    assert "rows removed" in capsys.readouterr().out and not list((interrupted / "likelihoods").rglob(".draft*"))
    once_more = run(interrupted, [few], model_folder)
    assert manifest(once_more)["pairs"]["computed"] == 0
    (once_more / "manifest.json").write_text("{")
    assert cli.main(["store", "prune", str(interrupted), "--quiet"]) == 2
    assert f"it is not known what {once_more} uses" in capsys.readouterr().err
    shutil.rmtree(once_more)
    back = run(interrupted, [rows], model_folder)
    assert manifest(back)["pairs"]["computed"] > 0
    same(back, whole, exact=False)


@pytest.mark.parametrize("what", ["stats", "compact", "prune"])
def test_store_commands_on_a_folder_without_a_store(tmp_path, capsys, what):
    assert cli.main(["store", what, str(tmp_path)]) == 2
    assert "no store here" in capsys.readouterr().err and not list(tmp_path.iterdir())
