"""What lies beside a model's weights, and small models in files of their own."""
