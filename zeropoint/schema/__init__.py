"""The vocabulary as data: recipes, reports, the job folder. Torch-free: it is all that the service may know."""
