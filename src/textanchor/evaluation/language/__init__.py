"""Text-only suites through lm-eval, on the text backbone of a vision-language model (extra `language`)."""
