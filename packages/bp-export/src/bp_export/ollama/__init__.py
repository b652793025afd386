"""Ollama: server, names, Modelfile, Go template, registering."""
