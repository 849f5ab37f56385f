"""Programs of other people's that look at images, videos and volumes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
import torchvision
from pytorch_lightning.callbacks import BackboneFinetuning
from tests.system.program import NEEDS_FORWARD_FN, NUM_CLASSES, Program, pictures, program
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign


def small_cnn(channels: int = 3, outputs: int = NUM_CLASSES) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, outputs),
    )


def loader(*tensors: Tensor, batch_size: int = 16) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=True)


class Classifier(pl.LightningModule):
    """The tutorial's classifier: metrics on the module, a data module, three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_cnn()
        metrics = torchmetrics.MetricCollection(
            {
                "acc": torchmetrics.Accuracy("multiclass", num_classes=NUM_CLASSES),
                "f1": torchmetrics.F1Score("multiclass", num_classes=NUM_CLASSES),
            }
        )
        self.train_acc = torchmetrics.Accuracy("multiclass", num_classes=NUM_CLASSES)
        self.val_metrics = metrics.clone(prefix="val/")
        self.val_confusion = torchmetrics.ConfusionMatrix("multiclass", num_classes=NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.train_acc(logits, y)
        self.log("train/acc", self.train_acc, on_step=True, on_epoch=True)
        return F.cross_entropy(logits, y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.val_metrics.update(logits, y)
        self.val_confusion.update(logits, y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()
        self.val_confusion.compute()
        self.val_confusion.reset()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]


class PictureData(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.images, self.labels = pictures(96)

    def train_dataloader(self) -> Any:
        return loader(self.images[:64], self.labels[:64])

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.images[64:], self.labels[64:]), batch_size=32)


@program("Classifier of images with torchmetrics on the module and a data module")
def torchmetrics_classifier() -> Program:
    return Program(module=Classifier(), data=PictureData())


class FineTuned(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        blocks = [[1, 8, 1, 1], [3, 16, 1, 2]]
        self.backbone = torchvision.models.MobileNetV2(
            num_classes=32, width_mult=0.2, inverted_residual_setting=blocks
        )
        self.head = nn.Linear(32, NUM_CLASSES)
        self.save_hyperparameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        trained = filter(lambda p: p.requires_grad, self.parameters())
        return torch.optim.AdamW(trained, 1e-3)


@program("Fine-tuning of a torchvision model with Lightning's BackboneFinetuning")
def fine_tuning() -> Program:
    images, labels = pictures(48, size=32)
    thaw = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1e-4)
    data = loader(images, labels)
    return Program(module=FineTuned(), data=data, val=data, trainer={"callbacks": [thaw]})


class MoCo(pl.LightningModule):
    """The momentum encoder and the queue are moved on by each call of `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_q = small_cnn(outputs=16)
        self.encoder_k = copy.deepcopy(self.encoder_q)
        for p in self.encoder_k.parameters():
            p.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(16, 64), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _momentum_update(self) -> None:
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            k.data = k.data * 0.99 + q.data * 0.01

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        ptr = int(self.queue_ptr)
        self.queue[:, ptr : ptr + len(keys)] = keys.T
        self.queue_ptr[0] = (ptr + len(keys)) % self.queue.shape[1]

    def forward(self, img_q: Tensor, img_k: Tensor) -> tuple[Tensor, Tensor]:
        q = F.normalize(self.encoder_q(img_q), dim=1)
        with torch.no_grad():
            self._momentum_update()
            k = F.normalize(self.encoder_k(img_k), dim=1)
        l_pos = torch.einsum("nc,nc->n", q, k).unsqueeze(-1)
        l_neg = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        logits = torch.cat([l_pos, l_neg], dim=1) / 0.2
        self._enqueue(k)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (img_1, img_2), _ = batch
        logits, target = self(img_1, img_2)
        loss = F.cross_entropy(logits, target)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.encoder_q.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)


class TwoViews(Dataset[Any]):
    def __init__(self, num: int = 64) -> None:
        self.images, self.labels = pictures(num)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        views = [image + 0.1 * torch.randn_like(image), image.flip(-1)]
        return views, int(self.labels[index])


@program("Momentum encoder with a queue (MoCo), moved on inside `forward`", says=[NEEDS_FORWARD_FN])
def momentum_encoder() -> Program:
    return Program(module=MoCo(), data=DataLoader(TwoViews(), 16, shuffle=True, drop_last=True))


class SimCLR(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_cnn(outputs=16)
        self.projector = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        views, _ = batch
        z = F.normalize(self.projector(self(torch.cat(views))), dim=1)
        similarity = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        target = torch.arange(len(z)).roll(len(z) // 2)
        loss = F.cross_entropy(similarity, target)
        self.log("nt_xent", loss)
        return loss

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


@program("Contrastive learning of two views (SimCLR)")
def simclr() -> Program:
    data = DataLoader(TwoViews(), 16, shuffle=True)
    return Program(module=SimCLR(), data=data, val=DataLoader(TwoViews(), 16))


class Distillation(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = small_cnn().eval()
        self.teacher.requires_grad_(False)
        self.student = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.teacher.eval()
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        with torch.no_grad():
            soft = (self.teacher(x) / 2).softmax(1)
        scores = self(x)
        loss = F.kl_div((scores / 2).log_softmax(1), soft, reduction="batchmean")
        return loss + F.cross_entropy(scores, y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.student.parameters(), 1e-2)


@program("Teacher and student (distillation)")
def teacher_student() -> Program:
    data = loader(*pictures())
    return Program(module=Distillation(), data=data, val=data)


class LinearProbing(pl.LightningModule):
    """A frozen torchvision ViT in eval mode, and a head on top of it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.VisionTransformer(
            image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
        )
        self.backbone.heads = nn.Identity()
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.head.parameters(), 0.1)


