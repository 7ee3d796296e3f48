"""Found cells against random ones: power first, one protocol, stated tests, one page.

Imports from: search and below.
Public: CompareSettings, forecast, make_report, sentences, write_report.
"""
