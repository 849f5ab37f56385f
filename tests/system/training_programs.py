"""Programs of other people's that generate, or train in an unusual way."""

from __future__ import annotations

import copy
import itertools
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelPruning
from pytorch_lightning.utilities import CombinedLoader
from tests.system.image_programs import small_cnn
from tests.system.program import NEEDS_FORWARD_FN, NUM_CLASSES, Program, pictures, program, vectors
from torch import Tensor, nn
from torch.ao import quantization
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


def loader(*tensors: Tensor, batch_size: int = 16) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=True)


class Gan(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Tanh())
        self.discriminator = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z).view(-1, 1, 8, 8)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real, _ = batch
        opt_g, opt_d = self.optimizers()
        z = torch.randn(len(real), 8)
        self.toggle_optimizer(opt_g)
        fooled = self.discriminator(self(z))
        g_loss = F.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled))
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.untoggle_optimizer(opt_g)
        self.toggle_optimizer(opt_d)
        on_real, on_fake = self.discriminator(real), self.discriminator(self(z).detach())
        d_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss})

    def configure_optimizers(self) -> Any:
        parts = (self.generator, self.discriminator)
        return [torch.optim.Adam(part.parameters(), 2e-4, betas=(0.5, 0.9)) for part in parts]


@program(
    "GAN with two optimizers and manual optimization; `forward` takes noise",
    says=[NEEDS_FORWARD_FN],
)
def gan() -> Program:
    images, labels = pictures(channels=1, size=8)
    return Program(module=Gan(), data=loader(images.tanh(), labels))


