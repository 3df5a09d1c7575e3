"""Judges: what an answer did. They read text and know no model."""
