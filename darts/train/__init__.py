"""A genotype's network trained from scratch, with the test at the end, or briefly with validation images.

Imports from: loop and below.
Public: retraining.run, saved.read_network, brief.validation_accuracy, FinalSettings.
"""
