"""Evaluation of a generator."""

import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.metrics import compute
from stylegan_ray.metrics.blocks import BlockWorker, Plan, tasks_of
from stylegan_ray.metrics.compute import available_detectors, measure, run_serially
from stylegan_ray.metrics.names import parse_metrics
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.metrics.reduction import Reduction
from stylegan_ray.storage import Storage

NAMES = ["fid200_tiny", "fid150_full_tiny", "kid200_tiny", "mind200_tiny", "is130_tiny", "pr150_tiny"]
NAMES += ["ppl0.1k_wend_tiny", "ls0.2k"]


@pytest.fixture
def available(color_detector):
    """Detectors of tests cost nothing; Inception is unavailable."""
    reason = "fetch it with: python jobs/evaluate.py prefetch inception"
    return {"tiny": color_detector, "celeba": color_detector}, {"inception": reason}


@pytest.fixture
def evaluate(available):
    """The function, with the detectors of tests."""
    return partial(compute.evaluate, available=available)


def numbers(rows):
    return [(row["metric"], row["value"], row["spread"]) for row in rows]


def test_every_metric_gives_a_finite_number(evaluate, painted, data):
    rows = evaluate(painted, data, NAMES)
    assert [row["metric"] for row in rows] == [
        "fid200_tiny", "fid150_full_tiny", "kid200_tiny", "mind200_tiny", "is130_tiny",
        "pr150_tiny_precision", "pr150_tiny_recall", "ppl0.1k_wend_tiny", "ls0.2k_z", "ls0.2k_w",
    ]  # fmt: skip
    assert torch.tensor([row["value"] for row in rows]).isfinite().all()
    assert [row["num_gen"] for row in rows] == [200, 150, 200, 200, 130, 150, 150, 100, 200, 200]
    assert [row["num_real"] for row in rows] == [100, 100, 100, 100, 0, 100, 100, 0, 0, 0]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_the_numbers_have_the_same_bits_for_any_number_of_tasks(evaluate, painted, data, num_workers):
    def run_apart(worker, tasks):
        """Whole blocks dealt out to workers of their own, results in a random order."""
        workers = [BlockWorker(worker.plan, painted, data, worker.detectors) for _ in range(num_workers)]
        results = [(task, workers[number % num_workers].run(task)) for number, task in enumerate(tasks)]
        random.Random(num_workers).shuffle(results)
        yield from results

    assert numbers(evaluate(painted, data, NAMES, run=run_apart)) == numbers(evaluate(painted, data, NAMES))


def test_metrics_that_share_a_pass_give_what_each_gives_alone(evaluate, painted, data):
    together = numbers(evaluate(painted, data, NAMES))
    alone = [row for name in NAMES for row in numbers(evaluate(painted, data, [name]))]
    assert together == alone


def test_images_are_generated_once_for_all_metrics():
    specs = parse_metrics(["fid1000_tiny", "kid640_tiny", "is64_tiny", "pr65_tiny"])
    tasks = tasks_of(Plan(tuple(specs)), {"tiny": 100})
    assert sum(task.kind == "fake" for task in tasks) == 16
    assert sum(task.kind == "real" for task in tasks) == 2
    assert len(set(tasks)) == len(tasks)


def test_a_missing_block_is_noticed(evaluate, painted, data):
    def run_badly(worker, tasks):
        yield from run_serially(worker, tasks[:-1])

    with pytest.raises(AssertionError):
        evaluate(painted, data, ["fid200_tiny"], run=run_badly)


def test_features_of_reals_are_computed_once(evaluate, painted, data, tmp_path):
    folder = Storage.at(tmp_path / "features")
    first = evaluate(painted, data, NAMES, cache=RealsCache(folder))
    kinds = []
    again = evaluate(painted, data, NAMES, cache=RealsCache(folder), progress=lambda *now: kinds.append(now[2]))
    assert numbers(again) == numbers(first) and "real tiny" not in kinds and "fake" in kinds


@pytest.mark.parametrize("change", ["count", "data", "mirror", "detector", "resize"])
def test_features_of_other_reals_are_not_used(evaluate, painted, data, color_detector, change):
    cache, name, plan = RealsCache(), "fid60_tiny", Plan(())
    evaluate(painted, data, [name], cache=cache)
    if change == "data":
        data.fingerprint = "another"
    if change in ("detector", "resize"):
        other = {"sha256": "another"} if change == "detector" else {"resize": "another"}
        detector = replace(color_detector, **other)
        evaluate = partial(evaluate, available=({"tiny": detector}, {}))
    if change == "mirror":
        plan = Plan((), mirror=True)
    if change == "count":
        name = "fid61_tiny"
    seen = []
    evaluate(painted, data, [name], plan, cache=cache, progress=lambda done, total, what: seen.append(what))
    assert "real tiny" in seen


def test_kept_statistics_without_rows_do_not_serve_a_metric_that_needs_rows(evaluate, painted, data, tmp_path):
    folder = Storage.at(tmp_path)
    evaluate(painted, data, ["fid100_tiny"], cache=RealsCache(folder))
    expected = numbers(evaluate(painted, data, ["kid100_tiny"]))
    assert numbers(evaluate(painted, data, ["kid100_tiny"], cache=RealsCache(folder))) == expected


