"""Takes all the memory that there is."""

import torch
from torch import nn


def build_model(vocab_size, context):
    return nn.Embedding(vocab_size, vocab_size)


def train(model, batches, budget):
    kept = []
    while True:
        kept.append(torch.ones(16 << 20))
