"""Saved models: JSON for settings, safetensors for arrays, and no executable code.

A saved model is a folder, or a zip archive, of

- ``implicitrm.json``, the manifest: format version, and size and SHA-256 of the other two;
- ``estimator.json``: constructor parameters and fitted attributes, with arrays by name;
- ``arrays.safetensors``: the arrays;
- ``README.md``: the model card, for people. It is never read, so it may be edited.

In ``estimator.json`` an object always has one key, the kind of its value (`KINDS` in `_values.py`).
Numbers, strings, lists, true, false and null are written directly.
"""
