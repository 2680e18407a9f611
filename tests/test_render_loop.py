"""The viewer's render loop: the latest pose wins, coarse in motion, fine at rest, several browsers, failures."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from model.viewer.render_loop import MOST_DEFERRALS, REST_S, Picture, Quality, RenderLoop
from model.viewer.threads import KEPT_FRAMES, TRIALS, ThreadChoice
from model.viewer.window import Pose

# Nothing here waits longer than this for another thread, unless it has failed.
PATIENCE_S = 10.0


def pose(x: float) -> Pose:
    c2w = np.eye(4)
    c2w[0, 3] = x
    return Pose(c2w, 0.8, 1.5)


class Stage:
    """A loop whose frames are drawn by the test: `steps` of a frame, each of which waits for its turn where `gate` is closed."""

    def __init__(self, quality: Quality, seconds: Callable[[int], float] = lambda rows: 0.0) -> None:
        self.drawn: list[tuple[float, int]] = []
        self.begun: list[tuple[float, int]] = []
        self.pictures: list[tuple[object, Picture]] = []
        self.failures: list[tuple[object, Exception]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = seconds
        self.loop = RenderLoop(
            self.draw, lambda *item: self.pictures.append(item), lambda *item: self.failures.append(item), quality
        )

    def draw(self, at: Pose, rows: int, abandoned: Callable[[], bool]) -> np.ndarray | None:
        x = float(at.c2w[0, 3])
        self.begun.append((x, rows))
        if x < 0:
            raise ZeroDivisionError("a pose that cannot be drawn")
        if abandoned():
            return None
        time.sleep(self.seconds(rows))
        self.gate.wait(PATIENCE_S)
        if abandoned():
            return None
        self.drawn.append((x, rows))
        return np.zeros((rows, rows, 3), np.uint8)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, (self.begun, self.drawn, self.failures)
            time.sleep(0.002)


@pytest.fixture
def stage():
    stages = []

    def make(quality: Quality, **keywords) -> Stage:
        stages.append(Stage(quality, **keywords))
        return stages[-1]

    yield make
    for made in stages:
        made.gate.set()
        made.loop.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "render"]


def test_of_poses_that_come_while_a_frame_is_drawn_only_the_last_is_drawn(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False))
    s.gate.clear()
    s.loop.ask("a", pose(1))
    s.until(lambda: len(s.begun) == 1)
    for x in range(2, 12):
        s.loop.ask("a", pose(x))
    s.gate.set()
    s.until(lambda: (11, 64) in s.drawn)
    # The first is finished although newer poses wait: else nothing would be shown in motion.
    assert s.drawn == [(1, 32), (11, 32), (11, 64)]
    assert [picture.fine for _, picture in s.pictures] == [False, False, True]


def test_a_fine_frame_is_abandoned_once_the_camera_moves(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False))
    s.loop.ask("a", pose(1))
    s.until(lambda: (1, 32) in s.drawn)
    s.gate.clear()
    s.until(lambda: (1, 64) in s.begun)
    s.loop.ask("a", pose(2))
    s.gate.set()
    s.until(lambda: (2, 64) in s.drawn)
    assert s.drawn == [(1, 32), (2, 32), (2, 64)]


def test_without_coarse_frames_every_frame_is_fine_and_finished(stage):
    s = stage(Quality(fine=64, coarse=32, coarse_first=False))
    s.gate.clear()
    s.loop.ask("a", pose(1))
    s.until(lambda: len(s.begun) == 1)
    s.loop.ask("a", pose(2))
    s.gate.set()
    s.until(lambda: len(s.pictures) == 2)
    time.sleep(2 * REST_S)
    assert s.drawn == [(1, 64), (2, 64)]


def test_a_browser_at_rest_gets_its_fine_frame_while_another_keeps_moving(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False), seconds=lambda rows: 0.02)
    s.loop.ask("still", pose(1))
    s.until(lambda: (1, 32) in s.drawn)
    x = 2
    end = time.monotonic() + PATIENCE_S
    while (1, 64) not in s.drawn:
        assert time.monotonic() < end
        s.loop.ask("moving", pose(x))
        x += 1
        time.sleep(0.005)
    assert 1 <= s.begun.count((1, 64)) <= MOST_DEFERRALS + 1
    assert {key for key, _ in s.pictures} == {"still", "moving"}


def test_who_has_waited_longest_is_served_first(stage):
    s = stage(Quality(fine=64, coarse=64))
    s.gate.clear()
    s.loop.ask("a", pose(1))
    s.until(lambda: len(s.begun) == 1)
    s.loop.ask("a", pose(2))
    s.loop.ask("b", pose(3))
    s.loop.ask("c", pose(4))
    s.gate.set()
    s.until(lambda: len(s.drawn) == 4)
    assert [x for x, _ in s.drawn] == [1, 3, 4, 2]


def test_a_refresh_draws_what_is_at_rest_once_more_at_once_and_fine(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False))
    s.loop.ask("a", pose(1))
    s.until(lambda: (1, 64) in s.drawn)
    s.loop.refresh()
    s.until(lambda: len(s.drawn) == 3)
    assert s.drawn[2] == (1, 64)


def test_where_there_is_nothing_to_show_yet_nobody_is_asked_again_until_a_refresh(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False))
    draw, s.loop._draw = s.loop._draw, lambda *_: s.begun.append((0, 0))
    s.loop.ask("a", pose(1))
    s.until(lambda: len(s.begun) == 1)
    time.sleep(2 * REST_S)
    assert len(s.begun) == 1
    s.loop._draw = draw
    s.loop.refresh()
    s.until(lambda: (1, 64) in s.drawn)


def test_a_pose_that_fails_is_told_once_and_others_go_on(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False))
    s.loop.ask("a", pose(-1))
    s.until(lambda: bool(s.failures))
    s.loop.ask("b", pose(5))
    s.until(lambda: (5, 64) in s.drawn)
    assert [key for key, _ in s.failures] == ["a"]
    assert isinstance(s.failures[0][1], ZeroDivisionError)


def test_a_browser_that_has_gone_is_not_drawn_and_a_task_runs_between_frames(stage):
    s = stage(Quality(fine=64, coarse=32, automatic=False))
    s.gate.clear()
    s.loop.ask("a", pose(1))
    s.until(lambda: len(s.begun) == 1)
    s.loop.ask("b", pose(2))
    s.loop.forget("b")
    done = threading.Event()
    s.loop.submit(done.set)
    s.gate.set()
    assert done.wait(PATIENCE_S)
    s.until(lambda: (1, 64) in s.drawn)
    assert {x for x, _ in s.begun} == {1}


def test_the_coarse_size_settles_where_the_target_rate_is_met(stage):
    # A frame takes 40 ms at 64 rows, and time as the pixels: 20 frames a second allow 50 ms, 80 a second 12.5 ms, 36 rows.
    s = stage(Quality(fine=64, coarse=64, target_fps=80, least=16, step=4), seconds=lambda rows: 0.04 * (rows / 64) ** 2)
    s.loop.quality.coarse = 60
    for x in range(25):
        s.loop.ask("a", pose(x))
        s.until(lambda x=x: len(s.pictures) > x)
    assert 28 <= s.loop.quality.coarse <= 44
    s.loop.quality.target_fps = 10
    for x in range(25, 50):
        s.loop.ask("a", pose(x))
        s.until(lambda x=x: len(s.pictures) > x)
    assert s.loop.quality.coarse == 64
    s.loop.quality.target_fps = 80  # from the fine size it goes down again
    for x in range(50, 75):
        s.loop.ask("a", pose(x))
        s.until(lambda x=x: len([at for at, _ in s.drawn if at == x]) > 0)
    assert 28 <= s.loop.quality.coarse <= 44


@pytest.mark.parametrize(("seconds", "faster"), [({1: 0.01, 2: 0.03}, 1), ({1: 0.05, 2: 0.03}, 2)])
def test_the_faster_number_of_threads_is_chosen_and_measured_again(seconds, faster):
    choice, picked = ThreadChoice((2, 1, 1)), []
    for i in range(KEPT_FRAMES + 2 * TRIALS):
        n = choice.pick("64")
        picked.append(n)
        choice.took("64", n, 9.0 if i == 1 else seconds[n])  # one outlier
    assert picked[: 2 * TRIALS] == [1] * TRIALS + [2] * TRIALS
    assert set(picked[2 * TRIALS : KEPT_FRAMES]) == {faster}
    assert sorted(picked[KEPT_FRAMES:]) == [1] * TRIALS + [2] * TRIALS
    assert choice.pick("128") == 1
