"""Metrics that are sums, and ROUGE."""
