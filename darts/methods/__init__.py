"""The parts of a differentiable method, one file for each place; conf/method/PLACE/ has their constants.

Imports from: models and below; no part calls a collective operation.
Public: Method and the base class of each place: Relaxation, Hypergradient, Schedule, ...
"""
