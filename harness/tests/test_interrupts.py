# SPDX-License-Identifier: MIT
"""Ctrl-C: late, never lost."""

import os
import signal
import threading

import pytest

from megabench.interrupts import held_back, terminate_as_interrupt


def test_held_back__raised_after_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("still here")
    assert done == ["still here"]


def test_held_back__puts_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with held_back():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_held_back__in_another_thread_does_nothing() -> None:
    passed = []

    def enter() -> None:
        with held_back():
            passed.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(5)
    assert passed == [True]


def test_terminate_as_interrupt__sigterm() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        terminate_as_interrupt()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
