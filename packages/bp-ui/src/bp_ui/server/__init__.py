"""How the UI is served: one process, one port, one guard in front of everything."""
