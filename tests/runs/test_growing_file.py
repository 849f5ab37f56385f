from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vis_callbacks.runs.growing_file import MAX_LINE, GrowingFile, open_plain


def test_each_line_comes_once_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    file = GrowingFile(path)
    assert list(file.lines()) == []
    path.write_bytes(b"one\ntw")
    assert list(file.lines()) == [b"one\n"]
    with path.open("ab") as more:
        more.write(b"o\nthree\n")
    assert list(file.lines()) == [b"two\n", b"three\n"]
    assert list(file.lines()) == []


def test_a_line_that_is_too_long_is_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n" + b"x" * (3 * MAX_LINE) + b"\ntwo\n" + b"y" * (2 * MAX_LINE))
    file = GrowingFile(path)
    assert list(file.lines()) == [b"one\n", b"two\n"]
    assert file.num_too_long == 2
    with path.open("ab") as more:
        more.write(b"y\nthree\n")
    assert list(file.lines()) == [b"three\n"]
    assert file.num_too_long == 2


def test_of_a_large_file_the_tail_is_read_from_a_whole_line_on(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%04d\n" % count for count in range(1000)))
    file = GrowingFile(path, tail=12)
    assert list(file.lines()) == [b"0998\n", b"0999\n"]
    assert file.num_skipped_bytes == 5000 - 12


def test_a_file_that_was_written_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n")
    file = GrowingFile(path)
    assert list(file.lines()) == [b"one\n", b"two\n"]
    path.write_bytes(b"new\n")
    assert list(file.lines()) == [b"new\n"]


def test_reading_pauses_when_its_time_is_over_and_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n")
    file = GrowingFile(path)
    assert list(file.lines(until=time.monotonic())) == []
    assert not file.is_at_end
    assert list(file.lines()) == [b"one\n"]
    assert file.is_at_end


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_never_opened(what: str, tmp_path: Path) -> None:
    path, secret = tmp_path / "alerts.jsonl", tmp_path / "secret"
    secret.write_bytes(b"secret\n")
    make = {
        "link": lambda: path.symlink_to(secret),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[what]()
    assert open_plain(path) is None
    assert list(GrowingFile(path).lines()) == []
