"""The channel between workers and driver: everything arrives once, and messages outlive the workers that sent them."""

from __future__ import annotations

import pytest

ray = pytest.importorskip("ray")

from stylegan_ray.cluster.channel import MESSAGE, TICK, Sender, open_channel  # noqa: E402

pytestmark = pytest.mark.usefixtures("ray_local")


def test_what_was_posted_is_taken_once_and_in_order():
    channel = open_channel()
    sender = Sender(channel)
    sender.message("one")
    sender.post(TICK, {"Progress/tick": 0})
    assert ray.get(channel.take.remote()) == [(MESSAGE, "one"), (TICK, {"Progress/tick": 0})]
    assert ray.get(channel.take.remote()) == []


def test_messages_of_a_worker_that_died_before_it_logged_them_reach_the_next_one():
    channel = open_channel()
    before, after = Sender(channel), Sender(channel)
    before.message("logged")
    before.note_logged(before.take_messages())
    before.message("fault: not logged")
    after.recover_messages()
    after.message("starting")
    assert after.take_messages() == ["fault: not logged", "starting"]
    after.note_logged(["fault: not logged", "starting"])
    assert ray.get(channel.unlogged.remote()) == []
