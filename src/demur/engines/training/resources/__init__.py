"""What a training takes of a machine, reckoned and measured."""
