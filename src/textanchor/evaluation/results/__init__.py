"""What `Score` rows amount to: the kinds of suites, their metrics and summaries, and what was kept between runs."""
