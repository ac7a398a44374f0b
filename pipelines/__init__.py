"""Stages, recipes and the command line that join logs, scenes, enhancers, scores and reports."""
