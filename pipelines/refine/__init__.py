"""Progressive refinement: renders beside the recorded path are enhanced and become training views, round after round farther out."""
