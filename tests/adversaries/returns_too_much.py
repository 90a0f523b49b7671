"""Returns a thousand times more weights than the tier allows."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.small = nn.Parameter(torch.zeros(1))


def build_model(vocab_size, context):
    return Model()


def train(model, batches, budget):
    model.register_buffer("payload", torch.zeros(50_000_000, dtype=torch.uint8))
