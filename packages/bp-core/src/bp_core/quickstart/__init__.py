"""The quickstart: the whole path on facts that no model can know."""
