"""What was measured, and what other people's harnesses measured."""
