from contextlib import suppress

import numpy as np
from support.jobs import write_pictures
from support.toy import toy_config

from benchmarks import bare
from benchmarks.bare import minibatches, train_bare
from stylegan_ray.data import open_dataset
from stylegan_ray.data.reals import RealsSource


def test_the_loop_alone_sees_the_pictures_of_the_run_in_their_order(tmp_path):
    cfg = toy_config(**{"data.path": str(write_pictures(tmp_path)), "data.mirror_augment": True})
    source = RealsSource(open_dataset(cfg.data), cfg.run.seed, mirror_augment=True)
    served = [images for minibatch in minibatches(cfg, source) for images, _ in minibatch]
    assert len(served) == 96 and {tuple(images.shape) for images in served} == {(2, 3, 8, 8)}
    expected, _ = source.micro_batch(np.arange(192))
    assert np.array_equal(np.concatenate(served), expected)


def test_the_loop_alone_trains_to_the_end(tmp_path):
    keys = {"data.path": str(write_pictures(tmp_path)), "cluster.gpus_per_worker": 0, "train.total_kimg": 0.064}
    cfg = toy_config(**keys)
    result = train_bare(cfg, threads=1)
    assert result["threads"] == 1
    assert result["rows"][0]["Progress/kimg"] == 0.016 and result["rows"][-1]["Progress/kimg"] == 0.064
    assert all(row["Timing/share/checkpoint"] == 0 for row in result["rows"])


def test_keys_that_are_chosen_are_those_of_the_run(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(bare, "minibatches", lambda cfg, _: sizes.append(cfg.schedule.minibatch_gpu) or iter(()))
    keys = {"data.path": str(write_pictures(tmp_path)), "cluster.gpus_per_worker": 0, "schedule.minibatch_gpu": "auto"}
    cfg = toy_config(**keys, **{"train.total_kimg": 0})
    with suppress(StopIteration):
        train_bare(cfg, threads=1)
    assert sizes == [cfg.schedule.minibatch_size]
