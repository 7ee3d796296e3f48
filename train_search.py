"""Search a cell: python train_search.py [experiment=darts_cifar10] [setting=value ...]; --help shows all settings.

The command itself is darts/search/__main__.py, the search darts/search/loop.py.
"""

from darts.search.__main__ import command

if __name__ == "__main__":
    command()
