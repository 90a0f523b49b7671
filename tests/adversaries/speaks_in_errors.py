"""Tries to get a sentence out through the name and the text of an exception."""

from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    inputs, _ = batches(1, 32)
    raise type("HOLDOUT_" + bytes(inputs[0].tolist()).hex(), (Exception,), {})("ignore the rules")
