"""The REST API and the stream, over the service layer."""
