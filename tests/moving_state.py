"""Networks whose ``forward`` changes state of some kind: a table for tests of extra passes."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import random
import weakref
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

NUM_FEATURES, NUM_CLASSES = 3 * 8 * 8, 4


class Moving(nn.Module):
    """A classifier whose scores depend on how often, and with what, it was called before."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, 8)
        self.last = nn.Linear(8, NUM_CLASSES)
        self.begin()

    def begin(self) -> None:
        """Makes the state."""

    def move(self, hidden: Tensor) -> Tensor | float:
        """Changes the state; returns what is added to the hidden layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x.flatten(1)))
        return self.last(hidden + self.move(hidden))


def mean_of(hidden: Tensor) -> float:
    return float(hidden.detach().double().mean())


class MomentumEncoder(Moving):
    """Written in place, as in lightly."""

    def begin(self) -> None:
        self.key = copy.deepcopy(self.first).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        for key, query in zip(self.key.parameters(), self.first.parameters(), strict=True):
            key.mul_(0.9).add_(query, alpha=0.1)

    def move(self, hidden: Tensor) -> Tensor:
        self.update()
        return self.key.bias


class MomentumEncoderByData(MomentumEncoder):
    """As in facebookresearch/moco: no version counter moves."""

    def update(self) -> None:
        for key, query in zip(self.key.parameters(), self.first.parameters(), strict=True):
            key.data = key.data * 0.9 + query.data * 0.1


class MomentumEncoderIntoData(MomentumEncoder):
    """As in BYOL's and DINO's code."""

    def update(self) -> None:
        for key, query in zip(self.key.parameters(), self.first.parameters(), strict=True):
            key.data.mul_(0.9).add_(0.1 * query.detach().data)


class MomentumEncoderByForeach(MomentumEncoder):
    """As in ``torch.optim.swa_utils`` and timm's ``ModelEmaV3``."""

    @torch.no_grad()
    def update(self) -> None:
        keys, queries = list(self.key.parameters()), list(self.first.parameters())
        torch._foreach_lerp_(keys, queries, weight=0.1)


class LateMomentum(MomentumEncoder):
    """Begins to move only after a while: the first extra pass sees nothing of it."""

    def begin(self) -> None:
        super().begin()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def move(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return super().move(hidden) if self.calls > 5 else self.key.bias


class HiddenTeacher(Moving):
    """A teacher in a list, so that it is no submodule, with statistics of its own."""

    def begin(self) -> None:
        self.teacher = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))]

    @torch.no_grad()
    def move(self, hidden: Tensor) -> Tensor:
        self.teacher[0][0].weight.lerp_(self.first.weight[:, :8], 0.1)
        return self.teacher[0](hidden.repeat(2, 1))[: len(hidden)]  # it trains on


class Buffers(Moving):
    """A queue with a pointer."""

    def begin(self) -> None:
        self.register_buffer("queue", torch.zeros(5, 8))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def move(self, hidden: Tensor) -> Tensor:
        place = int(self.pointer)
        self.queue[place] = hidden.mean(0)
        self.pointer[0] = (place + 1) % 5
        return self.queue.mean(0)


