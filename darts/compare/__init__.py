"""Searched cells against the random-sampling baseline: one protocol, paired seeds, a stated test."""
