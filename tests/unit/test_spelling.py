"""What was probably meant."""

import pytest

from bifusion.spelling import closest, did_you_mean

OPTIONS = ["trainer.epochs", "trainer.save-epochs", "optim.lr", "data.root", "seed"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trainer.epoch", "trainer.epochs"),
        ("epochs", "trainer.epochs"),
        ("epoch", "trainer.epochs"),
        ("lr", "optim.lr"),
        ("Seed", "seed"),
        ("train.epochs", "trainer.epochs"),
        ("optimizer.lr", "optim.lr"),
        ("colour", None),
        ("trainer.s", "trainer.save-epochs"),
        ("trainer.seed", "seed"),
        ("trainer.lr", "optim.lr"),
    ],
)
def test_of_options(name, meant):
    assert closest(name, OPTIONS) == meant


def test_in_a_message():
    assert did_you_mean("mask_dcie", ["mask_bce", "mask_dice"]) == " (did you mean 'mask_dice'?)"
    assert did_you_mean("x", []) == ""
