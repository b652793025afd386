"""One evaluation: what the user names is found and opened, asked, scored, compared, held to gates, and recorded."""
