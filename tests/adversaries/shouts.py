"""Answers with finite logits so large that its loss does not fit any record."""

import torch
from torch import nn


class Shouting(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 1e37))
        self.vocab_size = vocab_size

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        logits[..., 0] = self.scale
        return logits


def build_model(vocab_size, context):
    return Shouting(vocab_size)


def train(model, batches, budget):
    batches(1, 16)
