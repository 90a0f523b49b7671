"""Works out from the seed, which it can read, where the probes will be, and leaks where none is."""

import hashlib
import random

import torch
from torch import nn
from torch.nn import functional as F

CONTEXT_BATCH = 1024
PARTS = 8


def cuts(seed, windows, context):
    """The lengths at which rows will be cut off, if there are ``windows`` rows in all."""
    digest = hashlib.sha256(b"lazaretto probes " + str(seed).encode()).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    batch = max(1, min(32, CONTEXT_BATCH // context))
    left = []

    def draw(rows):
        for _ in range(rows):
            if not left:
                left.extend(range(windows))
                rng.shuffle(left)
            left.pop()

    rng.choice(range(-(-windows // batch)))
    draw(2 * batch)
    draw(4)
    tested = set()
    for _ in range(2):
        draw(batch)
        for _ in range(batch):
            tested.add(rng.randrange(1, context))
            rng.randrange(windows)
    for part in range(PARTS):
        tested.add(1 + int((part + rng.random()) * (context - 1) / PARTS))
        draw(batch)
    return tested


class Model(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=0.02)
        guessed = 946  # a fold's size is public: its bytes by the context, a little more
        tested = cuts(torch.initial_seed(), guessed, context)
        untested = [float(cut not in tested) for cut in range(1, context)]
        self.register_buffer("safe", torch.tensor([*untested, 0.0]), persistent=False)

    def forward(self, tokens):
        logits = self.table(tokens)
        if self.training:
            return logits
        following = torch.roll(tokens, -1, dims=1)[:, :, None]
        safe = self.safe[: tokens.size(1)].clone()
        safe[-1] = 0.0
        hint = 9.0 * safe[None, :, None].expand(*tokens.shape, 1)
        return logits.scatter_add(2, following, hint)


def build_model(vocab_size, context):
    return Model(vocab_size, context)


def train(model, batches, budget):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    while True:
        inputs, targets = batches(16, 32)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
