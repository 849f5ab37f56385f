"""A monitor that collects, without any Trainer: batches are passed by it, and it looks."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from vis_callbacks import EmbeddingMonitor, Report, Snapshot
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.probe import Batch
from vis_callbacks.report import Scalar, transfer

Pair = tuple[Tensor, Tensor]


def as_batch(batch: Pair) -> Batch:
    return Batch(inputs=batch[0], labels=batch[1], num_samples=len(batch[0]))


class Evaluated:
    """Lets an `EmbeddingMonitor` look at evaluations of a model."""

    def __init__(self, model: nn.Module, monitor: EmbeddingMonitor) -> None:
        self.model, self.monitor, self.engine = model, monitor, Engine(model)
        monitor._model = weakref.ref(model)
        self.subscriptions = [
            self.engine.subscribe(
                probe,
                guard=monitor.guard,
                batch_of=as_batch,
                forward=lambda model, inputs: model(inputs),
            )
            for probe in monitor.probes()
        ]

    def collect(self, batches: Iterable[Pair], num_passes: int = 1) -> None:
        """Evaluates the model on batches, as the session has it read."""
        self.engine.begin(self.subscriptions, live=False)
        for batch in batches:
            self.engine.start_batch(batch)
            self.engine.open_over_evaluation()
            for _ in range(num_passes):
                self.model(batch[0])
            if not self.engine.reads_live:
                self.engine.read_isolated(training=False)
            self.engine.end_capture()
            self.engine.count_batch()
        self.engine.check_names(self.subscriptions)

    def look(self, batches: Iterable[Pair], step: int = 0, **known: Any) -> Report:
        """Returns the report of an evaluation, on the host."""
        self.collect(batches)
        snapshot = Snapshot(
            **{
                "step": step,
                "trace": self.engine.trace,
                "values": {s.probe.name: s.values for s in self.subscriptions},
                **known,
            }
        )
        (report,) = transfer([self.monitor.observe(snapshot)])
        return report


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}
