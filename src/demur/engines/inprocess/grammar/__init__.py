"""Answers under a JSON schema: processes that compute which tokens may come next."""
