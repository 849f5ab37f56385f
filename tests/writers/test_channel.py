import pytest

from vis_callbacks.writers.channel import Channel, LeftOutError


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.fixture
def said():
    return []


@pytest.fixture
def channel(said):
    return Channel("pictures", said.append)


def fail(error):
    def action():
        raise error

    return action


def test_what_succeeds_is_done_and_nothing_is_said(channel, said):
    done = []
    assert channel.attempt(lambda: done.append(1), epoch=0)
    assert done == [1]
    assert said == []


def test_a_failure_is_contained_counted_and_said_once_per_cause(channel, said):
    for _ in range(2):
        assert not channel.attempt(fail(OSError("full")), epoch=0)
    assert not channel.attempt(fail(ValueError("bad")), epoch=0)
    assert channel.failures == {"OSError: full": 2, "ValueError: bad": 1}
    assert [text for text in said if "OSError: full" in text] == said[:1]
    assert "pictures could not be written: OSError: full" in said[0]


@pytest.mark.parametrize("error", [MuteError(), ExceptionGroup("many", [ValueError("x")])])
def test_an_odd_exception_is_contained(channel, said, error):
    assert not channel.attempt(fail(error), epoch=0)
    assert len(said) == 1


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt("stop"), SystemExit("stop"), GeneratorExit("stop")]
)
def test_what_is_no_exception_passes(channel, error):
    with pytest.raises(type(error), match="stop"):
        channel.attempt(fail(error), epoch=0)


def test_after_three_failures_in_a_row_it_rests_until_the_next_epoch(channel, said):
    calls = []

    def action():
        calls.append(1)
        raise OSError("full")

    for _ in range(10):
        channel.attempt(action, epoch=0)
    assert len(calls) == 3
    assert channel.is_resting(0)
    for _ in range(10):
        channel.attempt(action, epoch=1)
    assert len(calls) == 4
    assert len(said) == 2
    assert "3 times in a row" in said[1]


def test_it_recovers(channel):
    for _ in range(3):
        channel.attempt(fail(OSError("full")), epoch=0)
    assert channel.attempt(lambda: None, epoch=1)
    assert channel.attempt(lambda: None, epoch=0)


def test_a_success_ends_the_row_of_failures(channel):
    for _ in range(5):
        channel.attempt(fail(OSError("full")), epoch=0)
        channel.attempt(fail(OSError("full")), epoch=0)
        assert channel.attempt(lambda: None, epoch=0)


def test_what_is_rightly_left_out_is_no_failure(channel, said):
    for _ in range(5):
        channel.attempt(fail(LeftOutError("room", "no room")), epoch=0)
    assert channel.left_out == {"room": 5}
    assert not channel.failures
    assert not channel.is_resting(0)
    assert said == ["pictures: no room. Training goes on."]


def test_a_channel_may_never_rest(said):
    channel = Channel("alerts", said.append, max_failures=None)
    for _ in range(10):
        channel.attempt(fail(OSError("full")), epoch=0)
    assert channel.failures.total() == 10
    assert len(said) == 1


def test_a_contained_failure_keeps_no_frame_alive(channel):
    error = OSError("full")
    channel.attempt(fail(error), epoch=0)
    assert error.__traceback__ is None
