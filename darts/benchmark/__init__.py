"""Where the time goes: `python -m darts.benchmark`. measure.py: how; cases.py: what; __main__.py: the command."""
