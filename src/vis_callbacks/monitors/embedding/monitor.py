"""`EmbeddingMonitor`: the space of the features as a map that stays put while it is learned."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Rule
from vis_callbacks.alerts.rules.representation import RepresentationCollapse
from vis_callbacks.engine.layers import named_modules
from vis_callbacks.engine.probe import Probe
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.embedding.maps import EmbeddingMaps, Layout, Method
from vis_callbacks.monitors.embedding.probing import ProbeCurves
from vis_callbacks.monitors.embedding.reductions import from_bytes
from vis_callbacks.monitors.embedding.samples import (
    MERGE,
    SampleCollector,
    Samples,
    own_name,
    samples_of,
    values_of_references,
)
from vis_callbacks.monitors.embedding.science import (
    Cloud,
    class_agreement,
    clouds_of,
    squared_distances,
)
from vis_callbacks.monitors.embedding.tsne import MAX_POINTS, Backend
from vis_callbacks.options import check_choice, check_flag, check_names
from vis_callbacks.report import Item, Report, RuleMetrics, Scalar, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.options import MonitorOptions

_NUM_SAMPLES = 500
_MAX_MAPS = 4  # each takes a t-SNE and three cards of TensorBoard
_NUM_PROBED = 8
_MAX_PROBED = 20


class EmbeddingMonitor(Monitor):
    """Shows the features of a few hundred samples as a map that is comparable over the epochs.

    A network turns inputs into features in which a linear classifier can tell the classes apart,
    and in which similar means similar in meaning rather than in pixels. The map shows these
    features. Numbers test both statements, and say how far the map itself can be trusted.

    The features are the inputs of the last linear layer. They are collected from validation
    batches without an extra forward pass (except for models whose fused encoder must be left
    alone). Each map starts from the previous one and is aligned to it, so that what moves on it
    has moved in the network. Without validation, the first training batch is kept and read by an
    extra pass.

    Distances between clusters, their sizes and their densities mean nothing on such a map. It is
    not evidence by itself, so no alert is based on it.

    Args:
        layers: Names of layers, or globs, whose outputs are mapped instead, 4 at most. Maps of
            channels are averaged over their positions, tokens likewise; of the patches of an
            image with one token more it is that token which counts.
        probe_layers: Layers that a linear probe is fitted to, 20 at most; [] for none. None
            takes 8 nonlinearities, evenly spaced in depth.
        perplexity: About how many neighbours a sample has on the map. 30 is usual; of few
            samples less is taken, and said.
        method: ``"tsne"``, or ``"pca"``: cheaper, and distances mean something, but classes
            hide each other.
        backend: ``"torch"`` runs an exact t-SNE where the features are, of at most 5,000 samples;
            ``"sklearn"`` runs scikit-learn's, which leaves pairs out, on the CPU. ``"auto"`` takes
            the faster one: scikit-learn's above 4,000 samples on a CPU, and above 5,000 everywhere.
        projector: Also write the data of TensorBoard's Embedding Projector, as often as
            thumbnails are drawn.
        **options: Those of every `Monitor`. ``num_samples`` is 500 here: the first ones of an
            evaluation, of its first loader.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; Alain and Bengio 2016,
        "Understanding intermediate layers using linear classifier probes".
    """

    stem: ClassVar[str] = "embedding"
    default_options: ClassVar[MonitorOptions] = {"num_samples": _NUM_SAMPLES}
    needs: ClassVar[frozenset[str]] = frozenset({"references"})
    # Without validation these are hundreds of whole inputs: 301 MB at 224 pixels.
    stores_references: ClassVar[bool] = False
    default_schedule: ClassVar[Schedule] = EveryNEpochs(1)
    picture_schedule: ClassVar[Schedule | None] = None
    first_drawing_seconds: ClassVar[float] = 1.0  # t-SNE, probes and thumbnails of 500 samples
    rules: ClassVar[Sequence[Rule]] = (RepresentationCollapse(),)
    tags: ClassVar[Sequence[str]] = (
        "trustworthiness/<layer>",
        "displacement/<layer>",
        "effective_rank/<layer>",
        "class_agreement/<layer>",
        "class_agreement/pixels",
        "probe_accuracy/<layer>",
        "embedding/map/<layer>",
        "embedding/thumbnails/<layer>",
        "embedding/strip/<layer>",
        "embedding/probes",
        "embedding/projector/<layer>",
    )

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        probe_layers: Sequence[str] | None = None,
        perplexity: float = 30.0,
        method: Method = "tsne",
        backend: Backend = "auto",
        projector: bool = False,
        **options: Unpack[MonitorOptions],
    ) -> None:
        check_names("layers", layers, allow_empty=False)
        check_names("probe_layers", probe_layers)
        _check_perplexity(perplexity)
        check_choice("method", method, ("tsne", "pca"))
        check_choice("backend", backend, ("auto", "torch", "sklearn"))
        check_flag("projector", projector)
        self.layers = layers
        self.probe_layers = probe_layers
        self.perplexity = perplexity
        self.method: Method = method
        self.backend: Backend = backend
        self.projector = projector
        super().__init__(**options)
        if method == "tsne" and backend == "torch" and self.options.num_samples > MAX_POINTS:
            raise ValueError(
                f"num_samples={self.options.num_samples:,} is too many for all pairs at once. "
                f'Use at most {MAX_POINTS:,}, or backend="auto".'
            )
        self._max_probed = _NUM_PROBED if probe_layers is None else _MAX_PROBED
        self._module_names: tuple[str, ...] = ()
        self._asked: tuple[Probe, ...] = ()
        self._reads_references = False
        self._begin_anew()

    def probes(self) -> Sequence[Probe]:
        """Asks for the last linear layer's input and output, and for the nonlinearities."""
        model = self._model() if self._model is not None else None
        modules = named_modules(model) if model is not None else []
        self._module_names = tuple(name for _, name in modules)
        self._asked = self._probes([name for m, name in modules if isinstance(m, nn.Linear)])
        trainer = getattr(model, "_trainer", None)
        self._reads_references = trainer is not None and not RunView(trainer).evaluates
        if self._reads_references:
            return ()
        # The sanity check may have left them here: hundreds of whole inputs.
        self.references = None
        return self._asked

    def observe(self, snapshot: Snapshot) -> Report:
        """Lays out the maps, measures what the features tell, and how well the maps show it."""
        samples = self._samples(snapshot)
        if samples is None:
            return Report(step=snapshot.step)
        if not self._are_classes(samples):  # nothing may be called wrong
            samples = replace(samples, predictions=np.full_like(samples.labels, -1))
        clouds = clouds_of(samples.features, samples.labels)
        num_classes = len(np.unique(samples.labels[samples.labels >= 0]))
        of_pixels = self._agreement_of_pixels(samples) if num_classes > 1 else math.nan
        items = list(_cloud_items(clouds, num_classes))
        if num_classes > 1 and samples.pixels is not None:
            items.append(Scalar(tag=tag("class_agreement", "pixels"), value=of_pixels))
        if snapshot.wants_pictures:
            items += self._maps.items(snapshot, samples, clouds, of_pixels)
        items += self._curves.items(snapshot, samples)
        return Report(step=snapshot.step, items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        """Returns the last maps, and what the pictures show of the past."""
        return {"maps": self._maps.state_dict(), "curves": self._curves.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the last maps; an empty state begins anew."""
        self._begin_anew()
        if state:
            self._maps.load_state_dict(state["maps"])
            self._curves.load_state_dict(state["curves"])

    def _begin_anew(self) -> None:
        layout = Layout(method=self.method, backend=self.backend, perplexity=self.perplexity)
        side = "input of" if self.layers is None else ""
        self._maps = EmbeddingMaps(layout, self.options, side=side, projector=self.projector)
        self._curves = ProbeCurves(writes_all=self.probe_layers is not None)
        self._of_pixels: tuple[str, float] | None = None

    # -- what is looked at

    def _probes(self, linear: Sequence[str]) -> tuple[Probe, ...]:
        maps_last, max_probed = self.layers is None, self._max_probed
        collector = SampleCollector(
            self.options.num_samples, linear, maps_last=maps_last, max_probed=max_probed
        )
        every = partial(Probe, merge=MERGE, occasion="evaluation")
        # A model may have linear layers that an evaluation passes by.
        of_linear = partial(every, layers=tuple(linear), must_match=False)
        reduce = partial(partial, collector.read)
        probes = [
            of_linear(name="features", reduce=reduce("features"), site="input")
            if self.layers is None
            else every(name="features", reduce=reduce("features"), layers=self.layers),
            of_linear(name="predictions", reduce=reduce("predictions")),
        ]
        if self.probe_layers is None or self.probe_layers:
            probes.append(every(name="probes", reduce=reduce("probes"), layers=self.probe_layers))
        return tuple(probes)

    def _samples(self, snapshot: Snapshot) -> Samples | None:
        """Returns what was collected, or what the references show; None: nothing yet."""
        values = snapshot.values
        if self._reads_references:
            values = values_of_references(snapshot, self._asked, self._module_names)
        else:
            self.references = None
        samples = samples_of(values, maps_last=self.layers is None, max_probed=self._max_probed)
        if samples is None or not len(samples.labels):
            return None
        if not samples.features:
            asked = "linear layer and no nonlinearity" if self.layers is None else "named layer"
            raise NothingToShow(
                f"no {asked} with one row per sample was found in the forward pass. Name the layer "
                'to map: EmbeddingMonitor(layers=["..."]); vis_callbacks.summary(model, inputs) '
                "lists them"
            )
        if self.layers is None:
            (name, features), *_ = samples.features.items()
            own = own_name(name, self._module_names)
            num_units = {own: samples.num_units.get(name, 0)}
            return replace(samples, features={own: features}, num_units=num_units)
        if len(samples.features) > _MAX_MAPS:
            raise ValueError(
                f"layers={self.layers!r} names {len(samples.features)} layers, and each takes a "
                f"t-SNE of its own. Name at most {_MAX_MAPS}."
            )
        return samples

    def _are_classes(self, samples: Samples) -> bool:
        """Whether the outputs are scores of classes, as far as these samples tell."""
        is_known = samples.predictions >= 0
        if samples.targets is not None or not is_known.any():
            return self.outputs.are_classes
        # Which output is the highest is all that is kept of the outputs, and all that counts.
        num_outputs = max(samples.num_outputs, 2)  # a single one is the score of class 1
        predictions, labels = samples.predictions[is_known], samples.labels[is_known]
        scores = F.one_hot(torch.from_numpy(predictions), num_outputs).float()
        return self.outputs.learn(scores, torch.from_numpy(labels))

    def _agreement_of_pixels(self, samples: Samples) -> float:
        """Returns how often the nearest in pixels are of one class, once for the same samples."""
        if samples.pixels is None or samples.ranges is None:
            return math.nan
        digest = hashlib.blake2b(samples.fingerprints.tobytes(), digest_size=16).hexdigest()
        if self._of_pixels is None or self._of_pixels[0] != digest:
            images = from_bytes(samples.pixels, samples.ranges)
            distances = squared_distances(images.flatten(1))
            self._of_pixels = digest, float(class_agreement(distances, samples.labels))
        return self._of_pixels[1]


def _cloud_items(clouds: Sequence[Cloud], num_classes: int) -> Iterator[Item]:
    """Yields the numbers of the clouds, for rules and for loggers."""
    yield RuleMetrics(
        metrics=(
            metric_names.EFFECTIVE_RANK,
            metric_names.FEATURE_SPREAD,
            metric_names.CLASS_AGREEMENT,
        ),
        layers=tuple(cloud.layer for cloud in clouds),
        values=(
            tuple(cloud.effective_rank for cloud in clouds),
            tuple(cloud.spread for cloud in clouds),
            tuple(cloud.agreement for cloud in clouds),
        ),
    )
    num_embedded = min(len(cloud.places) for cloud in clouds)
    yield RuleMetrics(
        metrics=(metric_names.NUM_EMBEDDED, metric_names.NUM_CLASSES),
        layers=("",),
        values=((float(num_embedded),), (float(num_classes),)),
    )
    for cloud in clouds:
        yield Scalar(tag=tag("effective_rank", cloud.layer), value=cloud.effective_rank)
        if num_classes > 1:
            yield Scalar(tag=tag("class_agreement", cloud.layer), value=cloud.agreement)


def _check_perplexity(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"perplexity={value!r} is a {type(value).__name__}. Use a number, say 30.")
    if not 1 < value < math.inf:
        raise ValueError(f"perplexity={value:g} is out of range. Use more than 1; 30 is usual.")
