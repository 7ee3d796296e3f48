"""Search without gradients: strategies that ask for the scores of genotypes, evaluators that give them, one ledger."""
