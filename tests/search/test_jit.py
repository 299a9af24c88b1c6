"""Kernels: compiled when they are first called, at nobody's expense."""

from __future__ import annotations

import logging
import threading

import numba
import numpy as np
import pytest
from numba.core import event

from search.kernels import jit
from search.kernels.jit import as_f4, as_i4, bare, inner, kernel, part, ravel
from search.scheduling import stopwatch
from search.scheduling.budget import Budget, Meter

I8 = numba.int64


class Time:
    """Stands for `time` in the stopwatch."""

    def __init__(self):
        self.passed = 1000.0

    def monotonic(self):
        return self.passed


@pytest.fixture
def time(monkeypatch):
    fake = Time()
    monkeypatch.setattr(stopwatch, "time", fake)
    monkeypatch.setattr(stopwatch, "_paused", 0.0)
    return fake


def test_the_stopwatch_stands_still_in_overlapping_blocks(time):
    start = stopwatch.now()
    time.passed += 3
    assert stopwatch.now() == start + 3
    with stopwatch.paused():
        time.passed += 5
        with stopwatch.paused():
            time.passed += 7
        time.passed += 11
        assert stopwatch.now() == start + 3
    time.passed += 13
    assert stopwatch.now() == start + 16


def test_an_error_in_a_pause_lets_the_stopwatch_go_on(time):
    with pytest.raises(KeyError), stopwatch.paused():
        time.passed += 5
        raise KeyError
    before = stopwatch.now()
    time.passed += 1
    assert stopwatch.now() == before + 1


def test_a_budget_pays_for_no_compiler(time):
    """While a kernel compiles, more time passes than the search has; its budget is as it was."""

    class Slow(event.Listener):
        def on_start(self, event):
            time.passed += 100

        def on_end(self, event):
            time.passed += 100

    @kernel(I8(I8), cache=False)
    def more(a):
        return a + 1

    meter = Meter(Budget(seconds=5))
    with event.install_listener("numba:compile", Slow()):
        assert more(1) == 2
    assert time.passed >= 1200 and meter.halted is None and meter.usage.seconds == 0
    time.passed += 5
    assert meter.halted == "seconds"


def test_a_kernel_is_compiled_at_its_first_call_for_one_signature():
    with event.install_recorder("numba:compile") as compiled:

        @kernel(I8(numba.float32[::1], I8), cache=False)
        def place(array, start):
            array = bare(array)
            array[start] = 7
            return start

        assert not compiled.buffer
        array = np.zeros(3, np.float32)
        assert place(array, 1) == 1 and array.tolist() == [0, 7, 0]
        many = len(compiled.buffer)
        assert many and place(array, 2) == 2 and len(compiled.buffer) == many
    for wrong in ((array.astype(np.float64), 1), (array[::2], 1), (array,)):
        with pytest.raises(TypeError):
            place(*wrong)


def test_kernels_call_kernels_and_parts():
    @inner
    def twice(a):
        return 2 * a

    @part
    def apart(a):
        return twice(a) + 1

    @kernel(I8(I8), cache=False)
    def below(a):
        return apart(a)

    @kernel(I8(I8), cache=False)
    def above(a):
        return below(a) * twice(a)

    assert above(3) == 7 * 6 and below(3) == 7
    for refused in (twice, apart):
        with pytest.raises(TypeError):
            refused(3)


def test_threads_may_call_a_kernel_for_the_first_time_together():
    @kernel(I8(I8), cache=False)
    def more(a):
        return a + 1

    found = []
    threads = [threading.Thread(target=lambda i=i: found.append(more(i) - i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8


def test_one_line_tells_that_kernels_are_compiled(caplog, monkeypatch):
    monkeypatch.setattr(jit, "_announcer", jit._Announcer())
    with caplog.at_level(logging.INFO, logger="copse.search.kernels.jit"):
        for _ in range(2):
            assert kernel(I8(I8), cache=False)(lambda a: a + 1)(1) == 2
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "compiling kernels for this CPU"
    ]


def test_an_array_is_seen_as_numpy_sees_it():
    @kernel(numba.void(numba.float64[::1], numba.float32[::1], numba.int32[::1]), cache=False)
    def halves(words, floats, whole):
        f4, i4 = as_f4(words), as_i4(words)
        for i in range(len(f4)):
            floats[i], whole[i] = f4[i], i4[i]
        f4[1] = 2.5

    @kernel(I8(numba.float32[:, ::1], numba.float32[::1]), cache=False)
    def row(array, out):
        flat = ravel(array)
        for i in range(len(flat)):
            out[i] = flat[i]
        return len(flat)

    words = np.random.default_rng(0).standard_normal(5)
    floats, whole, before = np.empty(10, np.float32), np.empty(10, np.int32), words.copy()
    halves(words, floats, whole)
    assert (
        floats.tobytes() == before.tobytes() == whole.tobytes() and words.view(np.float32)[1] == 2.5
    )
    array, out = np.arange(12, dtype=np.float32).reshape(3, 4), np.empty(12, np.float32)
    assert row(array, out) == 12 and (out == array.reshape(-1)).all()


@kernel(I8(I8), cache=False)
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def test_a_kernel_may_call_itself():
    assert factorial(5) == 120
