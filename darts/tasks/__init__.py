"""What is learned: tasks with their losses and metrics, data sets of images, sounds and texts, batches and pieces.

Imports from: spaces, config, runtime.
Public: Task, Metric, Batch; of images Dataset, search_data, train_data, Batches, RawBatch; of sounds AudioDataset,
Features, LogMel; of texts TextDataset, open_corpus, text_search_data, text_train_data, Pieces; DataSummary, summarise,
content_digest.
"""
