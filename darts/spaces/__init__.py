"""What may be built: genotypes, their printed forms, search spaces, tables of them, what can be made of a genotype.

Imports from: config, runtime.
Public: Genotype, Cell, Edge, SearchSpace, plan_cells, find_genotype, from_notation, to_notation,
check_membership, published, canonical; of benchmarks to_string, from_string, read_table; of chains Chain, chain_of.
"""
