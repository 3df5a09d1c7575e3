"""How training rows are weighed, set aside and spoken of."""