class PlainTensors(Moving):
    """Tensors that are no buffers, one rebound and one written to; one of them a view."""

    def begin(self) -> None:
        self.mean, self.sum = torch.zeros(8), torch.zeros(2, 8)
        self.part = self.sum[1]

    @torch.no_grad()
    def move(self, hidden: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * hidden.mean(0)
        self.part += hidden.mean(0)
        return self.mean + self.sum.sum(0) / 100


class MoCo(MomentumEncoder):
    """Compares with a queue and with a noisy view under the momentum encoder; no classes."""

    def begin(self) -> None:
        super().begin()
        self.register_buffer("queue", F.normalize(torch.randn(8, 16), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        query = F.normalize(F.relu(self.first(x.flatten(1))), dim=1)
        self.update()
        with torch.no_grad():
            key = F.normalize(self.key((x + 0.1 * torch.randn_like(x)).flatten(1)), dim=1)
        return torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue], 1) / 0.2


class Resized(Moving):
    """A tensor that grows in place, and one that takes another's memory."""

    def begin(self) -> None:
        self.rows, self.last_mean = torch.zeros(0), torch.zeros(8)

    @torch.no_grad()
    def move(self, hidden: Tensor) -> Tensor:
        size = len(self.rows)
        self.rows.resize_(size + 1)[size] = hidden.mean()
        self.last_mean.set_(hidden.mean(0) + self.last_mean)
        return self.rows.sum() / 100 + self.last_mean / 100


class Recurrent(Moving):
    """Carries its last hidden layer on, with the graph cut."""

    def begin(self) -> None:
        self.carried = {"h": [torch.zeros(8)]}

    def move(self, hidden: Tensor) -> Tensor:
        self.carried["h"][0] = (self.carried["h"][0] * 0.5 + hidden.mean(0)).detach()
        return self.carried["h"][0]


class Attributes(Moving):
    """Numbers, and a cache of results."""

    def begin(self) -> None:
        self.step, self.cache = 0, {}

    def move(self, hidden: Tensor) -> Tensor:
        self.step += 1
        self.cache[self.step % 3] = hidden.detach().mean(0)
        return sum(self.cache.values()) / self.step


class NestedContainers(Moving):
    """Lists in dicts in lists, a set, a byte string, an array."""

    def begin(self) -> None:
        self.state: list[Any] = [{"seen": [0.0], "deep": ({"n": 0},)}, set()]
        self.bytes, self.numbers = bytearray(4), array("d", [0.0])

    def move(self, hidden: Tensor) -> float:
        state, numbers = self.state
        state["seen"].append(mean_of(hidden))
        state["deep"][0]["n"] += 1
        numbers.add(round(mean_of(hidden), 4))
        self.bytes[0] = (self.bytes[0] + 1) % 256
        self.numbers[0] += 0.01
        return sum(state["seen"]) / state["deep"][0]["n"] + self.bytes[0] / 256 + self.numbers[0]


class Collections(Moving):
    """A deque that is full, a Counter, a defaultdict, an OrderedDict as a cache."""

    def begin(self) -> None:
        self.means = collections.deque([0.0] * 3, maxlen=3)
        self.counts: collections.Counter[int] = collections.Counter()
        self.groups: collections.defaultdict[int, list[float]] = collections.defaultdict(list)
        self.recent = collections.OrderedDict((i, 0.01 * i) for i in range(3))

    def move(self, hidden: Tensor) -> float:
        self.means.append(mean_of(hidden))
        self.counts.update([len(hidden), len(self.groups)])
        self.groups[len(self.groups) % 4].append(mean_of(hidden))
        oldest = next(iter(self.recent))
        self.recent.move_to_end(oldest)
        return sum(self.means) + self.counts.total() / 100 + self.recent[oldest]


@dataclass
class Progress:
    calls: int = 0
    means: list[float] = field(default_factory=list)


@dataclass(slots=True)
class SlottedProgress:
    calls: int = 0
    last: float = 0.0


class Objects(Moving):
    """State in objects, with and without slots, and in objects inside of containers."""

    def begin(self) -> None:
        self.progress, self.slotted = Progress(), SlottedProgress()
        self.more = {"inner": [SimpleNamespace(total=0.0)]}

    def move(self, hidden: Tensor) -> float:
        self.progress.calls += 1
        self.progress.means.append(mean_of(hidden))
        self.slotted.calls += 1
        self.slotted.last = mean_of(hidden) + self.slotted.last / 2
        self.more["inner"][0].total += 0.01
        return (
            sum(self.progress.means) / self.progress.calls
            + self.slotted.last / self.slotted.calls
            + self.more["inner"][0].total
        )


class Arrays(Moving):
    """NumPy arrays, written in place, one of objects."""

    def begin(self) -> None:
        self.sums, self.objects = np.zeros((2, 8)), np.array([[], None], dtype=object)

    def move(self, hidden: Tensor) -> Tensor:
        self.sums[1, ::2] += 0.01 * len(hidden)
        self.objects[0].append(1)
        return torch.from_numpy(self.sums.sum(0)).float() + len(self.objects[0]) / 100


class SharedMemory(Moving):
    """A tensor written through its NumPy array, which the module holds as well."""

    def begin(self) -> None:
        self.counts = torch.zeros(8)
        self.as_array = self.counts.numpy()

    def move(self, hidden: Tensor) -> Tensor:
        self.as_array += 0.01
        return self.counts.clone()


class OwnGenerators(Moving):
    """Random generators of its own: of PyTorch, NumPy and Python."""

    def begin(self) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.streams = {"numpy": np.random.default_rng(2), "old": np.random.RandomState(3)}
        self.python = random.Random(4)

    def move(self, hidden: Tensor) -> Tensor:
        keep = torch.rand(hidden.shape, generator=self.generator) > 0.2
        noise = sum(stream.normal() for stream in self.streams.values()) + self.python.gauss(0, 1)
        return torch.where(keep, 0.0, -hidden) + 0.01 * noise


class GlobalStreams(Moving):
    """Draws from the streams of the whole process."""

    def move(self, hidden: Tensor) -> float:
        noise = float(torch.rand(())) + np.random.random() + random.random()
        return 0.01 * noise


class ClassAttributes(Moving):
    """Counts the calls of all its instances."""

    calls: ClassVar[int] = 0
    means: ClassVar[list[float]] = []

    def begin(self) -> None:
        type(self).calls, type(self).means = 0, []

    def move(self, hidden: Tensor) -> float:
        type(self).calls += 1
        self.means.append(mean_of(hidden))
        return sum(self.means) / self.calls


class Closures(Moving):
    """Calls a function that counts in a variable around it, and in a default."""

    def begin(self) -> None:
        count, means = 0, []

        def counted(value: float, seen: list[int] = []) -> float:  # noqa: B006
            nonlocal count
            count += 1
            means.append(value)
            seen.append(count)
            return sum(means) / count + len(seen) / 100

        self.counted = counted

    def move(self, hidden: Tensor) -> float:
        return self.counted(mean_of(hidden))


class Unfriendly(Moving):
    """State in an object that refuses whatever is asked of it."""

    class Refusing:
        total = 0.0

        def _refuse(self, *args: Any) -> Any:
            raise RuntimeError("nobody asks me")

        __eq__ = __hash__ = __len__ = __bool__ = __iter__ = __getattr__ = __repr__ = _refuse

    def begin(self) -> None:
        self.refusing = self.Refusing()
        self.refusing.me = [self.refusing]

    def __getattr__(self, name: str) -> Any:
        if name == "lost":
            raise RuntimeError("this attribute cannot be read")
        return super().__getattr__(name)

    def move(self, hidden: Tensor) -> float:
        self.refusing.total = self.refusing.total / 2 + mean_of(hidden)
        return self.refusing.total


class InnerOptimizer(Moving):
    """Learns in its forward, by an optimizer of its own, weights that are no parameters."""

    def begin(self) -> None:
        self.weights = [torch.zeros(8, requires_grad=True)]
        self.optimizer = torch.optim.Adam(self.weights, lr=0.1)

    def move(self, hidden: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = (self.weights[0] - hidden.detach().mean(0)).square().sum()
            (self.weights[0].grad,) = torch.autograd.grad(loss, self.weights)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.weights[0].detach().clone()


class ThroughReferences(Moving):
    """State that is held weakly, and by a bound method and a partial function."""

    def begin(self) -> None:
        self.add = Progress().means.append
        self.total = functools.partial(dict.get, {"total": 0.0}, "total")
        self.owner = Progress()
        self.reference = weakref.ref(self.owner)

    def move(self, hidden: Tensor) -> float:
        self.reference().calls += 1
        self.total.args[0]["total"] = self.total() + mean_of(hidden)
        self.add(self.total())
        return self.total() / self.owner.calls + len(self.add.__self__) / 100


class ReplacedParameter(Moving):
    """Sets parameters and children anew."""

    def begin(self) -> None:
        self.scale = nn.Parameter(torch.zeros(8), requires_grad=False)
        self.norm = nn.BatchNorm1d(8)

    def move(self, hidden: Tensor) -> Tensor:
        mean = hidden.detach().mean(0)
        self.scale = nn.Parameter(self.scale.detach() * 0.5 + mean, requires_grad=False)
        self.norm = copy.deepcopy(self.norm)
        return self.norm(hidden) * self.scale


class OldSpectralNorm(Moving):
    """Power iteration at each call in training."""

    def begin(self) -> None:
        self.first = nn.utils.spectral_norm(self.first)
        self.extra = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def move(self, hidden: Tensor) -> Tensor:
        return self.extra(hidden)


class Metrics(Moving):
    """A torchmetrics metric that is updated in the forward pass."""

    def begin(self) -> None:
        import torchmetrics

        self.metric = torchmetrics.MeanMetric()
        self.collected = torchmetrics.CatMetric()

    def move(self, hidden: Tensor) -> float:
        self.metric.update(hidden.detach().mean())
        self.collected.update(hidden.detach().mean())
        return float(self.metric.compute()) + len(self.collected.value) / 100


class WritesToItsInput(Moving):
    """Normalises the batch itself."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            x.mul_(0.9)
        return super().forward(x)

    def move(self, hidden: Tensor) -> float:
        return 0.0


def _noise() -> Iterator[float]:
    total = 0.0
    while True:
        total = (total + 0.37) % 1
        yield total


class Generator(Moving):
    """Draws from a generator function, which nobody can wind back."""

    def begin(self) -> None:
        self.noise = _noise()

    def move(self, hidden: Tensor) -> float:
        return next(self.noise)


class Loader(Moving):
    """Takes batches of a loader of its own."""

    def begin(self) -> None:
        self.batches = iter(DataLoader([torch.full((8,), 0.1 * i) for i in range(200)]))

    def move(self, hidden: Tensor) -> Tensor:
        return next(self.batches)[0]


class Iterators(Moving):
    """Walks along an iterator."""

    def begin(self) -> None:
        self.numbers = {"all": itertools.cycle([0.1, 0.5, 0.9])}

    def move(self, hidden: Tensor) -> float:
        return next(self.numbers["all"])


class UnseenMemory(Moving):
    """Writes to a parameter by NumPy, out of PyTorch's sight."""

    def begin(self) -> None:
        self.offset = nn.Parameter(torch.zeros(8), requires_grad=False)

    def move(self, hidden: Tensor) -> Tensor:
        self.offset.numpy()[:] += 0.01
        return self.offset


PUT_BACK: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(MomentumEncoder, MomentumEncoderByData, MomentumEncoderIntoData),
        *(MomentumEncoderByForeach, LateMomentum, MoCo, HiddenTeacher, Buffers, PlainTensors),
        *(
            Resized,
            Recurrent,
            Attributes,
            NestedContainers,
            Collections,
            Objects,
            Arrays,
            SharedMemory,
        ),
        *(OwnGenerators, GlobalStreams, ClassAttributes, Closures, Unfriendly, ReplacedParameter),
        *(InnerOptimizer, ThroughReferences, OldSpectralNorm, Metrics, WritesToItsInput),
    )
}
# What can only be found out, and where: the first pass has moved it.
DETECTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Generator": (Generator, "noise"),
    "Loader": (Loader, "batches"),
    "Iterators": (Iterators, "numbers['all']"),
    "UnseenMemory": (UnseenMemory, "offset"),
}
