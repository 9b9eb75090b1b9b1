"""Displays in the manner of scikit-learn, which hold data and have `plot`."""
