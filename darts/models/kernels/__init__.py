"""Triton kernels for what the fused supernet does on a GPU: few launches, each map read as seldom as can be.

Never required: maps.py and folding.py compute the same by PyTorch's operators, and layout.py measures which is faster.
Maps are channels last; a sum is in float32 whatever the maps are.

Imports from: runtime and torch.
Public: rows.serves; linear.mapped, linear.products, linear.moments; depthwise.forward, input_gradient, weight_gradient;
fold.folded.
"""
