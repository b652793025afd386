"""What pages and API do: one service layer, without a web framework."""
