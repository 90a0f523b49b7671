"""A byte-level GPT that trains in about two minutes on two CPU cores.

Pre-norm transformer: rotary positions, normalised queries and keys, squared-ReLU MLP, values mixed
with those of the first block, untied output layer. A position's input is the sum of embeddings of
its own byte, of the few before, and of the last 2, 3, ... bytes together, looked up by hash: a step
touches few rows of that large table, so it costs next to nothing. Block matrices are trained with
Muon, the hashed table row by row, the rest with Adam. Training multiplies in bfloat16 where the
processor can; what is stored, and all of scoring, is float32. The literals below are the knobs.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# Model
WIDTH = 128  # size of the residual stream
DEPTH = 3  # transformer blocks
HEADS = 2  # attention heads per block
HEAD_SIZE = 64  # channels per head, an even number
MLP_RATIO = 4.0  # hidden size of the MLP over WIDTH
HISTORY = 2  # earlier bytes that each position sees directly
GRAMS = 4  # lengths of hashed n-grams: 2, 3, ... bytes
GRAM_ROWS = 16384  # rows of the hashed table for each length
EMBED_STD = 0.05  # standard deviation of the initial embedding
MATRIX_GAIN = 1.0  # initial scale of the matrices, times 1 / sqrt(inputs)
FIRST_VALUES = 0.5  # initial share of the first block's values in later blocks

# Batches
BATCH_SIZE = 8  # rows per step
SEQ_LEN = 256  # tokens per row

# Optimiser
MATRIX_LR = 0.015  # step size of Muon
MOMENTUM = 0.95  # momentum of Muon
EMBED_LR = 0.01  # step size of Adam for the embedding
HEAD_LR = 0.004  # step size of Adam for the output layer
SCALE_LR = 0.02  # step size of Adam for single numbers
GRAM_LR = 0.008  # step size of the hashed table
GRAM_MEMORY = 0.9  # decay of the mean square of its rows
BETA1 = 0.9  # Adam, decay of the mean gradient
BETA2 = 0.99  # Adam, decay of the mean square
WEIGHT_DECAY = 0.1  # pull of the block matrices towards zero, per unit of step size
WARMUP = 0.05  # share of the budget in which the step size rises
COOLDOWN = 0.5  # share of the budget in which the step size falls to zero


def low_precision():
    """What training multiplies in: bfloat16 where the processor has instructions for it."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if known is not None and known() else torch.float32


def norm(x):
    return F.layer_norm(x, (x.size(-1),))


class Linear(nn.Module):
    def __init__(self, inputs, outputs, gain):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain / math.sqrt(inputs))
        self.low = low_precision()

    def forward(self, x):
        if self.training:
            return F.linear(x.to(self.low), self.weight.to(self.low))
        return F.linear(x, self.weight)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = int(WIDTH * MLP_RATIO)
        self.qkv = Linear(WIDTH, 3 * HEADS * HEAD_SIZE, MATRIX_GAIN)
        self.mix = Linear(HEADS * HEAD_SIZE, WIDTH, 0.0)
        self.up = Linear(WIDTH, hidden, MATRIX_GAIN)
        self.down = Linear(hidden, WIDTH, 0.0)
        self.first_values = nn.Parameter(torch.tensor(FIRST_VALUES))
        self.inputs = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, inputs, first, rotation, future):
        rows, length, _ = x.shape
        x = torch.addcmul(x, inputs, self.inputs)
        qkv = self.qkv(norm(x)).view(rows, length, 3, HEADS, HEAD_SIZE)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        first = v if first is None else first
        v = v.lerp(first, self.first_values.to(v.dtype))
        q, k = rotate(norm(q), rotation), rotate(norm(k), rotation)
        scores = q @ k.transpose(2, 3) * (1 / math.sqrt(HEAD_SIZE)) + future
        y = scores.softmax(3) @ v
        x = x + self.mix(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.relu(self.up(norm(x))).square())
        return x, first


