"""Where the time goes: steps of the original's way of computing against this one, memory, scaling.

Imports from: search and below.
Public: BenchmarkSettings, measure.
"""
