"""Search by gradients: the bilevel loop, its step, its state, what is measured at the end of an epoch.

Imports from: blackbox (for the settings that both kinds share) and below.
Public: loop.run, SearchSettings, SearchState, search_settings.
"""
