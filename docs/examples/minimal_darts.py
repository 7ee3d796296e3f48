"""DARTS in one file: differentiable architecture search, first and second order (Liu et al. 2019, arXiv 1806.09055).

    python docs/examples/minimal_darts.py 2 1      # second order, one epoch

Read from the top: candidate operations, mixed operation (equation 2), cell, supernet, bilevel step (equations 5 to 8),
discretisation, the loop of algorithm 1. A test holds alpha equal to that of the package's engine over ten steps.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call


class FactorisedReduction(nn.Module):
    """Halve the resolution by two 1x1 convolutions, the second on the image shifted by one pixel."""

    def __init__(self, c_in, c):
        super().__init__()
        self.even = nn.Conv2d(c_in, c // 2, 1, bias=False)
        self.odd = nn.Conv2d(c_in, c - c // 2, 1, bias=False)
        self.norm = norm(c)

    def forward(self, x):
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x[:, :, ::2, ::2]), self.odd(shifted[:, :, ::2, ::2])], dim=1))


def norm(c):
    return nn.BatchNorm2d(c, affine=False)  # without parameters, so that only alpha weighs the operations


def relu_conv_norm(c_in, c):
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c, 1, bias=False), norm(c))


def separable(c, kernel, stride, dilation=1):
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False)
    return nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), norm(c)


OPERATIONS = {  # (batch, c, H, W) to (batch, c, H / stride, W / stride)
    "none": lambda c, stride: nn.AvgPool2d(1, stride),  # its weight counts in the softmax; its output is left out
    "max_pool_3x3": lambda c, stride: nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(c)),
    "avg_pool_3x3": lambda c, stride: nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm(c)),
    "skip_connect": lambda c, stride: nn.Identity() if stride == 1 else FactorisedReduction(c, c),
    "sep_conv_3x3": lambda c, stride: nn.Sequential(*separable(c, 3, stride), *separable(c, 3, 1)),
    "sep_conv_5x5": lambda c, stride: nn.Sequential(*separable(c, 5, stride), *separable(c, 5, 1)),
    "dil_conv_3x3": lambda c, stride: nn.Sequential(*separable(c, 3, stride, dilation=2)),
    "dil_conv_5x5": lambda c, stride: nn.Sequential(*separable(c, 5, stride, dilation=2)),
}
CANDIDATES = list(OPERATIONS)


class MixedOperation(nn.ModuleDict):
    """Equation 2: the weighted sum of all candidates on one edge."""

    def forward(self, x, weights):  # weights: (candidates,)
        pairs = zip(weights, self.items(), strict=True)
        return sum(weight * candidate(x) for weight, (name, candidate) in pairs if name != "none")


class Cell(nn.Module):
    """Nodes that each sum a mixed operation of every earlier state; the output joins all nodes."""

    def __init__(self, widths, space, reduces, after_reduction):
        super().__init__()
        older, newer, c = widths
        self.nodes, candidates = space
        first = FactorisedReduction(older, c) if after_reduction else relu_conv_norm(older, c)
        self.inputs = nn.ModuleList([first, relu_conv_norm(newer, c)])
        self.edges = nn.ModuleList()  # node by node, each from states 0, 1, ... in order
        for node in range(self.nodes):
            for state in range(node + 2):
                stride = 2 if reduces and state < 2 else 1
                self.edges.append(MixedOperation({name: OPERATIONS[name](c, stride) for name in candidates}))

    def forward(self, older, newer, weights):  # weights: (edges, candidates)
        states = [self.inputs[0](older), self.inputs[1](newer)]
        rows = iter(zip(self.edges, weights, strict=True))
        for _ in range(self.nodes):
            incoming = [next(rows) for _ in states]
            states.append(sum(edge(x, row) for x, (edge, row) in zip(states, incoming, strict=True)))
        return torch.cat(states[2:], dim=1)


class Supernet(nn.Module):
    """All normal cells share one alpha, all reduction cells (at 1/3 and 2/3 of the depth) another."""

    def __init__(self, image_shape, c, cells, space, stem_stride=1):
        super().__init__()
        first = nn.Conv2d(image_shape[0], 3 * c, 3, stem_stride, padding=1, bias=False)
        self.stem, self.cells = nn.Sequential(first, nn.BatchNorm2d(3 * c)), nn.ModuleList()
        self.reduces = [index in (cells // 3, 2 * cells // 3) for index in range(cells)]
        older = newer = 3 * c
        for reduces, after_reduction in zip(self.reduces, [False, *self.reduces], strict=False):
            c = 2 * c if reduces else c
            self.cells.append(Cell((older, newer, c), space, reduces, after_reduction))
            older, newer = newer, space[0] * c
        self.classifier = nn.Linear(newer, image_shape[1])

    def forward(self, images, alpha):  # alpha: [normal, reduction], each (edges, candidates)
        normal, reduction = (matrix.softmax(dim=-1) for matrix in alpha)
        older = newer = self.stem(images)
        for cell, reduces in zip(self.cells, self.reduces, strict=True):
            older, newer = newer, cell(older, newer, reduction if reduces else normal)
        return self.classifier(newer.mean((2, 3)))


def loss_at(supernet, weights, alpha, batch):
    """The loss as a function of weights and alpha; batch statistics, and no running statistic moves."""
    named = dict(zip(dict(supernet.named_parameters()), weights, strict=True))
    named |= {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    return F.cross_entropy(functional_call(supernet, named, (batch[0], alpha)), batch[1])


def first_order(supernet, alpha, train, valid, optimiser):
    """xi = 0: the gradient of L_val(w, alpha) in alpha."""
    return torch.autograd.grad(loss_at(supernet, list(supernet.parameters()), alpha, valid), alpha)


def second_order(supernet, alpha, train, valid, optimiser):
    """Equation 7: grad_alpha L_val(w', alpha) - xi * d2 L_train / (d alpha d w) * grad_w' L_val(w', alpha)."""
    weights, group = list(supernet.parameters()), optimiser.param_groups[0]
    xi, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    gradients = torch.autograd.grad(loss_at(supernet, weights, alpha, train), weights)
    unrolled = []  # w' = w - xi * (momentum * buffer + gradient + decay * w), the step that SGD would take
    for w, gradient in zip(weights, gradients, strict=True):
        buffer = optimiser.state[w].get("momentum_buffer", torch.zeros_like(w))
        unrolled.append((w - xi * (momentum * buffer + gradient + decay * w)).detach().requires_grad_())
    found = torch.autograd.grad(loss_at(supernet, unrolled, alpha, valid), [*alpha, *unrolled])
    direct, vector = found[: len(alpha)], found[len(alpha) :]
    epsilon = 0.01 / torch.cat([v.flatten() for v in vector]).norm()

    def gradient_at(signed):  # of the training loss in alpha, at w +- epsilon * vector around the original w, not w'
        moved = [(w + signed * v).detach() for w, v in zip(weights, vector, strict=True)]
        return torch.autograd.grad(loss_at(supernet, moved, alpha, train), alpha)

    plus, minus = gradient_at(epsilon), gradient_at(-epsilon)
    return [d - xi * (p - m) / (2 * epsilon) for d, p, m in zip(direct, plus, minus, strict=True)]  # equation 8


def bilevel_step(supernet, alpha, train, valid, optimisers, order):
    """Algorithm 1: alpha down the validation loss, then the weights down the training loss; returns the latter."""
    weight_optimiser, alpha_optimiser = optimisers
    hypergradient = first_order if order == 1 else second_order
    for matrix, gradient in zip(alpha, hypergradient(supernet, alpha, train, valid, weight_optimiser), strict=True):
        matrix.grad = gradient
    alpha_optimiser.step()
    weight_optimiser.zero_grad()
    loss = F.cross_entropy(supernet(train[0], [matrix.detach() for matrix in alpha]), train[1])
    loss.backward()
    nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
    weight_optimiser.step()
    return loss.detach()


def discretise(matrix, candidates, nodes):
    """For each node its two strongest incoming edges, on each the strongest operation other than none (section 2.4)."""
    scores = matrix.detach().softmax(dim=-1)
    scores[:, candidates.index("none")] = -1
    strength, best = scores.max(dim=-1)  # (edges,)
    cell, first = [], 0
    for node in range(nodes):
        edges = strength[first : first + node + 2].sort(descending=True, stable=True).indices[:2].tolist()
        cell.append([(candidates[best[first + state]], state) for state in edges])
        first += node + 2
    return cell


def main(order=1, epochs=1, c=8, batch_size=64, steps=None):
    torch.manual_seed(0)
    archive = np.load(Path(__file__).parents[2] / "darts" / "assets" / "fashion_mini.npz")
    images = F.pad(torch.from_numpy(archive["train_images"])[:, None].float(), (2, 2, 2, 2))  # (N, 1, 32, 32)
    images, labels = (images - images.mean()) / images.std(), torch.from_numpy(archive["train_labels"]).long()
    train, valid = torch.randperm(len(images)).chunk(2)  # the training split moves w, the validation split alpha
    supernet = Supernet((1, 10), c, 3, (4, CANDIDATES), stem_stride=2)
    alpha = [(1e-3 * torch.randn(14, len(CANDIDATES))).requires_grad_() for _ in range(2)]
    weight_optimiser = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-4)
    optimisers = weight_optimiser, torch.optim.Adam(alpha, lr=0.01, betas=(0.5, 0.999), weight_decay=1e-3)
    for epoch in range(epochs):
        losses = []
        train, valid = train[torch.randperm(len(train))], valid[torch.randperm(len(valid))]
        for t, v in list(zip(train.split(batch_size), valid.split(batch_size), strict=True))[:steps]:
            batches = (images[t], labels[t]), (images[v], labels[v])
            losses.append(bilevel_step(supernet, alpha, *batches, optimisers, order))
        print(f"epoch {epoch + 1}: training loss {torch.stack(losses).mean():.3f}")
    genotype = {kind: discretise(m, CANDIDATES, 4) for kind, m in zip(("normal", "reduction"), alpha, strict=True)}
    print("\n".join(f"{kind}: {cell}" for kind, cell in genotype.items()))
    return genotype


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))  # order, epochs
