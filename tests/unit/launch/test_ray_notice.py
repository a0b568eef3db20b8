"""A node that is being taken away: all ranks ask at the same steps, and hear of it after the same one."""

from __future__ import annotations

from itertools import pairwise

from gare.launch import ray_notice
from gare.launch.ray_notice import ASK_SECONDS, Notice


class Ray:
    """Two ranks, and what Ray Train tells them."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.info, self.asked = 0.0, None, ([], [])
        monkeypatch.setattr(ray_notice.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(ray_notice.ray.train, "get_preemption_info", self.ask)
        monkeypatch.setattr(ray_notice.ray.train.collective, "broadcast_from_rank_zero", self.broadcast)
        self.notices = Notice(), Notice()

    def ask(self):
        self.asked[self.rank].append(self.step)
        return self.info

    def broadcast(self, value):
        self.shared = value if self.rank == 0 else self.shared
        return self.shared

    def take(self, steps, seconds):
        """Take steps; the second rank is at each of them half of the time later."""
        for step in steps:
            for rank, notice in enumerate(self.notices):
                self.step, self.rank, self.now = step, rank, self.now + seconds / 2
                notice()


def test_all_ranks_ask_at_the_same_steps_and_about_every_two_seconds(monkeypatch):
    ray = Ray(monkeypatch)
    ray.take(range(200), 0.1)
    first, second = ray.asked
    gaps = [later - earlier for earlier, later in pairwise(first)]
    assert first == second
    assert (first[0], gaps[:4]) == (0, [2, 4, 8, 16])
    assert all(0.8 * ASK_SECONDS <= gap * 0.1 <= ASK_SECONDS for gap in gaps[4:])
    assert not any(notice.came for notice in ray.notices)


def test_a_notice_is_heard_by_all_ranks_after_the_same_step(monkeypatch):
    ray = Ray(monkeypatch)
    ray.take(range(3), 3.0)
    ray.info = object()
    ray.take(range(3, 4), 3.0)
    assert ray.asked == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert [notice.came for notice in ray.notices] == [True, True]
