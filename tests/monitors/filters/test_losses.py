from __future__ import annotations

import pytest
import torch

from vis_callbacks.monitors.filters.losses import check_loss_names, loss_pair


def numbers(metrics, names=None):
    return tuple(None if v is None else float(v) for v in loss_pair(metrics, names))


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ({"train_loss": 1.0, "val_loss": 2.0, "lr": 5.0}, (1.0, 2.0)),
        ({"loss": 1.0, "valid/loss": 2.0}, (1.0, 2.0)),
        ({"train/loss_step": 9.0, "train/loss_epoch": 1.0, "val/loss": 2.0}, (1.0, 2.0)),
        ({"train_acc": 0.75, "val_acc": 0.5}, (0.25, 0.5)),
        ({"train_acc": 75.0, "val_acc": 60.0}, (25.0, 40.0)),
        ({"val_acc": 0.5, "val_loss": 2.0, "train_loss": 1.0}, (1.0, 2.0)),
        ({"Dev Loss": 2.0}, (None, 2.0)),
        ({"train_loss": 1.0}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_the_two_losses_are_found_among_what_is_logged(logged, expected):
    assert numbers(logged) == expected


def test_names_that_are_given_are_taken():
    logged = {"a": torch.tensor(1.0), "b": torch.tensor([2.0]), "train_loss": 3.0, "val_loss": 4.0}
    assert numbers(logged, ("a", "b")) == (1.0, 2.0)
    assert numbers(logged, ("a", "missing")) == (1.0, None)


@pytest.mark.parametrize("value", ["text", None, torch.ones(3)])
def test_what_is_no_number_is_none(value):
    assert numbers({"val_loss": value}) == (None, None)


@pytest.mark.parametrize("names", ["val_loss", ["val_loss"], 3, ["a", "b", "c"]])
def test_names_must_be_two(names):
    with pytest.raises(TypeError, match=r'Use \("train_loss", "val_loss"\)'):
        check_loss_names(names)


def test_names_must_be_strings():
    with pytest.raises(TypeError, match="loss_names holds 1"):
        check_loss_names([1, "val_loss"])
    check_loss_names(None)
    check_loss_names(["a", "b"])
