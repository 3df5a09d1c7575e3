"""Backends. The only folder that names torch, transformers, trl, peft."""
