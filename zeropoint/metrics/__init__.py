"""How close two results are: SQNR, cosine, and the metrics of a task."""
