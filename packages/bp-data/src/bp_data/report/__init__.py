"""The dataset report: collected in one pass, summed up, shown as text and as a page."""
