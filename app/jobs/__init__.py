"""Jobs: the rows are the truth, a queue message is a hint to look."""
