"""demur inside other people's evaluation harnesses: a run's model under a policy, refusal tasks, and their scores."""