def test_a_damaged_or_unwritable_cache_does_not_stop_anything(evaluate, painted, data, tmp_path, caplog):
    folder = Storage.at(tmp_path / "features")
    expected = numbers(evaluate(painted, data, ["fid100_tiny"], cache=RealsCache(folder)))
    (path,) = (tmp_path / "features").iterdir()
    path.write_bytes(b"torn")
    assert numbers(evaluate(painted, data, ["fid100_tiny"], cache=RealsCache(folder))) == expected
    assert "cannot be read" in caplog.text
    (tmp_path / "file").write_bytes(b"")
    evaluate(painted, data, ["fid100_tiny"], cache=RealsCache(Storage.at(tmp_path / "file")))
    assert "are not cached" in caplog.text


def test_without_weights_the_other_metrics_go_on(evaluate, painted, data):
    rows = evaluate(painted, data, ["fid50k", "fid100_tiny", "kid50k"], provenance={"kimg": 7})
    assert [row["metric"] for row in rows] == ["fid100_tiny", "fid50k", "kid50k"]
    assert rows[0]["value"] is not None
    assert rows[1]["value"] is None and "prefetch inception" in rows[1]["unavailable"] and rows[1]["kimg"] == 7
    assert [row["value"] for row in evaluate(painted, data, ["fid50k"], repeat=3)] == [None]


def test_repeats_use_other_seeds_and_give_mean_and_spread(evaluate, painted, data):
    rows = evaluate(painted, data, ["fid100_tiny", "is100_tiny"], repeat=4)
    singles, summaries = rows[:-2], rows[-2:]
    assert [row["seed"] for row in singles] == [0, 0, 1, 1, 2, 2, 3, 3]
    values = torch.tensor([row["value"] for row in singles[::2]], dtype=torch.float64)
    assert len(set(values.tolist())) == 4
    assert summaries[0]["value"] == pytest.approx(values.mean().item())
    assert summaries[0]["spread"] == pytest.approx(values.std().item())
    assert summaries[0]["repeats"] == 4 and summaries[0]["seed"] == [0, 1, 2, 3]
    assert numbers(evaluate(painted, data, ["fid100_tiny"], Plan((), seed=2))) == numbers(singles[4:5])


def test_a_row_says_where_its_number_comes_from(evaluate, painted, data, color_detector):
    (row,) = evaluate(painted, data, ["fid100_tiny"], Plan((), psi=0.7), provenance={"kimg": 12.5, "checkpoint": "c"})
    expected = {
        "metric": "fid100_tiny", "num_gen": 100, "num_real": 100, "seed": 0, "psi": 0.7, "noise": "random",
        "detector": "color", "detector_sha256": color_detector.sha256, "resize": "none", "mirror": False,
        "data": data.fingerprint, "data_path": data.path, "dialect": "original", "kimg": 12.5, "checkpoint": "c",
    }  # fmt: skip
    assert row.items() >= expected.items()
    assert row["versions"]["torch"] == torch.__version__
    assert row["seconds"] > 0 and row["time"].endswith("Z")


def test_progress_counts_every_block(evaluate, painted, data):
    calls = []
    evaluate(painted, data, ["fid200_tiny", "ppl0.1k_wend_tiny"], progress=lambda *now: calls.append(now))
    assert [done for done, _, _ in calls] == list(range(1, 9)) and {total for _, total, _ in calls} == {8}
    assert [what for _, _, what in calls] == ["real tiny"] * 2 + ["fake"] * 4 + ["path ppl0.1k_wend_tiny"] * 2


def test_metrics_of_reals_need_a_data_set(evaluate, painted):
    with pytest.raises(ValueError, match=r"fid100_tiny.*DATA"):
        evaluate(painted, None, ["fid100_tiny"])
    assert evaluate(painted, None, ["is100_tiny"])[0]["value"] >= 1


def test_too_few_reals_are_refused(evaluate, painted, data):
    data.rows = data.rows[:3]
    with pytest.raises(ValueError, match="pr100_tiny needs at least 4"):
        evaluate(painted, data, ["pr100_tiny"])


def test_unknown_names_are_refused_before_anything_is_done(evaluate, painted, data):
    with pytest.raises(ConfigError, match="fid5k_tiny"):
        evaluate(painted, data, ["fid100_tiny", "fid5k_tyni"])


def test_detectors_are_loaded_once_for_all_metrics():
    detectors, missing = available_detectors(parse_metrics(["fid100_tiny", "kid100_tiny", "fid50k", "kid50k"]))
    assert list(detectors) == ["tiny"] and list(missing) == ["inception"]


def test_a_generator_that_paints_like_the_data_is_better(evaluate, painted, data, color_detector):
    worse = type(painted)()
    worse.synthesis.strength.data.fill_(1.0)
    good, bad = (evaluate(G, data, ["fid200_tiny"])[0]["value"] for G in (painted, worse))
    assert good < bad


def test_measure_keeps_the_features_it_computed(painted, data, color_detector):
    cache = RealsCache()
    plan = Plan(tuple(parse_metrics(["fid64_tiny"])))
    worker = BlockWorker(plan, painted, data, {"tiny": color_detector})
    (value,) = measure(worker, cache)
    assert value.num_real == 64
    counts = {"fid64_tiny": 64}
    assert not Reduction(plan, counts, compute.known_reals(worker, counts, cache)).missing_reals()
