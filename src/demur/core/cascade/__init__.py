"""A cheap front model before the real one: its scores where it is sure, else the model's."""
