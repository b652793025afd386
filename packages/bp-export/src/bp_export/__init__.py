"""From a LoRA adapter to merged weights, GGUF, Ollama and the Hub, streaming and verified."""
