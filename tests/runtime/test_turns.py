"""Turns: a second call is refused, a swap waits for a call, and no call overtakes a swap that waits."""

from __future__ import annotations

import threading
import time

import pytest

from runtime.errors import UsageError
from runtime.turns import Turns


def test_a_second_call_is_refused_until_the_first_has_ended() -> None:
    turns, caught = Turns(), []

    def call() -> None:
        try:
            with turns.of_call():
                pass
        except UsageError as error:
            caught.append(str(error))

    with turns.of_call():
        thread = threading.Thread(target=call, name="second")
        thread.start()
        thread.join()
    call()
    assert len(caught) == 1
    assert "thread 'second' called while another call is running" in caught[0]


def test_calls_one_after_the_other_do_not_overtake_a_swap_that_waits() -> None:
    turns, order = Turns(), []

    def swap() -> None:
        with turns.of_swap():
            order.append("swap")

    thread = threading.Thread(target=swap)
    with turns.of_call():
        thread.start()
        time.sleep(0.05)  # it waits now
        order.append("first call")
    with turns.of_call():
        order.append("second call")
    thread.join()
    assert order == ["first call", "swap", "second call"]


def test_a_call_that_failed_ends_its_turn() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.of_call():
        raise ZeroDivisionError
    with turns.of_call():
        pass
