"""Linear classifiers of a text as plain numbers: over n-grams, and over an encoder's vectors."""
