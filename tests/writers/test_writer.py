import numpy as np
import pytest
from tests.alerts.reading import read_alerts
from tests.writers import reading
from tests.writers.stand_ins import (
    BrokenLogger,
    CSVLogger,
    DummyLogger,
    ImageRecorder,
    Recorder,
    TensorBoardLogger,
    alert,
    full_report,
    noise,
    picture,
    report,
)

from vis_callbacks.report import Embedding, Histogram, Markdown, Picture, RuleMetrics, Scalar
from vis_callbacks.writers.budget import TimeBudget
from vis_callbacks.writers.writer import Writer, alert_folder

pytestmark = pytest.mark.contained


@pytest.fixture
def writer_of(tmp_path):
    def make(*loggers, **options):
        defaults = {
            "loggers": loggers,
            "alert_folder": tmp_path / "alerts",
            "is_global_zero": True,
            "save_images": False,
        }
        return Writer(**defaults | options)

    return make


def test_every_kind_of_item_reaches_tensorboard(any_tensorboard, writer_of, tmp_path, said):
    writer = writer_of(any_tensorboard)
    writer.write(full_report(), log_step=7, epoch=0)
    writer.flush()
    run = tmp_path / "run"
    assert reading.scalars(run, "sparsity/mean") == {7: 0.5}
    assert reading.scalars(run, "sparsity/worst") == {7: 0.75}
    np.testing.assert_array_equal(reading.images(run, "filters/conv1")[7], noise(seed=1))
    assert reading.texts(run, "layers/table") == {7: "hello"}
    histogram = reading.read(run).Histograms("activations/relu")[0]
    assert histogram.step == 7
    value = histogram.histogram_value
    assert (value.min, value.max, value.num, value.sum, value.sum_squares) == (0, 3, 6, 11.5, 24)
    assert list(value.bucket_limit) == [1, 2, 3]
    assert list(value.bucket) == [1, 2, 3]
    assert said == []
    assert not writer.left_out
    assert not writer.failures


