"""Displays in the manner of scikit-learn: data first, then `plot`."""
