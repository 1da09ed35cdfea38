"""The closed loop with simulated raters who come in through the pages, and the figures that it must reach."""