def test_the_users_own_scalars_between_ours_all_survive(any_tensorboard, writer_of, tmp_path):
    # With time to spare: on a busy machine our own would be left out.
    writer = writer_of(any_tensorboard, time_budget=TimeBudget(share=1.0, savings=600.0))
    for step in range(30):
        any_tensorboard.log_metrics({"loss": step / 2}, step)
        writer.write(full_report(), log_step=step, epoch=step // 10)
        any_tensorboard.log_metrics({"accuracy": step / 4}, step)
    writer.flush()
    any_tensorboard.experiment.flush()
    run = tmp_path / "run"
    assert len(list(run.glob("events*"))) == 1
    assert reading.scalars(run, "loss") == {step: step / 2 for step in range(30)}
    assert reading.scalars(run, "accuracy") == {step: step / 4 for step in range(30)}
    assert len(reading.scalars(run, "sparsity/mean")) == 30


def test_the_loggers_prefix_and_the_stage_stand_before_every_tag(writer_of, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run", version="", prefix="mine")
    writer = writer_of(logger)
    writer.write(full_report(), log_step=0, epoch=0, prefix="validate")
    writer.write_alerts([alert()], 1, log_step=0, epoch=0, prefix="validate/")
    logger.finalize("success")
    tags = reading.read(tmp_path / "run").Tags()
    assert set(tags["scalars"]) == {
        "mine-validate/sparsity/mean",
        "mine-validate/sparsity/worst",
        "mine-validate/alerts/active",
    }
    assert tags["images"] == ["mine-validate/filters/conv1"]
    assert tags["histograms"] == ["mine-validate/activations/relu"]
    assert set(tags["tensors"]) == {
        "mine-validate/layers/table/text_summary",
        "mine-validate/alerts/text/text_summary",
    }


def test_the_numbers_of_a_report_reach_each_logger_in_one_call(writer_of):
    loggers = Recorder(), Recorder()
    writer = writer_of(*loggers)
    numbers = [Scalar(tag="a", value=1), Scalar(tag="b", value=np.array([2.5], np.float32))]
    writer.write(report(*numbers), log_step=4, epoch=0)
    for logger in loggers:
        assert logger.metrics == [({"a": 1.0, "b": 2.5}, 4)]
        assert all(type(value) is float for value in logger.metrics[0][0].values())


def test_readings_are_written_to_no_logger(writer_of):
    logger = Recorder()
    writer_of(logger).write(
        report(RuleMetrics(metrics=("m",), layers=("a",), values=(1.0,))), log_step=0, epoch=0
    )
    assert logger.metrics == []


def test_csv_gets_the_numbers_and_one_warning_says_what_takes_pictures(writer_of, tmp_path, said):
    logger = CSVLogger(tmp_path, name="csv", version="")
    writer = writer_of(logger)
    for step in range(3):
        writer.write(full_report(), log_step=step, epoch=0)
    logger.save()
    lines = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    assert set(lines[0].split(",")) == {"step", "sparsity/mean", "sparsity/worst"}
    assert len(lines) == 4
    assert len(said) == 1
    assert "CSVLogger" in said[0]
    assert "Trainer(logger=TensorBoardLogger(...))" in said[0]
    assert "save_images=True" in said[0]


def test_without_a_logger_the_alerts_are_written_and_pictures_are_if_asked(
    writer_of, tmp_path, said
):
    writer = writer_of(save_images=True)
    writer.write(full_report(), log_step=12, epoch=0)
    writer.write_alerts([alert()], 1, log_step=12, epoch=0)
    path = tmp_path / "alerts" / "images" / "filters" / "conv1" / "step_00000012.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.kind for entry in read_alerts(tmp_path / "alerts" / "alerts.jsonl").alerts] == [
        "dead_units"
    ]
    assert said == []


def test_png_files_are_not_written_where_a_logger_takes_pictures(writer_of, tensorboard, tmp_path):
    writer_of(tensorboard, save_images=True).write(full_report(), log_step=0, epoch=0)
    assert not (tmp_path / "alerts").exists()


def test_a_logger_with_log_image_gets_the_pictures(writer_of, said):
    logger = ImageRecorder()
    image = Picture(tag="filters/conv1", draw=noise, caption="step 3")
    writer_of(logger).write(report(image, picture("b")), log_step=3, epoch=0)
    (key, (pixels,), step, options), (_, _, _, other_options) = logger.images
    assert (key, step, options, other_options) == (
        "filters/conv1",
        3,
        {"caption": ["step 3"]},
        {},
    )
    np.testing.assert_array_equal(pixels, noise())
    assert said == []


def test_several_loggers_all_get_their_share(writer_of, tensorboard, tmp_path):
    csv, images = CSVLogger(tmp_path, name="csv", version=""), ImageRecorder()
    writer = writer_of(BrokenLogger(), csv, tensorboard, images)
    writer.write(full_report(), log_step=0, epoch=0)
    csv.save()
    assert (tmp_path / "csv" / "metrics.csv").exists()
    assert len(images.images) == 1
    assert set(reading.images(tmp_path / "run", "filters/conv1")) == {0}


def test_a_logger_whose_experiment_raises_still_gets_the_numbers_and_is_named_once(writer_of, said):
    logger = BrokenLogger()
    writer = writer_of(logger)
    for step in range(10):
        writer.write(full_report(), log_step=step, epoch=0)
    assert len(logger.metrics) == 10
    assert sum("ConnectionError: no service" in text for text in said) == 1
    assert len(said) == 2  # the second one says that it rests


def test_a_dummy_logger_is_not_taken_for_one_with_log_image(writer_of, said):
    writer = writer_of(DummyLogger(), alert_folder=None)
    writer.write(full_report(), log_step=0, epoch=0)
    writer.write_alerts([alert()], 1, log_step=0, epoch=0)
    assert not writer.failures
    assert said == []


def test_a_rank_that_is_not_zero_writes_nothing(writer_of, tmp_path, said):
    logger = Recorder()
    writer = writer_of(logger, is_global_zero=False, save_images=True)
    writer.write(full_report(), log_step=0, epoch=0)
    writer.write_alerts([alert()], 1, log_step=0, epoch=0)
    writer.flush()
    assert logger.metrics == []
    assert list(tmp_path.iterdir()) == []
    assert said == []


@pytest.mark.parametrize("stage", ["log_metrics", "experiment"])
def test_a_logger_that_always_fails_rests_and_is_tried_once_an_epoch(
    writer_of, said, monkeypatch, stage
):
    calls = []

    def fail(*args, **kwargs):
        calls.append(1)
        raise OSError("full")

    logger = Recorder()
    if stage == "experiment":
        monkeypatch.setattr(Recorder, "experiment", property(fail), raising=False)
    else:
        monkeypatch.setattr(logger, "log_metrics", fail)
    writer = writer_of(logger)
    for step in range(20):
        writer.write(report(Scalar(tag="a", value=1.0)), log_step=step, epoch=step // 10)
    assert len(calls) == 4
    assert len(said) == 2


def test_what_cannot_be_drawn_is_left_out_alone(writer_of, tensorboard, tmp_path, said):
    def fail():
        raise ZeroDivisionError("nothing to draw")

    broken = [
        Picture(tag="broken/drawing", draw=fail),
        Picture(tag="broken/shape", draw=lambda: np.zeros((3, 3), np.uint8)),
        Picture(tag="broken/empty", draw=lambda: np.zeros((0, 3, 3), np.uint8)),
        Picture(tag="broken/nan", draw=lambda: np.full((3, 3, 3), np.nan)),
        Histogram(tag="broken/edges", counts=np.ones(2), edges=np.array([0.0, np.nan, 1.0])),
        Histogram(tag="broken/counts", counts=np.array([np.nan]), edges=np.arange(2.0)),
        Histogram(tag="broken/falling", counts=np.ones(2), edges=np.array([0.0, 2.0, 1.0])),
        Histogram(tag="broken/none", counts=np.ones(0), edges=np.zeros(1)),
        Histogram(tag="broken/lengths", counts=np.ones(2), edges=np.arange(2.0)),
        Scalar(tag="broken/size", value=np.ones(2)),
        Scalar(tag="broken/huge", value=10**400),
        Scalar(tag="broken/text", value="many"),
    ]
    writer = writer_of(tensorboard)
    writer.write(report(*broken, *full_report().items), log_step=0, epoch=0)
    assert set(reading.images(tmp_path / "run", "filters/conv1")) == {0}
    assert reading.scalars(tmp_path / "run", "sparsity/mean") == {0: 0.5}
    tags = reading.read(tmp_path / "run").Tags()
    assert not [
        tag for kind in tags.values() if isinstance(kind, list) for tag in kind if "broken" in tag
    ]
    assert writer.failures.total() == len(broken)
    assert all(sum(item.tag in text for text in said) == 1 for item in broken)


def test_numbers_that_are_not_finite_and_odd_texts_are_written(
    writer_of, any_tensorboard, tmp_path
):
    items = [
        Scalar(tag="nan", value=float("nan")),
        Scalar(tag="inf", value=np.array(np.inf)),
        Scalar(tag="huge", value=3e38),
        Markdown(tag="text", text="\ud800 \x00 \x1b[2J <img>"),
        Histogram(
            tag="sums",
            counts=np.ones(1),
            edges=np.arange(2.0),
            total=np.nan,
            total_of_squares=np.inf,
        ),
        Histogram(tag="zeros", counts=np.zeros(2), edges=np.arange(3.0)),
    ]
    writer = writer_of(any_tensorboard)
    writer.write(report(*items), log_step=0, epoch=0)
    writer.flush()
    run = tmp_path / "run"
    assert np.isnan(reading.scalars(run, "nan")[0])
    assert reading.scalars(run, "inf")[0] == np.inf
    assert reading.texts(run, "text")[0].startswith("? \x00")
    assert set(reading.read(run).Tags()["histograms"]) == {"sums", "zeros"}
    assert not writer.failures


def test_the_largest_picture_is_dropped_when_an_epoch_has_no_bytes_left(
    writer_of, tensorboard, tmp_path, said
):
    writer = writer_of(tensorboard, max_bytes_per_epoch=60_000)  # noise: 3 bytes a pixel
    pictures = picture("small", 70), picture("large", 140), picture("middle", 80)
    for epoch in range(2):
        for step in range(3):
            writer.write(report(*pictures), log_step=3 * epoch + step, epoch=epoch)
    run = tmp_path / "run"
    assert set(reading.images(run, "small")) == {0, 1, 3, 4}
    assert set(reading.images(run, "middle")) == {0, 3}
    assert reading.images(run, "large") == {}
    assert writer.left_out == {"bytes": 12}
    assert len(said) == 1
    assert '"large"' in said[0]
    assert "60,000" in said[0]


def test_an_embedding_goes_to_the_projector(writer_of, any_tensorboard, tmp_path, said):
    embedding = Embedding(
        tag="features",
        features=np.arange(8.0).reshape(4, 2),
        metadata=("cat", "dog\tor\nwolf", "<b>", "é"),
        thumbnails=np.zeros((4, 3, 8, 8), np.float32),
    )
    writer_of(any_tensorboard).write(report(embedding), log_step=5, epoch=0)
    (table,) = (tmp_path / "run").rglob("metadata.tsv")
    assert table.read_text().splitlines() == ["cat", "dog or wolf", "<b>", "é"]
    (values,) = (tmp_path / "run").rglob("tensors.tsv")
    assert len(values.read_text().splitlines()) == 4
    assert said == []


def test_alerts_reach_the_file_the_text_and_the_number(writer_of, any_tensorboard, tmp_path):
    writer = writer_of(any_tensorboard)
    first, second = alert(), alert(kind="saturated", severity="warning", step=400)
    writer.write_alerts([first], 1, log_step=300, epoch=2)
    writer.write_alerts([second], 2, log_step=400, epoch=2)
    writer.write_alerts([alert(state="resolved", step=500)], 1, log_step=500, epoch=3)
    run = tmp_path / "run"
    assert reading.scalars(run, "alerts/active") == {300: 1, 400: 2, 500: 1}
    texts = reading.texts(run, "alerts/text")
    assert [text.count("####") for text in texts.values()] == [1, 2, 3]
    log = read_alerts(tmp_path / "alerts" / "alerts.jsonl")
    assert [(entry.kind, entry.state) for entry in log.alerts] == [
        ("dead_units", "firing"),
        ("saturated", "firing"),
        ("dead_units", "resolved"),
    ]
    assert all(entry.time is not None for entry in log.alerts)


def test_a_healthy_run_is_told_to_have_been_looked_at(writer_of, tensorboard, tmp_path):
    writer = writer_of(tensorboard)
    for step in (0, 5, 10, 15):
        writer.story.note_watched([step], ())
        writer.tell_that_all_is_well()
    writer.flush()
    writer.flush()
    texts = reading.texts(tmp_path / "run", "alerts/text")
    assert list(texts) == [0, 5, 15]
    assert texts[15] == "No alert. Looked at 4 steps so far, from step 0 to 15."


def test_a_remark_goes_to_the_file_only(writer_of, tensorboard, tmp_path):
    recorder = Recorder()
    writer = writer_of(tensorboard, recorder)
    writer.write_alerts([alert(severity="info")], 0, log_step=0, epoch=0)
    assert len(read_alerts(tmp_path / "alerts" / "alerts.jsonl").alerts) == 1
    assert recorder.metrics == []
    writer.write_alerts([alert(kind="saturated")], 1, log_step=1, epoch=0)
    assert "dead" not in reading.texts(tmp_path / "run", "alerts/text")[1]


def test_nothing_is_written_before_the_first_alert(writer_of, tmp_path):
    writer = writer_of(Recorder())
    writer.write(full_report(), log_step=0, epoch=0)
    writer.write_alerts([], 0, log_step=0, epoch=0)
    writer.flush()
    assert not (tmp_path / "alerts").exists()


def test_the_alert_folder_of_a_tensorboard_logger_is_its_log_dir(tensorboard, tmp_path):
    csv = CSVLogger(tmp_path, name="csv", version="")
    assert alert_folder([csv, tensorboard], tmp_path) == tmp_path / "run"
