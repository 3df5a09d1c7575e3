"""`demur judge`: verbs about answers, judges and hand labels."""
