"""Reports, alerts and loggers for the tests of the writers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger, Logger
from tensorboardX import SummaryWriter

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.report import Histogram, Markdown, Picture, Report, Scalar

__all__ = ["CSVLogger", "DummyLogger", "TensorBoardLogger"]


class Recorder(Logger):
    """Keeps what it is given, as loggers of services do."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[dict[str, float], int | None]] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics, step=None):
        self.metrics.append((metrics, step))

    def log_hyperparams(self, *args, **kwargs):
        pass


class ImageRecorder(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.images = []

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, images, step, kwargs))


class MlflowClient:
    """Has ``log_image`` as mlflow 2.11 and later have it."""

    def __init__(self) -> None:
        self.calls = []

    def log_image(
        self,
        run_id,
        image,
        artifact_file=None,
        key=None,
        step=None,
        timestamp=None,
        synchronous=None,
    ):
        assert (artifact_file is None) == (key is not None)
        self.calls.append({"run_id": run_id, "image": image, "key": key, "step": step})


class MLFlowLogger(Recorder):
    run_id = "run 1"

    def __init__(self) -> None:
        super().__init__()
        self.experiment = MlflowClient()


class Experiment:
    """Has ``log_image`` as comet_ml has it."""

    def __init__(self) -> None:
        self.calls = []

    def log_image(
        self,
        image_data,
        name=None,
        overwrite=False,
        image_format="png",
        image_scale=1.0,
        image_shape=None,
        image_colormap=None,
        image_minmax=None,
        image_channels="last",
        copy_to_tmp=True,
        step=None,
        annotations=None,
        metadata=None,
    ):
        self.calls.append({"image": image_data, "name": name, "step": step})


class CometLogger(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.experiment = Experiment()


class BrokenLogger(Recorder):
    """Neither says where it writes nor gives its experiment."""

    @property
    def experiment(self):
        raise ConnectionError("no service")

    @property
    def log_dir(self):
        raise ConnectionError("no service")


class TensorboardXLogger(Recorder):
    """As users write them for tensorboardX."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = str(folder)
        self.experiment = SummaryWriter(self._folder)

    @property
    def log_dir(self) -> str:
        return self._folder

    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step)
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)

    def finalize(self, status):
        self.experiment.close()


def noise(size: int = 128, seed: int = 0) -> np.ndarray:
    """Pixels that no encoding makes small: 3 bytes each."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def picture(tag: str = "filters/conv1", size: int = 128) -> Picture:
    return Picture(tag=tag, draw=lambda seed: noise(size, int(seed)), arrays={"seed": np.array(1)})


def report(*items, step: int = 0) -> Report:
    return Report(step=step, items=items)


def full_report() -> Report:
    return report(
        Scalar(tag="sparsity/mean", value=0.5),
        Scalar(tag="sparsity/worst", value=0.75),
        picture(),
        Markdown(tag="layers/table", text="hello"),
        Histogram(
            tag="activations/relu",
            counts=np.array([1, 2, 3]),
            edges=np.array([0.0, 1.0, 2.0, 3.0]),
            total=11.5,
            total_of_squares=24.0,
        ),
    )


def alert(**changes) -> Alert:
    values = {
        "kind": "dead_units",
        "severity": "critical",
        "state": "firing",
        "step": 300,
        "epoch": 2,
        "stage": "fit",
        "message": "60 of 64 units never fire",
        "layers": ("net.2", "net.4"),
        "since_step": 250,
        "evidence": {"share": 0.9375},
        "sample_size": 160,
        "could_be": ("a schedule that falls",),
        "remedy": "restart with lr 0.01 instead of 0.1",
        "monitor": "ActivationMonitor",
    }
    return Alert(**values | changes)


class Listener(logging.Handler):
    """Keeps the lines that are logged, those for debugging apart."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def heard_lines() -> list[str]:
    """Returns the list that all lines logged from now on in this process are added to."""
    listener, logger = Listener(), logging.getLogger("vis_callbacks")
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    return listener.lines
