"""Show results: plots, and later the page to mail."""
