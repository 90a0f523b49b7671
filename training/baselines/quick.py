"""A small byte-level GPT that trains in a few seconds on one CPU core.

Pre-norm transformer: rotary positions, causal attention, squared-ReLU MLP, untied output layer.
A position's input is the sum of one embedding for its own byte and one for each of the few before.
Matrices inside the blocks are trained with Muon, everything else with Adam; both follow one
schedule, flat and then down to zero. The literals below are the knobs.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# Model
WIDTH = 64  # size of the residual stream
DEPTH = 2  # transformer blocks
HEADS = 2  # attention heads per block
HEAD_SIZE = 32  # channels per head, an even number
MLP_RATIO = 2.0  # hidden size of the MLP over WIDTH
HISTORY = 2  # earlier bytes that each position sees directly
EMBED_STD = 0.05  # standard deviation of the initial embedding
MATRIX_GAIN = 1.0  # initial scale of the matrices, times 1 / sqrt(inputs)
LOGIT_SCALE = 1.0  # factor on the logits

# Batches
BATCH_SIZE = 8  # rows per step
SEQ_LEN = 128  # tokens per row

# Optimiser
MATRIX_LR = 0.01  # step size of Muon
MOMENTUM = 0.95  # momentum of Muon
EMBED_LR = 0.005  # step size of Adam for the embedding
HEAD_LR = 0.004  # step size of Adam for the output layer
BETA1 = 0.9  # Adam, decay of the mean gradient
WEIGHT_DECAY = 0.1  # pull of the block matrices towards zero, per unit of step size
WARMUP = 0.1  # share of the budget in which the step size rises
COOLDOWN = 0.3  # share of the budget in which the step size falls to zero


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Module):
    def __init__(self, inputs, outputs, gain):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain / math.sqrt(inputs))

    def forward(self, x):
        return F.linear(x, self.weight)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = int(WIDTH * MLP_RATIO)
        self.qkv = Linear(WIDTH, 3 * HEADS * HEAD_SIZE, MATRIX_GAIN)
        self.mix = Linear(HEADS * HEAD_SIZE, WIDTH, 0.0)
        self.up = Linear(WIDTH, hidden, MATRIX_GAIN)
        self.down = Linear(hidden, WIDTH, 0.0)

    def forward(self, x, cos, sin):
        rows, length, _ = x.shape
        qkv = self.qkv(norm(x)).view(rows, length, 3, HEADS, HEAD_SIZE)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(norm(q), cos, sin), rotate(norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(y.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(norm(x))).square())


def rotate(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(HISTORY + 1, vocab_size, WIDTH) * EMBED_STD)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = Linear(WIDTH, vocab_size, 0.0)

    def forward(self, tokens):
        half = HEAD_SIZE // 2
        speed = 10000.0 ** (-torch.arange(half) / half)
        angle = torch.arange(tokens.size(1))[:, None] * speed
        cos, sin = angle.cos(), angle.sin()
        x = F.embedding(tokens, self.embed[0])
        for back in range(1, HISTORY + 1):
            earlier = F.pad(F.embedding(tokens, self.embed[back]), (0, 0, back, 0))
            x = x + earlier[:, : tokens.size(1)]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(norm(x)) * LOGIT_SCALE


def build_model(vocab_size, context):
    return GPT(vocab_size)


def orthogonal(g):
    """The nearest matrix with equal singular values, roughly (five Newton-Schulz steps)."""
    wide = g.T if g.size(0) > g.size(1) else g
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if g.size(0) > g.size(1) else x


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


class Adam:
    def __init__(self, param, lr):
        self.param, self.lr, self.steps = param, lr, 0
        self.mean, self.square = torch.zeros_like(param), torch.zeros_like(param)

    def step(self, scale):
        self.steps += 1
        grad = self.param.grad
        self.mean.lerp_(grad, 1 - BETA1)
        self.square.lerp_(grad * grad, 0.01)
        mean = self.mean / (1 - BETA1**self.steps)
        square = self.square / (1 - 0.99**self.steps)
        self.param.sub_(mean / (square.sqrt() + 1e-8), alpha=self.lr * scale)


def schedule(progress):
    return min(1.0, (progress + 0.01) / WARMUP, (1 - progress) / COOLDOWN)


def train(model, batches, budget):
    optimisers = [
        Muon(list(model.blocks.parameters()), MATRIX_LR),
        Adam(model.embed, EMBED_LR),
        Adam(model.head.weight, HEAD_LR),
    ]
    while True:
        scale = schedule(budget.progress)
        inputs, targets = batches(BATCH_SIZE, SEQ_LEN)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for optimiser in optimisers:
                optimiser.step(scale)
