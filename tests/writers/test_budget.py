import resource

import pytest

from vis_callbacks.guard import LeftOutError
from vis_callbacks.writers import budget
from vis_callbacks.writers.budget import (
    ByteBudget,
    KnownFolder,
    TimeBudget,
    require_room,
    room_for,
)


@pytest.fixture
def limited(monkeypatch):
    def limit(size):
        monkeypatch.setattr(resource, "getrlimit", lambda which: (size, resource.RLIM_INFINITY))

    return limit


def test_room_is_the_free_space_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 7})())
    assert room_for(tmp_path / "file") == 7


def test_room_ends_at_the_limit_of_the_file_size(tmp_path, limited):
    path = tmp_path / "file"
    limited(100)
    assert room_for(path) == 100
    path.write_bytes(b"x" * 30)
    assert room_for(path) == 70
    path.write_bytes(b"x" * 130)
    assert room_for(path) == 0


def test_a_reserve_is_kept_for_the_run(tmp_path, limited):
    limited(100)
    require_room(tmp_path / "file", 40, 60)
    with pytest.raises(LeftOutError, match="room for 100 bytes only") as error:
        require_room(tmp_path / "file", 41, 60)
    assert error.value.cause == "room"


def test_a_folder_that_stays_is_accepted(tmp_path):
    folder = KnownFolder(tmp_path)
    (tmp_path / "new").touch()
    folder.require()


def test_a_folder_that_is_gone_is_refused(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    folder = KnownFolder(path)
    path.rmdir()
    with pytest.raises(LeftOutError, match="is gone"):
        folder.require()
    path.touch()
    with pytest.raises(LeftOutError, match="is gone"):
        folder.require()


def test_another_folder_in_its_place_is_refused(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    folder = KnownFolder(path)
    path.rename(tmp_path / "moved")
    path.mkdir()
    with pytest.raises(LeftOutError, match="replaced by another folder"):
        folder.require()


def test_each_epoch_has_its_bytes():
    bytes_left = ByteBudget(100)
    bytes_left.begin(0)
    bytes_left.spend(70)
    bytes_left.begin(0)
    assert bytes_left.remaining == 30
    bytes_left.begin(1)
    assert bytes_left.remaining == 100


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_time_is_saved_up_to_a_limit_and_spent():
    clock = Clock()
    time_left = TimeBudget(share=0.1, savings=1.0, now=clock)
    clock.time += 100
    assert time_left.remaining == 1.0
    with time_left.spending():
        clock.time += 0.5
    # What went by while writing counts as time too.
    assert time_left.remaining == pytest.approx(0.55)


def test_a_debt_is_paid_by_the_share_of_time():
    clock = Clock()
    time_left = TimeBudget(share=0.1, savings=1.0, now=clock)
    with time_left.spending():
        clock.time += 2.0
    assert time_left.remaining == pytest.approx(-0.8)
    with pytest.raises(LeftOutError, match="does not keep up"):
        time_left.require()
    clock.time += 8.1
    time_left.require()


def test_time_is_spent_also_when_writing_fails():
    clock = Clock()
    time_left = TimeBudget(share=0.1, savings=1.0, now=clock)

    @time_left.spending()
    def write():
        clock.time += 2.0
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert time_left.remaining < 0
