from __future__ import annotations

import time
from pathlib import Path

from tests.runs.stand_ins import event_file, number, record

from vis_callbacks.runs import event_file as module
from vis_callbacks.runs.event_file import EventFile

ONE, TWO, THREE = (record(number("loss", 1.0), step=step) for step in (1, 2, 3))


def steps(file: EventFile) -> list[int]:
    return [event.step for _, event in file.events()]


def test_each_record_comes_once_and_half_a_record_waits(tmp_path: Path) -> None:
    file = EventFile(event_file(tmp_path, ONE, TWO[:20]))
    assert steps(file) == [1]
    assert file.is_at_end
    event_file(tmp_path, TWO[20:], THREE[:5])
    assert steps(file) == [2]
    event_file(tmp_path, THREE[5:])
    assert steps(file) == [3]
    assert file.problem == ""


def test_a_record_can_be_read_again_from_its_place(tmp_path: Path) -> None:
    file = EventFile(event_file(tmp_path, ONE, TWO))
    (_, (offset, _)) = file.events()
    assert file.event_at(offset).step == 2  # type: ignore[union-attr]
    file.path.write_bytes(b"")
    assert file.event_at(offset) is None


def test_behind_damage_nothing_is_read_and_it_is_said_where(tmp_path: Path) -> None:
    file = EventFile(event_file(tmp_path, ONE, b"\xff" * 100, TWO))
    assert steps(file) == [1]
    assert file.problem == (
        f"{file.path.name} is damaged at byte {len(ONE)}; nothing behind it is read."
    )
    assert steps(file) == []


def test_a_record_that_is_no_event_is_damage(tmp_path: Path) -> None:
    file = EventFile(event_file(tmp_path, ONE, TWO[:12] + b"\xff" * (len(TWO) - 12)))
    assert steps(file) == [1]
    assert "damaged" in file.problem


def test_a_record_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    long = record(number("l" * 5000, 1.0), step=2)
    monkeypatch.setattr(module, "MAX_RECORD", 1000)
    file = EventFile(event_file(tmp_path, ONE, long, THREE))
    assert steps(file) == [1, 3]
    assert file.num_too_long == 1


def test_reading_pauses_when_its_time_is_over(tmp_path: Path) -> None:
    file = EventFile(event_file(tmp_path, ONE, TWO))
    assert len(list(file.events(until=time.monotonic()))) == 1
    assert not file.is_at_end
    assert steps(file) == [2]
    assert file.is_at_end