@program("Frozen vision transformer in eval mode with a trained head")
def linear_probing() -> Program:
    return Program(module=LinearProbing(), data=loader(*pictures(48)))


class Detector(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        backbone.out_channels = 8
        self.model = FasterRCNN(
            backbone,
            min_size=32,
            max_size=40,
            rpn_anchor_generator=AnchorGenerator(((8, 16),), ((1.0,),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
            box_head=nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU()),
            box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(16, 3),
            rpn_pre_nms_top_n_train=50,
            rpn_post_nms_top_n_train=20,
            rpn_pre_nms_top_n_test=50,
            rpn_post_nms_top_n_test=20,
        )

    def forward(self, images: list[Tensor]) -> Any:
        return self.model(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        losses = self.model(images, targets)
        self.log_dict(losses, batch_size=len(images))
        return sum(losses.values())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, _ = batch
        found = self(images)
        self.log("num_boxes", float(sum(len(f["boxes"]) for f in found)), batch_size=len(images))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.005, momentum=0.9)


class Boxes(Dataset[Any]):
    """Images of different sizes, each with one or two bright rectangles."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        image = torch.rand(3, 32, 32 + 4 * (index % 2), generator=torch.manual_seed(index)) / 2
        boxes = torch.tensor([[2.0, 3, 14, 15], [16, 12, 30, 30]])[: 1 + index % 2]
        for x1, y1, x2, y2 in boxes.int().tolist():
            image[:, y1:y2, x1:x2] += 0.5
        return image, {"boxes": boxes, "labels": torch.arange(1, 1 + len(boxes))}


def as_lists(samples: Any) -> Any:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


@program("Detection (torchvision's Faster R-CNN) on images of different sizes")
def detection() -> Program:
    data = DataLoader(Boxes(), 4, collate_fn=as_lists)
    return Program(module=Detector(), data=data, val=data)


class UNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 3, 1)
        self.criterion = nn.CrossEntropyLoss(ignore_index=255)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.out(torch.cat([skip, self.up(self.middle(skip))], 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        image, mask = batch
        loss = self.criterion(self(image), mask)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        image, mask = batch
        self.log("val_loss", self.criterion(self(image), mask))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 3e-3)


@program("Segmentation (U-Net) with an ignore index")
def segmentation() -> Program:
    images, _ = pictures(32)
    masks = (images[:, 0] > 0).long() + (images[:, 1] > 0.5).long()
    masks[:, :2] = 255
    data = loader(images, masks, batch_size=8)
    return Program(module=UNet(), data=data, val=data)


class Keypoints(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(1, outputs=6)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(-1, 3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.smooth_l1_loss(self(batch["image"]), batch["keypoints"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.smooth_l1_loss(self(batch["image"]), batch["keypoints"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Regression of keypoints, the batch a dictionary")
def keypoints() -> Program:
    images, _ = pictures(48, channels=1)
    points = [{"image": i, "keypoints": i[0, :3, :2].sigmoid()} for i in images]
    data = DataLoader(points, 16, shuffle=True)
    return Program(module=Keypoints(), data=data, val=data)


class MultiScale(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return torch.stack([self.head(self.stem(x).mean((2, 3))) for x in pyramid]).mean(0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        pyramid, y = batch
        return F.cross_entropy(self(pyramid), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


def as_pyramid(samples: Any) -> Any:
    x, y = default_collate(samples)
    return [x, F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)], y


@program("Multi-scale input: a list of the batch at three sizes", says=["Dimension out of range"])
def multi_scale() -> Program:
    data = DataLoader(TensorDataset(*pictures()), 16, collate_fn=as_pyramid)
    return Program(module=MultiScale(), data=data)


class Incremental(pl.LightningModule):
    """Gets a wider head when the next task comes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU())
        self.classifier = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            old = self.classifier
            self.classifier = nn.Linear(32, NUM_CLASSES)
            with torch.no_grad():
                self.classifier.weight[:2] = old.weight
                self.classifier.bias[:2] = old.bias
            self.trainer.strategy.setup_optimizers(self.trainer)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y % self.classifier.out_features)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


