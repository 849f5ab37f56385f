"""Programs of other people's that look at tokens, signals, tables, graphs and atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.demos.lstm import LightningLSTM, SequenceSampler, SimpleLSTM
from pytorch_lightning.demos.transformer import LightningTransformer, Transformer
from tests.system.program import NEEDS_FORWARD_FN, NUM_CLASSES, Program, program, vectors
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

VOCABULARY = 30


def loader(*tensors: Tensor, batch_size: int = 16) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=True)


class Text(Dataset[Any]):
    """Windows of a text, and the text one token later."""

    def __init__(self, length: int = 12) -> None:
        self.tokens = (torch.arange(400) * 7 + torch.randint(0, 3, (400,))) % VOCABULARY
        self.length = length

    def __len__(self) -> int:
        return len(self.tokens) // self.length - 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start, end = index * self.length, (index + 1) * self.length
        return self.tokens[start:end], self.tokens[start + 1 : end + 1]


class DemoTransformer(LightningTransformer):
    def __init__(self) -> None:
        super().__init__(vocab_size=VOCABULARY)
        self.model = Transformer(VOCABULARY, ninp=16, nhid=16)

    def prepare_data(self) -> None:
        pass

    def train_dataloader(self) -> Any:
        return DataLoader(Text())


@program("Lightning's own demo: LightningTransformer", says=[NEEDS_FORWARD_FN])
def lightning_transformer() -> Program:
    return Program(module=DemoTransformer(), data=None, trainer={"limit_train_batches": 12})


class DemoLSTM(LightningLSTM):
    def __init__(self) -> None:
        super().__init__(vocab_size=VOCABULARY)
        self.model = SimpleLSTM(VOCABULARY, ninp=16, nhid=16, nlayers=2)

    def prepare_data(self) -> None:
        pass

    def train_dataloader(self) -> Any:
        text = Text()
        return DataLoader(text, batch_sampler=SequenceSampler(text, batch_size=8))


@program(
    "Lightning's own demo: LightningLSTM, its state kept from step to step", says=[NEEDS_FORWARD_FN]
)
def lightning_lstm() -> Program:
    return Program(module=DemoLSTM(), data=None)


class Stateful(pl.LightningModule):
    """Truncated back-propagation: the state stays in an attribute, moved on by `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 16, batch_first=True)
        self.out = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.state is not None:
            self.state = tuple(s.detach() for s in self.state)
        y, self.state = self.lstm(x, self.state)
        return self.out(y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("mse", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.state = None

    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters(), 1e-3)


@program("Stateful LSTM, moved on inside `forward`", says=[r"Expected hidden\[0\] size"])
def stateful_lstm() -> Program:
    waves = torch.randn(64, 10, 4).cumsum(1)
    return Program(module=Stateful(), data=loader(waves, waves.mean(2, keepdim=True)))


class PackedLSTM(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.mlp = nn.Sequential(nn.Linear(32, 24), nn.ReLU())
        self.tags = nn.Linear(24, 5)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embed(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        packed, _ = self.lstm(packed)
        packed = packed._replace(data=self.mlp(packed.data))
        padded, _ = pad_packed_sequence(packed, batch_first=True)
        return self.tags(padded)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, lengths, tags = batch
        scores = self(tokens, lengths)
        return F.cross_entropy(scores.transpose(1, 2), tags, ignore_index=-100)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


def padded(samples: Any) -> Any:
    tokens, tags = zip(*samples, strict=True)
    lengths = torch.tensor([len(t) for t in tokens])
    return pad_sequence(tokens, True), lengths, pad_sequence(tags, True, -100)


@program("Tagging with a packed LSTM, padding ignored", says=[NEEDS_FORWARD_FN])
def packed_lstm() -> Program:
    texts = [torch.randint(1, VOCABULARY, (4 + n % 5,)) for n in range(48)]
    samples = [(text, text % 5) for text in texts]
    return Program(module=PackedLSTM(), data=DataLoader(samples, 16, collate_fn=padded))


class ModelOutput(NamedTuple):
    loss: Tensor | None
    logits: Tensor


class TextClassifier(pl.LightningModule):
    """In the style of Hugging Face: `forward(**batch)` returns the loss and the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(16, NUM_CLASSES)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> ModelOutput:
        hidden = self.encoder(self.embeddings(input_ids), src_key_padding_mask=attention_mask == 0)
        logits = self.classifier(hidden[:, 0])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ModelOutput(loss, logits)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self(**batch)
        self.log("train_loss", outputs.loss)
        return outputs.loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(**batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 3e-3)


@program("Text classifier in the style of Hugging Face: forward(**batch)", says=[NEEDS_FORWARD_FN])
def forward_of_a_dictionary() -> Program:
    samples = []
    for n in range(64):
        ids = torch.randint(4, VOCABULARY, (10,))
        ids[0] = n % NUM_CLASSES
        mask = (torch.arange(10) < 5 + n % 6).long()
        samples.append({"input_ids": ids * mask, "attention_mask": mask, "labels": n % NUM_CLASSES})
    data = DataLoader(samples, 16, shuffle=True)
    return Program(module=TextClassifier(), data=data, val=data)


class Experts(pl.LightningModule):
    """Each token goes to the one expert that the router likes best."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.router = nn.Linear(16, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(3)
        )
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        flat = h.reshape(-1, h.shape[-1])
        weights, chosen = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows = torch.where(chosen == i)[0]
            out[rows] = expert(flat[rows]) * weights[rows, None]
        return self.head((h + out.view_as(h)).mean(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 3e-3)


@program("Mixture of experts on tokens, each token sent to one")
def mixture_of_experts() -> Program:
    labels = torch.arange(64) % NUM_CLASSES
    tokens = torch.randint(0, 7, (64, 8)) + 7 * labels[:, None]
    data = loader(tokens, labels)
    return Program(module=Experts(), data=data, val=data)


class Ecg(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(2, 8, 5, stride=2),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 16, 5, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.encoder(signal))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["signal"]), batch["rhythm"])

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("1-D signals with convolutions")
def signals() -> Program:
    time = torch.linspace(0, 6.28, 48)
    samples = [
        {
            "signal": torch.stack([(time * (1 + n % 4)).sin(), time.cos()])
            + torch.randn(2, 48) / 4,
            "rhythm": n % NUM_CLASSES,
        }
        for n in range(64)
    ]
    data = DataLoader(samples, 16, shuffle=True)
    return Program(module=Ecg(), data=data, val=data)


class Tabular(pl.LightningModule):
    """Categories and numbers in a dictionary; the step takes the target out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(5, 4) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.mlp = nn.Sequential(
            nn.Linear(18, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, NUM_CLASSES)
        )

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        categories = [e(x["cat"][:, i]) for i, e in enumerate(self.embeddings)]
        return self.mlp(torch.cat([*categories, self.norm(x["num"])], 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        target = batch.pop("target")
        batch.pop("row")
        return F.cross_entropy(self(batch), target)

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program(
    "Table of categories and numbers, the target popped out of the batch",
    says=["too many indices", "non-tuple sequence"],
)
def tabular() -> Program:
    numbers, labels = vectors(features=6)
    samples = [
        {"row": n, "cat": torch.randint(0, 5, (3,)), "num": numbers[n], "target": labels[n]}
        for n in range(64)
    ]
    data = DataLoader(samples, 16, shuffle=True)
    return Program(module=Tabular(), data=data, val=data)


class HousePrices(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.out = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x)).squeeze(-1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("rmse", F.mse_loss(self(x), y).sqrt())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "rmse"}}


@program("Regression of one number")
def regression() -> Program:
    x = torch.randn(64, 8)
    data = loader(x, x[:, :3].sum(1) + 0.1 * torch.randn(64))
    return Program(module=HousePrices(), data=data, val=data)


class Ratings(pl.LightningModule):
    """Matrix factorisation: two integer inputs and no nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(20, 8), nn.Embedding(30, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(-1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        user, item, rating = batch
        return F.mse_loss(self(user, item), rating)

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.SparseAdam(list(self.parameters()), 1e-2)
            if False
            else (torch.optim.Adagrad(self.parameters(), 1e-1))
        )


@program("Recommender (matrix factorisation) without a nonlinearity")
def recommender() -> Program:
    users, items = torch.randint(0, 20, (64,)), torch.randint(0, 30, (64,))
    return Program(module=Ratings(), data=loader(users, items, torch.rand(64) * 5))


@dataclass
class Graphs:
    """Several graphs as one: nodes behind one another, and which graph each belongs to."""

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    y: Tensor

    def to(self, device: Any) -> Graphs:
        return Graphs(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def num_graphs(self) -> int:
        return len(self.y)


def joined(graphs: Any) -> Graphs:
    sizes = [len(x) for x, _, _ in graphs]
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return Graphs(
        torch.cat([x for x, _, _ in graphs]),
        torch.cat([e + offsets[i] for i, (_, e, _) in enumerate(graphs)], 1),
        torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor(sizes)),
        torch.tensor([y for _, _, y in graphs]),
    )


class GraphNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.lin_1, self.lin_2 = nn.Linear(6, 16), nn.Linear(16, 16)
        self.readout = nn.Linear(16, NUM_CLASSES)

    def propagate(self, h: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        return h + torch.zeros_like(h).index_add(0, target, h[source])

    def forward(self, data: Graphs) -> Tensor:
        h = F.relu(self.lin_1(self.propagate(data.x, data.edge_index)))
        h = F.relu(self.lin_2(self.propagate(h, data.edge_index)))
        pooled = h.new_zeros(data.num_graphs, 16).index_add(0, data.batch, h)
        return self.readout(pooled)

    def training_step(self, data: Graphs, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(data), data.y)
        self.log("loss", loss, batch_size=data.num_graphs)
        return loss

    def validation_step(self, data: Graphs, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(data), data.y), batch_size=data.num_graphs)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Graphs, batched as one large graph")
def graphs() -> Program:
    centres = torch.randn(NUM_CLASSES, 6)
    samples = [
        (
            centres[n % NUM_CLASSES] + 0.5 * torch.randn(4 + n % 3, 6),
            torch.randint(0, 4 + n % 3, (2, 8)),
            n % NUM_CLASSES,
        )
        for n in range(48)
    ]
    data = DataLoader(samples, 12, shuffle=True, collate_fn=joined)
    return Program(module=GraphNet(), data=data, val=data)


class Potential(pl.LightningModule):
    """Energy of atoms, and the forces: its gradient, taken inside `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 24), nn.SiLU(), nn.Linear(24, 1))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            positions = positions.detach().requires_grad_(True)
            i, j = torch.triu_indices(5, 5, 1)
            distances = (positions[:, i] - positions[:, j]).norm(dim=-1)
            energy = self.net(distances).squeeze(-1)
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, -gradient

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        energy, forces = self(batch["R"])
        loss = F.mse_loss(energy, batch["E"]) + 10 * F.mse_loss(forces, batch["F"])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        energy, forces = self(batch["R"])
        self.log("mae", (energy - batch["E"]).abs().mean() + (forces - batch["F"]).abs().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Energy and forces: a gradient inside `forward`")
def energy_and_forces() -> Program:
    samples = []
    for _ in range(48):
        place = torch.randn(5, 3)
        samples.append({"R": place, "E": place.pow(2).sum() / 10, "F": -place / 5})
    data = DataLoader(samples, 12, shuffle=True)
    return Program(module=Potential(), data=data, val=data, trainer={"inference_mode": False})


class BurgersEquation(pl.LightningModule):
    """A physics-informed network: second derivatives by the inputs, in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh())
        self.last = nn.Linear(20, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(self.u(torch.cat([x, t], 1)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, t = (part.requires_grad_(True) for part in batch)
        u = self(x, t)
        u_t, u_x = torch.autograd.grad(u.sum(), (t, x), create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        residual = u_t + u * u_x - 0.01 * u_xx
        start = self(x, torch.zeros_like(t)) + torch.sin(torch.pi * x)
        return residual.square().mean() + start.square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


@program("Physics-informed network: derivatives by the inputs in the step", says=[NEEDS_FORWARD_FN])
def physics_informed() -> Program:
    return Program(
        module=BurgersEquation(), data=loader(torch.rand(64, 1) * 2 - 1, torch.rand(64, 1))
    )
