"""The guard: what each declaration may read, and when."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram.errors import ConfigError, StrictnessError
from engram.streams import Guard, class_incremental


@pytest.fixture
def stream(make_data):
    return class_incremental(make_data(4), n_tasks=4, valid_fraction=0.3)


@pytest.mark.parametrize("reads", ["task", "memory", "all"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(current=st.integers(0, 3), asked=st.integers(-1, 4))
def test_what_may_be_read(stream, reads, current, asked):
    guard = Guard(stream, reads)
    guard.begin(current)
    allowed = asked == current or (reads == "all" and 0 <= asked < current)
    for name in ("train", "valid"):
        if allowed:
            assert getattr(guard, name)(asked).x is getattr(stream, name)(asked).x
        else:
            message = f'reads = "{reads}".*{name} samples of task {asked} with task {current} open'
            with pytest.raises(StrictnessError, match=message) as caught:
                getattr(guard, name)(asked)
            assert "\n" not in str(caught.value)
        assert sum(guard.reads_log[name]) == allowed
    if allowed:
        assert guard.reads_log["train"][asked] == 1


@pytest.mark.parametrize("reads", ["task", "memory", "all"])
def test_nothing_is_read_before_or_after_a_task(stream, reads):
    guard = Guard(stream, reads)
    with pytest.raises(StrictnessError, match="no task open"):
        guard.train(0)
    guard.begin(0)
    guard.train(0)
    guard.train(0)
    guard.end(0)
    with pytest.raises(StrictnessError, match="no task open"):
        guard.train(0)
    assert guard.reads_log == {"train": [2, 0, 0, 0], "valid": [0, 0, 0, 0]}
    assert guard.current is None


def test_tasks_come_once_and_in_order(stream):
    guard = Guard(stream, "all")
    guard.begin(1)  # a resumed run begins late
    with pytest.raises(StrictnessError, match="one task is open at a time"):
        guard.begin(2)
    with pytest.raises(StrictnessError, match="only the open task can end"):
        guard.end(0)
    guard.end(1)
    with pytest.raises(StrictnessError, match="only the open task can end"):
        guard.end(1)
    for past in (0, 1):
        with pytest.raises(StrictnessError, match="once and in order"):
            guard.begin(past)
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.3"):
        guard.begin(4)
    guard.begin(3)
    assert guard.current == 3


def test_there_is_no_way_to_test_samples(stream):
    guard = Guard(stream, "all")
    assert not [name for name in dir(guard) if "test" in name]
    assert all(getattr(guard, name) is not stream for name in dir(guard) if not name.startswith("_"))


def test_other_declarations_are_refused(stream):
    with pytest.raises(ConfigError, match="got 'future'"):
        Guard(stream, "future")  # type: ignore[arg-type]
