"""Results for people: console, the paper's tables, figures, HTML."""
