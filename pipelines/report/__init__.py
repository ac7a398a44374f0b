"""One self-contained HTML file about a run: pictures, scores, curves, settings, times."""
