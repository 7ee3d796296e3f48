"""Searched cells against randomly drawn ones: one protocol, paired seeds, a stated test, one page.

Imports from: search and below.
Public: CompareSettings, make_report, write_report.
"""
