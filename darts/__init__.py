"""Differentiable neural architecture search: search a cell, retrain it, compare it with random sampling."""
