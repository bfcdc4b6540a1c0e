"""Charts as inline SVG: text stays text, colors follow the page, the same numbers give the same bytes."""