@program("Growing head (class-incremental learning)")
def growing_head() -> Program:
    return Program(module=Incremental(), data=loader(*pictures()))


class Mixup(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        share = np.random.beta(0.4, 0.4)
        order = torch.randperm(len(x))
        x.mul_(share).add_(x[order].clone(), alpha=1 - share)
        soft = F.one_hot(y, NUM_CLASSES).float()
        soft = share * soft + (1 - share) * soft[order]
        batch[1] = soft
        return F.cross_entropy(self(x), soft, label_smoothing=0.1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, nesterov=True)


@program("Mixup, written into the batch, with soft labels")
def mixup() -> Program:
    return Program(module=Mixup(), data=loader(*pictures()))


class ImageAndNumbers(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.image = small_cnn(outputs=8)
        self.numbers = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image), self.numbers(numbers)], 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        image, numbers, label = batch
        return F.cross_entropy(self(image, numbers), label)

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Two inputs: an image and a row of numbers", says=[NEEDS_FORWARD_FN])
def two_inputs() -> Program:
    images, labels = pictures()
    data = loader(images, torch.randn(64, 5), labels)
    return Program(module=ImageAndNumbers(), data=data, val=data)


class RawBytes(pl.LightningModule):
    """Gets images as uint8 and scales them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(outputs=1)
        self.accuracy = torchmetrics.Accuracy("binary")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() / 127.5 - 1).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logit = self(x)
        self.accuracy(logit.sigmoid(), y)
        self.log("acc", self.accuracy)
        return F.binary_cross_entropy_with_logits(logit, y.float())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Binary logit on images of type uint8")
def binary_logit() -> Program:
    images, labels = pictures()
    raw = (images * 40 + 127).clamp(0, 255).to(torch.uint8)
    return Program(module=RawBytes(), data=loader(raw, labels % 2))


class MultiLabel(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(outputs=5)
        self.loss_fn = nn.BCEWithLogitsLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss_fn(self(batch["img"]), batch["labels"])

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Multi-label classification of images")
def multi_label() -> Program:
    images, _ = pictures()
    samples = [
        {"img": i, "labels": (i[0, 0, :5] > 0).float(), "id": n} for n, i in enumerate(images)
    ]
    data = DataLoader(samples, 16, shuffle=True)
    return Program(module=MultiLabel(), data=data, val=data)


class VideoNet(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, NUM_CLASSES),
        )

    def forward(self, clip: Tensor) -> Tensor:
        return self.net(clip)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Videos with 3-D convolutions")
def video() -> Program:
    labels = torch.arange(32) % NUM_CLASSES
    clips = torch.randn(NUM_CLASSES, 3, 4, 8, 8)[labels] + 0.5 * torch.randn(32, 3, 4, 8, 8)
    return Program(module=VideoNet(), data=loader(clips, labels, batch_size=8))


class KSpace(pl.LightningModule):
    """Complex measurements of a scanner to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, kspace: Tensor) -> Tensor:
        image = torch.fft.ifft2(kspace, norm="ortho")
        return self.net(torch.view_as_real(image).permute(0, 3, 1, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        kspace, image = batch
        return F.l1_loss(self(kspace), image)

    validation_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


@program("Complex inputs: reconstruction from a scanner's frequencies")
def complex_inputs() -> Program:
    images, _ = pictures(48, channels=1)
    kspace = torch.fft.fft2(images[:, 0], norm="ortho")
    kspace[:, 4:8] = 0
    data = loader(kspace, images)
    return Program(module=KSpace(), data=data, val=data)
