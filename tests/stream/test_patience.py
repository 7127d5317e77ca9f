"""Laws of waiting."""

import time

from benchkit.stream.patience import Patience


def test_patience_ends_after_its_time_without_a_move():
    patience, start, pauses = Patience(0.2), time.monotonic(), 0
    while patience.pause():
        pauses += 1
    assert 0.2 <= time.monotonic() - start < 2
    assert pauses >= 3


def test_a_change_of_state_renews_patience_and_a_standstill_does_not():
    patience = Patience(60)
    patience.see("first")
    time.sleep(0.05)
    patience.see("first")
    assert patience.idle_seconds >= 0.05
    patience.see("second")
    assert patience.idle_seconds < 0.05


def test_no_time_is_no_pause():
    assert not Patience(0).pause()
