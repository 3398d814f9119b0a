"""Models and datasets: what was uploaded, checked and kept."""
