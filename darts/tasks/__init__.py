"""What is learned: data sets, the two splits of a search, batches and their augmentation.

Imports from: spaces, config, runtime.
Public: Dataset, search_data, train_data, Batches, Batch, RawBatch, DataSummary, summarise, content_digest.
"""
