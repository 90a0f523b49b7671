"""Returns one weight that is not a number."""

import torch
from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    with torch.no_grad():
        model.weight[3, 5] = float("nan")
