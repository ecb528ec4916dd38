"""The schedule is a function of cur_nimg alone, and the micro-batches of all workers are the stream of positions."""

import math
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.properties import examples

from stylegan_ray.config import RunConfig, load_config
from stylegan_ray.train.schedule import group_at, places_of_rank, training_schedule, walk


@st.composite
def schedules(draw: st.DrawFn) -> tuple[RunConfig, int]:
    """A configuration, growing or not, and the logarithm of its resolution."""
    log2 = draw(st.integers(3, 10))
    sides = st.sampled_from([2**i for i in range(2, log2 + 1)])
    gpu = draw(st.integers(1, 8))
    rates = st.dictionaries(sides, st.floats(1e-6, 1.0), max_size=3)
    keys = {
        "model.family": "revised", "model.mbstd_group_size": None, "schedule.minibatch_gpu": gpu,
        "schedule.minibatch_size": gpu * draw(st.integers(1, 6)),
        "schedule.minibatch_size_dict": {
            side: gpu * n for side, n in draw(st.dictionaries(sides, st.integers(1, 6))).items()
        },
        "schedule.G_lrate_dict": draw(rates), "schedule.D_lrate_dict": draw(rates),
        "schedule.lrate_rampup_kimg": draw(st.floats(0, 100)), "schedule.minibatch_repeats": draw(st.integers(1, 5)),
        "schedule.lod_initial_resolution": draw(st.none() | sides),
        "schedule.lod_training_kimg": draw(st.floats(0, 2)), "schedule.lod_transition_kimg": draw(st.floats(0, 2)),
        "schedule.G_smoothing_kimg": draw(st.floats(0, 100)),
        "schedule.G_smoothing_rampup": draw(st.none() | st.floats(0.01, 1)),
    }  # fmt: skip
    return load_config("config-f", keys), log2


@examples(80)
@given(schedules(), st.lists(st.integers(0, 40_000), min_size=2, max_size=6))
def test_what_changes_moves_one_way_and_stays_in_its_range(drawn, nimgs):
    cfg, log2 = drawn
    found = [training_schedule(cfg, nimg, log2) for nimg in sorted(nimgs)]
    lods = [schedule.lod for schedule in found]
    assert lods == sorted(lods, reverse=True) and 0 <= min(lods) and max(lods) <= log2 - 2
    sizes = [schedule.resolution for schedule in found]
    assert sizes == sorted(sizes) and max(sizes) <= 2**log2
    for schedule in found:
        assert schedule.resolution == 2**log2 >> schedule.level
        assert 0 <= schedule.G_smoothing_beta < 1 and schedule.G_lrate >= 0 and schedule.D_lrate >= 0
        assert schedule.num_micro_batches * schedule.minibatch_gpu == schedule.minibatch_size


@examples(80)
@given(schedules(), st.integers(0, 20_000), st.integers(1, 5))
def test_a_run_that_continues_walks_on_as_if_it_had_not_stopped(drawn, nimg, num_groups):
    cfg, log2 = drawn
    groups = list(islice(walk(cfg, nimg, log2), 6))
    assert groups[0].nimg == nimg and all(a.end_nimg == b.nimg for a, b in pairwise(groups))
    assert list(islice(walk(cfg, groups[num_groups].nimg, log2), 6 - num_groups)) == groups[num_groups:]
    assert group_at(cfg, groups[num_groups].nimg, log2) == groups[num_groups]


@examples(80)
@given(schedules(), st.integers(0, 20_000), st.integers(1, 9))
def test_workers_share_the_stream_of_positions(drawn, nimg, world_size):
    cfg, log2 = drawn
    group = group_at(cfg, nimg, log2)
    position = nimg
    for minibatch in group.minibatch_nimgs():
        of_ranks = [places_of_rank(minibatch, group.schedule, rank, world_size) for rank in range(world_size)]
        counts = [len(places) for places in of_ranks]
        assert max(counts) - min(counts) <= 1
        places = sorted((place for some in of_ranks for place in some), key=lambda place: place.micro_batch)
        assert places == places_of_rank(minibatch, group.schedule, 0, 1)
        for place in places:
            assert place.nimg == minibatch and place.position == position
            position += group.schedule.minibatch_gpu
    assert position == group.end_nimg


@examples(40)
@given(schedules())
def test_growing_ends_at_the_full_resolution(drawn):
    cfg, log2 = drawn
    kimg = 10 * (cfg.schedule.lod_training_kimg + cfg.schedule.lod_transition_kimg)
    phases = cfg.schedule.lod_training_kimg + cfg.schedule.lod_transition_kimg
    if phases > 0.001 or cfg.schedule.lod_initial_resolution is None:
        end = training_schedule(cfg, math.ceil(kimg * 1000) + 1, log2)
        assert end.lod == 0 and end.resolution == pytest.approx(2**log2)