class Vae(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
        self.mu, self.logvar = nn.Linear(32, 4), nn.Linear(32, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        return self.decoder(z).view_as(x), mu, logvar

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, _ = batch
        x_hat, mu, logvar = self(x)
        reconstruction = F.mse_loss(x_hat, x)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
        self.log_dict({"rec": reconstruction, "kl": kl})
        return {"loss": reconstruction + 0.01 * kl, "kl": kl.detach()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_rec", F.mse_loss(self(batch[0])[0], batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


@program("VAE: `forward` draws and returns a tuple")
def vae() -> Program:
    data = loader(*pictures(channels=1))
    return Program(module=Vae(), data=data, val=data)


class Denoiser(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 8))
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.register_buffer("alpha", torch.linspace(0.999, 0.01, 50))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.time(t[:, None].float() / 50)
        return self.second(F.silu(self.first(x) + emb[:, :, None, None]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        t = torch.randint(0, 50, (len(x),), device=self.device)
        noise = torch.randn_like(x)
        a = self.alpha[t][:, None, None, None]
        loss = F.mse_loss(self(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


@program("Diffusion: a denoiser of (x, t)", says=[NEEDS_FORWARD_FN])
def diffusion() -> Program:
    return Program(module=Denoiser(), data=loader(pictures(channels=1)[0]))


class ClipLike(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.image = small_cnn(outputs=16)
        self.text = nn.Sequential(nn.EmbeddingBag(30, 16), nn.Linear(16, 16))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.image(image), dim=1), F.normalize(self.text(text), dim=1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        image, text = self(batch["image"], batch["caption"])
        logits = self.logit_scale.exp() * image @ text.T
        target = torch.arange(len(logits), device=self.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 1e-3)


@program("Contrastive training of images and texts (CLIP)", says=[NEEDS_FORWARD_FN])
def clip() -> Program:
    images, labels = pictures()
    samples = [
        {"image": image, "caption": torch.randint(0, 7, (5,)) + 7 * label}
        for image, label in zip(images, labels, strict=True)
    ]
    return Program(module=ClipLike(), data=DataLoader(samples, 16, shuffle=True))


class Mlp(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
        self.head = nn.Linear(24, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Pruning with Lightning's ModelPruning")
def pruning() -> Program:
    data = loader(*vectors())
    callback = ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.3)
    return Program(module=Mlp(), data=data, val=data, trainer={"callbacks": [callback]})


@program("Exponential moving average of the weights (Lightning's EMAWeightAveraging)")
def moving_average() -> Program:
    data = loader(*vectors())
    callback = EMAWeightAveraging(decay=0.9)
    return Program(module=Mlp(), data=data, val=data, trainer={"callbacks": [callback]})


class Quantised(pl.LightningModule):
    """Training for 8 bits: fake quantisation with observers that learn from each pass."""

    def __init__(self) -> None:
        super().__init__()
        net = nn.Sequential(
            quantization.QuantStub(), *small_cnn(), quantization.DeQuantStub()
        ).train()
        net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        self.net = quantization.prepare_qat(net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.02)


@program("Quantisation-aware training (torch.ao's fake quantisation)")
def quantisation_aware() -> Program:
    data = loader(*pictures(48))
    return Program(module=Quantised(), data=data, val=data)


class Lbfgs(Mlp):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=4)


@program("L-BFGS: the step runs several times a step")
def lbfgs() -> Program:
    return Program(module=Lbfgs(), data=loader(*vectors(), batch_size=32))


class Sam(Mlp):
    """Sharpness-aware: two backward passes a step, by hand, with accumulation."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        self.manual_backward(F.cross_entropy(self(x), y))
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in self.parameters()]).norm() + 1e-12
            climbs = [0.05 * p.grad / norm for p in self.parameters()]
            for p, climb in zip(self.parameters(), climbs, strict=True):
                p.add_(climb)
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        with torch.no_grad():
            for p, climb in zip(self.parameters(), climbs, strict=True):
                p.sub_(climb)
        optimizer.step()
        optimizer.zero_grad()


@program("Sharpness-aware minimisation by manual optimization")
def sharpness_aware() -> Program:
    data = loader(*vectors())
    return Program(module=Sam(), data=data, val=data)


class SemiSupervised(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch["labelled"]
        (u,) = batch["unlabelled"]
        loss = F.cross_entropy(self(x), y)
        with torch.no_grad():
            guess = self(u).softmax(1)
        noisy = self(u + 0.1 * torch.randn_like(u)).log_softmax(1)
        return loss + 0.1 * F.kl_div(noisy, guess, reduction="batchmean")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 3e-3)


@program("Two loaders in a CombinedLoader (semi-supervised), two for validation")
def combined_loader() -> Program:
    images, labels = pictures(96)
    loaders = {
        "labelled": loader(images[:32], labels[:32], batch_size=8),
        "unlabelled": loader(images[32:], batch_size=24),
    }
    val = [loader(images[:32], labels[:32]), loader(images[32:64], labels[32:64])]
    return Program(module=SemiSupervised(), data=CombinedLoader(loaders, "max_size_cycle"), val=val)


class Replay(IterableDataset[Any]):
    """Plays as it is read: the network moves the game on."""

    def __init__(self, agent: Dqn) -> None:
        self.agent = agent

    def __iter__(self) -> Iterator[Any]:
        for _ in range(96):
            self.agent.play()
            yield random.choice(self.agent.memory)


class Dqn(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))
        self.target = copy.deepcopy(self.q)
        self.memory: deque[Any] = deque(maxlen=50)
        self.place = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x)

    @torch.no_grad()
    def play(self) -> None:
        action = random.randrange(2) if random.random() < 0.3 else int(self(self.place).argmax())
        after = (self.place + 0.3 * torch.randn(3) + (2 * action - 1) * 0.2).clamp(-2, 2)
        self.memory.append((self.place, action, -float(after.norm()), after))
        self.place = after

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state, action, reward, after = batch
        if self.global_step % 5 == 0:
            self.target.load_state_dict(self.q.state_dict())
        value = self(state).gather(1, action[:, None])[:, 0]
        with torch.no_grad():
            wanted = reward.float() + 0.9 * self.target(after).max(1).values
        return F.smooth_l1_loss(value, wanted)

    def train_dataloader(self) -> Any:
        return DataLoader(Replay(self), batch_size=16)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


@program("Reinforcement learning (DQN): the loader plays with the network")
def reinforcement_learning() -> Program:
    return Program(module=Dqn(), data=None)


class Maml(pl.LightningModule):
    """Each step learns a task with fast weights, through torch.func."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 20), nn.ReLU(), nn.Linear(20, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = []
        for x, y in zip(*batch, strict=True):
            weights = dict(self.net.named_parameters())
            loss = F.mse_loss(torch.func.functional_call(self.net, weights, x[:5]), y[:5])
            grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            moved = zip(weights.items(), grads, strict=True)
            fast = {name: weight - 0.05 * grad for (name, weight), grad in moved}
            losses.append(F.mse_loss(torch.func.functional_call(self.net, fast, x[5:]), y[5:]))
        return torch.stack(losses).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


@program("Meta-learning (MAML) with torch.func.functional_call")
def meta_learning() -> Program:
    x = torch.rand(48, 10, 1) * 6 - 3
    phase = torch.rand(48, 1, 1) * 3
    return Program(module=Maml(), data=loader(x, (x + phase).sin(), batch_size=12))


class TripletNet(pl.LightningModule):
    """Gradients are accumulated and clipped; the embeddings are no class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(outputs=8)
        self.loss_fn = nn.TripletMarginLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        anchor, positive, negative = batch
        return self.loss_fn(self(anchor), self(positive), self(negative))

    def configure_optimizers(self) -> Any:
        groups = itertools.groupby(self.net.parameters(), key=lambda p: p.dim() > 1)
        decays = [{"params": list(g), "weight_decay": 1e-4 if d else 0} for d, g in groups]
        return torch.optim.AdamW(decays, 1e-3)


@program("Triplets of images, gradients accumulated and clipped")
def triplets() -> Program:
    images, _ = pictures()
    others = images.roll(1, 0)
    data = loader(images, images.flip(-1), others, batch_size=8)
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    return Program(module=TripletNet(), data=data, trainer=options)
