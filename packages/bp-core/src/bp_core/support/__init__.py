"""What every room uses and that knows none of them: whole files, redaction, logs, the machine."""
