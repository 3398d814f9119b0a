"""Calibration: statistics of layer inputs from one forward pass, the ranges they give, and profiles that keep them."""
