"""Metrics: each a pure function of tensors and a `torchmetrics.Metric` that gathers it over batches."""
