"""The vocabulary as data: recipes, reports, the job folder. Torch-free, so that the service may import it."""
