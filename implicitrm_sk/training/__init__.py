"""The training engine: data, plans, members and nets."""
