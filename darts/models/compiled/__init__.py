"""What the fused supernet and a found cell compute on a CPU, in C, compiled on the user's machine at its first use.

Never required: without a compiler, for other numbers than float32 and on other devices darts/models/fused/maps.py and
folding.py compute the same by PyTorch's operators.

Imports from: models.kernels (rows and types), runtime and torch.
Public: library.available, library.description; operators, by the names of darts/models/kernels/operators.py, and more
for found cells; program.run.
"""
