import pytest
import tensorboardX
import torch.utils.tensorboard
from tests.writers import reading

from vis_callbacks.writers.channel import LeftOutError
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
