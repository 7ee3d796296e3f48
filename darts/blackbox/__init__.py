"""Search by scores of cells: strategies that ask for scores, evaluators that give them, one ledger.

Imports from: train and below.
Public: loop.run, Strategy, Evaluator, EvaluationContext, Scorer, BlackBoxSettings.
"""
