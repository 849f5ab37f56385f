import threading

import pytest
import tensorboardX
import torch.utils.tensorboard
from tests.writers import reading

from vis_callbacks.guard import LeftOutError
from vis_callbacks.writers import shared_writer
from vis_callbacks.writers.shared_writer import SharedWriter, package_of, summary_module


class Subclass(torch.utils.tensorboard.SummaryWriter):
    pass


class SummaryWriter:
    """Only named so."""


@pytest.fixture(params=["torch", "tensorboardX"])
def shared(request, tmp_path):
    module = torch.utils.tensorboard if request.param == "torch" else tensorboardX
    writer = module.SummaryWriter(str(tmp_path / "run"))
    yield SharedWriter(writer, request.param)
    writer.close()


def add(shared, step=0, **options):
    summary = summary_module(shared.package).text("text", "x" * 1000)
    shared.add(summary, step=step, **{"reserve": 0, "patience": 5.0} | options)


def test_a_summary_writer_is_known_by_its_class(tmp_path):
    for module, package in [(torch.utils.tensorboard, "torch"), (tensorboardX, "tensorboardX")]:
        writer = module.SummaryWriter(str(tmp_path / package))
        assert package_of(writer) == package
        writer.close()
    writer = Subclass(str(tmp_path / "sub"))
    assert package_of(writer) == "torch"
    writer.close()
    assert package_of(SummaryWriter()) is None
    assert package_of(None) is None


def test_a_record_is_in_the_file_when_add_returns(shared, tmp_path):
    for step in range(20):
        shared.writer.add_scalar("loss", step, step)
        add(shared, step)
        assert len(reading.texts(tmp_path / "run", "text")) == step + 1
        assert len(reading.scalars(tmp_path / "run", "loss")) == step + 1


def test_the_path_is_that_of_the_event_file(shared, tmp_path):
    assert list((tmp_path / "run").glob("events*")) == [shared.path]


def test_nothing_is_handed_over_without_room(shared, tmp_path):
    shared.flush(1.0)
    size = shared.path.stat().st_size
    with pytest.raises(LeftOutError, match="has room for"):
        add(shared, reserve=1 << 60)
    shared.flush(1.0)
    assert shared.path.stat().st_size == size


def test_a_living_thread_has_no_death(shared):
    assert shared.death is None
    assert shared.wait(1.0)


def test_names_that_a_later_version_lacks_count_as_healthy(tmp_path):
    class Opaque:
        def get_logdir(self):
            return str(tmp_path)

    class Writer:
        def _get_file_writer(self):
            return Opaque()

    shared = SharedWriter(Writer(), "torch")
    assert shared.death is None
    assert shared.path is None
    shared.require_ready(size=1, reserve=1, patience=0.0)


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """A writer whose thread ends in the middle of each record of more than 500 bytes."""
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    writer = torch.utils.tensorboard.SummaryWriter(str(tmp_path / "run"))
    file = writer._get_file_writer().event_writer._general_file_writer
    write = file.write

    def half(data):
        write(data if len(data) < 500 else data[: len(data) // 2])
        if len(data) >= 500:
            raise OSError("no space left")

    monkeypatch.setattr(file, "write", half)
    yield SharedWriter(writer, "torch")
    writer.close()


def test_a_record_that_is_cut_off_gives_its_room_back_and_takes_nothing_else(
    dying, tmp_path, monkeypatch
):
    first = dying.path

    def size_of(path):
        """Another thread of the user's logs just then."""
        size = path.stat().st_size
        if not logged:
            logged.append(size)
            dying.writer.add_scalar("loss", 2.0, 2)
            dying.wait(5.0)
        return size

    dying.writer.add_scalar("loss", 1.0, 1)
    logged = []
    monkeypatch.setattr(shared_writer, "_size_of", size_of)
    with pytest.raises(LeftOutError, match="goes on in a new event file"):
        add(dying)
    assert first.stat().st_size > logged[0]
    assert reading.num_torn_bytes(first) == 0
    dying.writer.add_scalar("loss", 3.0, 3)
    dying.writer.flush()
    assert dying.path != first
    assert reading.scalars(tmp_path / "run", "loss") == {1: 1.0, 2: 2.0, 3: 3.0}


@pytest.mark.parametrize("num_torn", [0, 1, 7, 8, 12, 40])
def test_every_whole_record_stays_when_a_half_one_is_cut(num_torn, tmp_path):
    whole = b"".join(
        len(data).to_bytes(8, "little") + b"crc1" + data + b"crc2"
        for data in (b"one", b"", b"3" * 99)
    )
    path = tmp_path / "events"
    torn = ((90).to_bytes(8, "little") + b"crc1" + b"4" * 90)[:num_torn]
    for start in (0, 16 + 3, len(whole)):
        path.write_bytes(whole + torn)
        shared_writer._cut_half_record(path, start)
        assert path.read_bytes() == whole
