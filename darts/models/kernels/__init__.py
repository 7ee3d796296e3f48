"""Triton kernels for what the fused supernet does on a GPU: few launches, each map read as seldom as can be.

Never required: maps.py and folding.py compute the same by PyTorch's operators, and layout.py measures which is faster.
Maps are channels last; a sum is in float32 whatever the maps are.

Imports from: runtime and torch.
Public: operators, by the names that darts/models/fused/by_hand.py calls; types, what these are given and return;
rows.serves; combine.mapped; products; depthwise; depthwise_gradients; fold.folded.
"""
