"""Scores of an untrained network on one batch (Abdelfattah et al. 2021, section 3; Mellor et al. 2021).

All take a network in its initial state and change nothing in it. Higher is better in all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.blackbox.settings import Proxy
from darts.models.batch_norm import frozen_statistics
from darts.models.cost import count_macs, count_parameters_without_auxiliary
from darts.tasks.task import Batch

LOWEST = -1e30  # a score below all others that JSON can hold


def synflow(network: nn.Module, batch: Batch) -> float:
    """log of the sum over the layers' weights of |w * dR/dw|, R the network's answer to ones with all parameters made
    positive (Tanaka et al. 2020, equation 2), without batch norm, in float64."""
    values = {name: value.detach().abs().double().requires_grad_() for name, value in network.named_parameters()}
    buffers = {name: value.double() for name, value in network.named_buffers() if value.is_floating_point()}
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(lambda module, given, answer: given[0]) for norm in norms]
    weights = [values[name] for name in _layer_weights(network)]
    training = network.training
    try:
        ones = torch.ones_like(batch.inputs[:1], dtype=torch.float64)
        total = torch.func.functional_call(network.eval(), {**values, **buffers}, (ones,)).sum()
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    products = [(w * s).abs().sum() for w, s in zip(weights, gradients, strict=True) if s is not None]
    return float(torch.stack(products).sum().detach().clamp_min(1e-300).log())


def snip(network: nn.Module, batch: Batch) -> float:
    """The sum over the layers' weights of |w * dL/dw| (Lee, Ajanthan, Torr 2019, equation 4)."""
    pairs = zip(_layer_weights(network).values(), _gradients(network, batch), strict=True)
    return float(sum((w.detach() * s).abs().sum() for w, s in pairs if s is not None))


def grad_norm(network: nn.Module, batch: Batch) -> float:
    """The sum over layers of the norm of the loss's gradient in their weights (Abdelfattah et al. 2021, 3.2)."""
    return float(sum(s.norm() for s in _gradients(network, batch) if s is not None))


def naswot(network: nn.Module, batch: Batch) -> float:
    """log |det K| of the kernel of equal signs of the rectified units in a batch (Mellor et al. 2021, equation 2).

    Units from which no path leads to the answer do not count. A network that cannot tell two images apart has a
    determinant of 0; its score is `LOWEST` in place of -inf.
    """
    rectified: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        if answer.requires_grad:  # zeros in its place lead nowhere
            rectified.append(answer)

    handles = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, nn.ReLU)]
    try:
        with frozen_statistics(network), torch.enable_grad():
            images = batch.inputs.detach().clone().requires_grad_()
            total = network(images).sum()
            reached = torch.autograd.grad(total, rectified, allow_unused=True) if rectified else ()
    finally:
        for handle in handles:
            handle.remove()
    kernel = torch.zeros(len(batch.inputs), len(batch.inputs), dtype=torch.float64, device=batch.inputs.device)
    for answer, gradient in zip(rectified, reached, strict=True):
        if gradient is not None:
            signs = (answer.detach() > 0).flatten(1).to(torch.float32)
            kernel += signs @ signs.T + (1 - signs) @ (1 - signs).T
    return max(float(torch.linalg.slogdet(kernel)[1]), LOWEST)


def jacob_cov(network: nn.Module, batch: Batch) -> float:
    """How little the images' input gradients are correlated: -sum(log(e + k) + 1 / (e + k)) over the eigenvalues e of
    their correlation matrix, k = 1e-5 (Mellor et al. 2020, the paper's first version)."""
    images = batch.inputs.detach().clone().requires_grad_()
    with frozen_statistics(network):
        total = network(images).sum()
        (gradients,) = torch.autograd.grad(total, images, materialize_grads=True)  # 0 where no path leads to them
    correlations = torch.corrcoef(gradients.flatten(1).double()).nan_to_num()
    values = torch.linalg.eigvalsh(correlations).clamp_min(0) + 1e-5
    return -float((values.log() + 1 / values).sum())


def parameters(network: nn.Module, batch: Batch) -> float:
    """The number of weights."""
    return float(count_parameters_without_auxiliary(network))


def macs(network: nn.Module, batch: Batch) -> float:
    """Multiply-adds of one image."""
    return float(count_macs(network, batch.inputs[:1]))


PROXIES: dict[Proxy, Callable[[nn.Module, Batch], float]] = {
    Proxy.SYNFLOW: synflow,
    Proxy.SNIP: snip,
    Proxy.GRAD_NORM: grad_norm,
    Proxy.NASWOT: naswot,
    Proxy.JACOB_COV: jacob_cov,
    Proxy.PARAMETERS: parameters,
    Proxy.MACS: macs,
}


def _layer_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers, by name: no biases, no batch norms, as the authors count."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found[f"{name}.weight"] = module.weight
    return found


def _gradients(network: nn.Module, batch: Batch) -> list[Tensor | None]:
    """The gradients of the loss in the layers' weights; None for a layer that no answer depends on."""
    with frozen_statistics(network):
        loss = F.cross_entropy(network(batch.inputs), batch.targets)
    return list(torch.autograd.grad(loss, list(_layer_weights(network).values()), allow_unused=True))
