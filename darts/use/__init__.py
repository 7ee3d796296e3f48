"""Trained networks in use: loaded whole, asked about pictures, exported.

Imports from: train and below.
Public: TrainedNetwork, load_network, predict, Answers.
"""
