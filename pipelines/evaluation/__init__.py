"""Scores of clips against the truth: one registry of metrics, one rule of which frames count."""
