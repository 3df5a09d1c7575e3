"""From goals and labelled scores to thresholds and what they promise."""
