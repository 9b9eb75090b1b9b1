"""The measurement model: how preference shows in what users do."""
