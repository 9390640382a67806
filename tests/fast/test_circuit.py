"""Three failures in a row open the circuit; then one call per wait, and the waits double; one that works closes it."""

from __future__ import annotations

from serve_app.cache.circuit import FAILURES_TO_OPEN, FIRST_WAIT_S, MOST_WAIT_S, Circuit


def opened(at: float = 100.0) -> Circuit:
    """A circuit that has just been opened."""
    circuit = Circuit()
    assert [circuit.failed(at) for _ in range(FAILURES_TO_OPEN)] == [False] * (FAILURES_TO_OPEN - 1) + [True]
    return circuit


def test_failures_with_a_success_between_them_open_nothing() -> None:
    circuit = Circuit()
    for _ in range(10):
        assert [circuit.failed(0.0) for _ in range(FAILURES_TO_OPEN - 1)] == [False] * (FAILURES_TO_OPEN - 1)
        assert (circuit.worked(0.0), circuit.allows(0.0), circuit.is_open) == (None, True, False)


def test_while_it_is_open_one_call_per_wait_is_let_through() -> None:
    circuit = opened(at=100.0)
    assert (circuit.is_open, circuit.allows(100.0), circuit.allows(100.0 + FIRST_WAIT_S - 0.01)) == (True, False, False)
    assert [circuit.allows(100.0 + FIRST_WAIT_S) for _ in range(3)] == [True, False, False]
    assert circuit.allows(100.0 + 2 * FIRST_WAIT_S), "the call that was let through never came back"


def test_calls_that_were_under_way_when_it_opened_make_no_wait_longer() -> None:
    circuit = opened(at=100.0)
    assert not any(circuit.failed(100.1) for _ in range(50))
    assert circuit.allows(100.0 + FIRST_WAIT_S)


def test_the_waits_double_up_to_the_longest_one_and_begin_anew_after_a_success() -> None:
    circuit, now, waits = opened(at=0.0), 0.0, []
    for _ in range(6):
        began = now
        while not circuit.allows(now):
            now += 0.125
        waits.append(now - began)
        assert not circuit.failed(now)
    assert waits == [min(FIRST_WAIT_S * 2**number, MOST_WAIT_S) for number in range(6)]
    assert (circuit.worked(now), circuit.is_open, circuit.allows(now)) == (now, False, True)
    assert [circuit.failed(now) for _ in range(FAILURES_TO_OPEN)][-1]
    assert circuit.allows(now + FIRST_WAIT_S)
