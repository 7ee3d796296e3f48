"""What computes: operations, the supernet in its reference and fused form, the retrained network, costs.

Imports from: tasks, spaces, config, runtime.
Public: Supernet, FusedSupernet, Network, MixtureWeights, candidate, count_macs, CostModel.
"""
