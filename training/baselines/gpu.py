"""A GPT of about 50 million parameters for five minutes on one GPU of the Hopper class.

Pre-norm transformer: rotary positions, normed queries and keys, causal attention, squared-ReLU MLP,
untied output layer. Every second block adds to its attention values a learned vector of the token
itself. Matrices inside the blocks are trained with Muon, everything else with
AdamW; the step size is flat and then falls to zero. Arithmetic is bfloat16, weights are float32.
The loss is compiled, on made-up tokens, before the first batch is asked for. The literals below are
the knobs.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# Model
WIDTH = 512  # size of the residual stream
DEPTH = 8  # transformer blocks
HEAD_SIZE = 128  # channels per head
MLP_RATIO = 4  # hidden size of the MLP over WIDTH
VALUE_EVERY = 2  # one block in so many has a table of values
ROTARY_BASE = 10000.0  # wavelength of the slowest rotation

# Batches
ROWS = 128  # rows of one micro-batch
SEQ_LEN = 2048  # tokens per row
STEP_TOKENS = 524288  # tokens of one optimiser step

# Optimiser
MATRIX_LR = 0.04  # step size of Muon
MOMENTUM = 0.95  # momentum of Muon
MATRIX_DECAY = 0.1  # pull of the block matrices towards zero, per unit of step size
EMBED_LR = 0.6  # step size of AdamW for the token embedding and the value tables
HEAD_LR = 0.004  # step size of AdamW for the output layer
MIX_LR = 0.05  # step size of AdamW for the mixing weights
BETA1 = 0.8  # AdamW, decay of the mean gradient
BETA2 = 0.95  # AdamW, decay of the mean square
WARMUP = 0.01  # share of the budget in which the step size rises
COOLDOWN = 0.5  # share of the budget in which the step size falls to zero


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class Linear(nn.Module):
    def __init__(self, inputs, outputs, gain=1.0):
        super().__init__()
        bound = gain * math.sqrt(3.0 / inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class Block(nn.Module):
    def __init__(self, vocab_size, has_values):
        super().__init__()
        self.heads = WIDTH // HEAD_SIZE
        self.qkv = Linear(WIDTH, 3 * WIDTH)
        self.out = Linear(WIDTH, WIDTH, gain=0.0)
        self.up = Linear(WIDTH, MLP_RATIO * WIDTH)
        self.down = Linear(MLP_RATIO * WIDTH, WIDTH, gain=0.0)
        self.table = self.mix = None
        if has_values:
            bound = math.sqrt(3.0 / WIDTH)
            self.table = nn.Parameter(torch.empty(vocab_size, WIDTH).uniform_(-bound, bound))
            self.mix = nn.Parameter(torch.ones(self.heads, 1))

    def forward(self, x, tokens, cos, sin):
        rows, length, _ = x.shape
        shape = (rows, length, self.heads, HEAD_SIZE)
        q, k, v = (part.view(shape) for part in self.qkv(norm(x)).chunk(3, dim=-1))
        q, k = rotate(norm(q), cos, sin), rotate(norm(k), cos, sin)
        if self.table is not None:
            v = v + self.mix.to(x.dtype) * F.embedding(tokens, self.table).to(x.dtype).view(shape)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.down(F.relu(self.up(norm(x))).square())


class GPT(nn.Module):
    def __init__(self, vocab_size, context):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(vocab_size, WIDTH))
        self.blocks = nn.ModuleList(
            Block(vocab_size, index % VALUE_EVERY == VALUE_EVERY - 1) for index in range(DEPTH)
        )
        self.head = Linear(WIDTH, vocab_size, gain=0.02)
        self.run_block = Block.forward  # compiled for training
        speed = ROTARY_BASE ** (-torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
        angle = torch.arange(context)[:, None] * speed
        self.register_buffer("cos", angle.cos()[:, None, :], persistent=False)
        self.register_buffer("sin", angle.sin()[:, None, :], persistent=False)

    def features(self, tokens):
        exact = torch.bfloat16 if tokens.is_cuda else torch.float32
        length = tokens.size(1)
        cos, sin = self.cos[:length].to(exact), self.sin[:length].to(exact)
        x = norm(F.embedding(tokens, self.embed).to(exact))
        for block in self.blocks:
            x = self.run_block(block, x, tokens, cos, sin)
        return x

    def logits(self, x):
        return self.head(norm(x))

    def forward(self, tokens):
        return self.logits(self.features(tokens))


def build_model(vocab_size, context):
    return GPT(vocab_size, context)


def loss_of(model, x, targets):
    logits = model.logits(x).flatten(0, 1)
    return F.cross_entropy(logits.float(), targets.flatten())


def orthogonal(g):
    """The nearest matrices with equal singular values, roughly (five Newton-Schulz steps)."""
    x = g.to(torch.bfloat16) if g.is_cuda else g
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon:
    """Momentum whose update has equal singular values; matrices of one shape are done at once."""

    def __init__(self, params):
        shapes = {}
        for param in params:
            shapes.setdefault(tuple(param.shape), []).append(param)
        self.groups = list(shapes.values())
        self.means = [[torch.zeros_like(p) for p in group] for group in self.groups]

    def step(self, scale):
        rate = MATRIX_LR * scale
        for group, means in zip(self.groups, self.means, strict=True):
            grads = [param.grad for param in group]
            torch._foreach_lerp_(means, grads, 1 - MOMENTUM)
            torch._foreach_lerp_(grads, means, MOMENTUM)
            rows, columns = grads[0].shape
            stack = torch.stack(grads)
            if rows == 3 * columns:  # queries, keys and values are three matrices
                rows = columns
            update = orthogonal(stack.view(-1, rows, columns)).view(stack.shape).unbind()
            torch._foreach_mul_(group, 1 - rate * MATRIX_DECAY)
            size = math.sqrt(max(1.0, rows / columns))
            torch._foreach_add_(group, update, alpha=-rate * size)


def optimisers(model):
    matrices = [m.weight for m in model.blocks.modules() if isinstance(m, Linear)]
    tables = [block.table for block in model.blocks if block.table is not None]
    mixes = [block.mix for block in model.blocks if block.mix is not None]
    groups = [
        {"params": [model.embed, *tables], "lr": EMBED_LR},
        {"params": [model.head.weight], "lr": HEAD_LR},
        {"params": mixes, "lr": MIX_LR},
    ]
    adam = torch.optim.AdamW(
        groups,
        betas=(BETA1, BETA2),
        eps=1e-10,
        weight_decay=0.0,
        fused=model.embed.is_cuda,
    )
    return Muon(matrices), adam


def schedule(progress):
    return max(0.0, min(1.0, (progress + 0.001) / WARMUP, (1 - progress) / COOLDOWN))


def prepare(model):
    """Compiles a block and the loss, on made-up tokens, where there is a GPU. A block is compiled
    once for all that are alike: a program for all at once is faster by a little, and takes twice
    as long to make. Weights stay as they are. Returns the loss of a batch."""
    loss = loss_of

    def whole(inputs, targets):
        return loss(model, model.features(inputs), targets)

    if not model.embed.is_cuda:
        return whole
    torch.set_float32_matmul_precision("high")
    model.run_block = torch.compile(Block.forward, dynamic=False)
    loss = torch.compile(loss_of, dynamic=False)
    tokens = torch.randint(0, model.embed.size(0), (2, ROWS, SEQ_LEN), device=model.embed.device)
    inputs, targets = (part.clone() for part in tokens)  # two tensors, as later: no second compile
    whole(inputs, targets).backward()
    model.zero_grad()
    torch.cuda.synchronize()
    return whole


def train(model, batches, budget):
    fast = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(fast, set_priority=True):
        loss = prepare(model)
        muon, adam = optimisers(model)
        rates = [group["lr"] for group in adam.param_groups]
        parts = max(1, STEP_TOKENS // (ROWS * SEQ_LEN))
        while True:
            scale = schedule(budget.progress)
            for _ in range(parts):
                inputs, targets = batches(ROWS, SEQ_LEN)
                (loss(inputs, targets) / parts).backward()
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            with torch.no_grad():
                muon.step(scale)
            adam.step()
            model.zero_grad()
