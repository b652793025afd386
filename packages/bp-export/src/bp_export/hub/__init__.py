"""How the Hub is spoken to: names, tokens, bounded retries, and what can go wrong."""
