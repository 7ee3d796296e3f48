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
from darts.tasks.batches import Batch

LOWEST = -1e30  # a score below all others that JSON can hold


def synflow(network: nn.Module, batch: Batch) -> float:
    """log of the sum over weights of |w * dR/dw|, R the network's answer to ones with all weights made positive
    (Tanaka et al. 2020, equation 2), without batch norm, in float64."""
    weights = {name: value.detach().abs().double().requires_grad_() for name, value in network.named_parameters()}
    buffers = {name: value.double() for name, value in network.named_buffers() if value.is_floating_point()}
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(lambda module, given, answer: given[0]) for norm in norms]
    training = network.training
    try:
        ones = torch.ones_like(batch.images[:1], dtype=torch.float64)
        total = torch.func.functional_call(network.eval(), {**weights, **buffers}, (ones,)).sum()
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    products = [(w * s).abs().sum() for w, s in zip(weights.values(), gradients, strict=True) if s is not None]
    return float(torch.stack(products).sum().detach().clamp_min(1e-300).log())


def snip(network: nn.Module, batch: Batch) -> float:
    """The sum over weights of |w * dL/dw| (Lee, Ajanthan, Torr 2019, equation 4)."""
    pairs = zip(network.parameters(), _gradients(network, batch), strict=True)
    return float(sum((w.detach() * s).abs().sum() for w, s in pairs if s is not None))


def grad_norm(network: nn.Module, batch: Batch) -> float:
    """The norm of the loss's gradient in the weights."""
    return float(torch.stack([s.norm() for s in _gradients(network, batch) if s is not None]).norm())


def naswot(network: nn.Module, batch: Batch) -> float:
    """log |det K| of the kernel of equal signs of all rectified units in a batch (Mellor et al. 2021, equation 2).

    A network that cannot tell two images apart has a determinant of 0; its score is `LOWEST` in place of -inf.
    """
    signs: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        signs.append((given[0].detach() > 0).flatten(1).to(torch.float32))

    handles = [m.register_forward_pre_hook(keep) for m in network.modules() if isinstance(m, nn.ReLU)]
    try:
        with frozen_statistics(network), torch.no_grad():
            network(batch.images)
    finally:
        for handle in handles:
            handle.remove()
    kernel = sum(s @ s.T + (1 - s) @ (1 - s).T for s in signs)
    return max(float(torch.linalg.slogdet(torch.as_tensor(kernel).double())[1]), LOWEST)


def jacob_cov(network: nn.Module, batch: Batch) -> float:
    """How little the images' input gradients are correlated: -sum(log(e + k) + 1 / (e + k)) over the eigenvalues e of
    their correlation matrix, k = 1e-5 (Mellor et al. 2020, the paper's first version)."""
    images = batch.images.detach().clone().requires_grad_()
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
    return float(count_macs(network, batch.images[:1]))


PROXIES: dict[Proxy, Callable[[nn.Module, Batch], float]] = {
    Proxy.SYNFLOW: synflow,
    Proxy.SNIP: snip,
    Proxy.GRAD_NORM: grad_norm,
    Proxy.NASWOT: naswot,
    Proxy.JACOB_COV: jacob_cov,
    Proxy.PARAMETERS: parameters,
    Proxy.MACS: macs,
}


def _gradients(network: nn.Module, batch: Batch) -> list[Tensor | None]:
    with frozen_statistics(network):
        loss = F.cross_entropy(network(batch.images), batch.labels)
    return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