def rotate(x, rotation):
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(HISTORY + 1, vocab_size, WIDTH) * EMBED_STD)
        self.grams = nn.Parameter(torch.zeros(GRAMS * GRAM_ROWS, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = Linear(WIDTH, vocab_size, 0.0)
        self.low = low_precision()

    def forward(self, tokens):
        length = tokens.size(1)
        x = F.embedding(tokens, self.embed[0])
        for back in range(1, HISTORY + 1):
            x = x + F.pad(F.embedding(tokens, self.embed[back]), (0, 0, back, 0))[:, :length]
        rows = hashes(tokens).flatten(0, 1)
        x = x + F.embedding_bag(rows, self.grams, mode="sum", sparse=True).view_as(x)
        inputs, first = x, None
        dtype = self.low if self.training else torch.float32
        rotation = [part.to(dtype) for part in rotations(length)]
        future = torch.full((length, length), -1e9, dtype=dtype).triu(1)
        for block in self.blocks:
            x, first = block(x, inputs, first, rotation, future)
        return self.head(norm(x)).float()


def hashes(tokens):
    """Rows of the hashed table [B, T, GRAMS]: of the last 2 bytes, the last 3, ..."""
    code, rows = tokens, []
    for back in range(1, GRAMS + 1):
        code = code * 31337 + F.pad(tokens, (back, 0))[:, : tokens.size(1)] + 1
        mixed = code * 2654435761 % 4294967296 // 65536
        rows.append(mixed % GRAM_ROWS + (back - 1) * GRAM_ROWS)
    return torch.stack(rows, dim=2)


def rotations(length):
    half = HEAD_SIZE // 2
    speed = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(length)[:, None] * speed
    return angle.cos(), angle.sin()


def build_model(vocab_size, context):
    return GPT(vocab_size)


def orthogonal(g):
    """The nearest matrix with equal singular values, roughly (five Newton-Schulz steps)."""
    wide = g.T if g.size(0) > g.size(1) else g
    x = (wide / (wide.norm() + 1e-7)).to(low_precision())
    for _ in range(5):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return (x.T if g.size(0) > g.size(1) else x).float()


class Muon:
    def __init__(self, params, lr):
        self.params, self.lr = params, lr
        self.means = [torch.zeros_like(p) for p in params]

    def step(self, scale):
        for p, mean in zip(self.params, self.means, strict=True):
            mean.lerp_(p.grad, 1 - MOMENTUM)
            update = orthogonal(p.grad.lerp(mean, MOMENTUM))
            shape = math.sqrt(max(1.0, p.size(0) / p.size(1)))
            p.mul_(1 - self.lr * scale * WEIGHT_DECAY)
            p.sub_(update, alpha=self.lr * scale * shape)


class Rows:
    """Steps the rows of a table that had a gradient, each scaled by its own mean square."""

    def __init__(self, table, lr):
        self.table, self.lr = table, lr
        self.square = torch.zeros(len(table))

    def step(self, scale):
        grad = self.table.grad.coalesce()
        rows, grad = grad.indices()[0], grad.values()
        now, before = grad.square().mean(1), self.square[rows]
        square = torch.where(before > 0, before.lerp(now, 1 - GRAM_MEMORY), now)
        self.square[rows] = square
        update = grad / (square.sqrt() + 1e-10)[:, None]
        self.table.index_add_(0, rows, update, alpha=-self.lr * scale)


def schedule(progress):
    return min(1.0, (progress + 0.01) / WARMUP, (1 - progress) / COOLDOWN)


def train(model, batches, budget):
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    numbers = [p for p in model.blocks.parameters() if p.dim() < 2]
    groups = [
        {"params": [model.embed], "lr": EMBED_LR},
        {"params": [model.head.weight], "lr": HEAD_LR},
        {"params": numbers, "lr": SCALE_LR},
    ]
    adam = torch.optim.Adam(groups, betas=(BETA1, BETA2), eps=1e-10, fused=True)
    rates = [group["lr"] for group in adam.param_groups]
    others = [Muon(matrices, MATRIX_LR), Rows(model.grams, GRAM_LR)]
    while True:
        scale = schedule(budget.progress)
        inputs, targets = batches(BATCH_SIZE, SEQ_LEN)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        adam.step()
        with torch.no_grad():
            for other in others:
                other.step(scale)
