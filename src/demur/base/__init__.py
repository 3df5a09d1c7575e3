"""Floor 0: what every other floor may stand on, errors and the reading of people's files."""
