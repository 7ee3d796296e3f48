"""What the loops share: optimisers and one step, a run's position, records, measures, pictures, settings.

Imports from: methods and below.
Public: RunState, Tracker, RunningMeans, Mean, evaluate, descend, environment, measured.
"""
