"""Python's way in: the calls that `import darts` offers, each what a command does.

Imports from: compare, benchmark and below.
Public: run_search, run_retraining, run_comparison, settings_of, Bilevel.
"""
