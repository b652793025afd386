"""The Hub: push, pull, tokens, and what can go wrong."""
