"""h-calibration (arXiv 2506.17968): maps, the loss that they are fitted by, and the fit."""
