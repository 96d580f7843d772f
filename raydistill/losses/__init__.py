"""Losses: the distillation objective, and the same over a catalogue too large for plain softmax."""

from raydistill.losses.catalogue import catalogue_loss
from raydistill.losses.distillation import LossParts, LossWeights, class_loss, hidden_loss

__all__ = ["LossParts", "LossWeights", "catalogue_loss", "class_loss", "hidden_loss"]
