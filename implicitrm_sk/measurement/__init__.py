"""The measurement model: how a preference shows in what users do."""
