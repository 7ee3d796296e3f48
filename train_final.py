"""Retrain a found cell: python train_final.py [genotype=latest] [experiment=darts_cifar10] [setting=value ...].

The command itself is darts/train/__main__.py, the retraining darts/train/retraining.py.
"""

from darts.train.__main__ import command

if __name__ == "__main__":
    command()
