"""What computes: operations, supernets in their reference and fused forms, GPU kernels, retrained networks, costs.

Imports from: tasks, spaces, config, runtime.
Public: Supernet, FusedSupernet, Network, MixtureWeights, candidate, count_macs, CostModel; of language models
RecurrentSupernet, RecurrentNetwork, activation; of chains ChainSupernet, build_chain, layer.
"""
