"""The process that draws samples, and how to reach it. Only ``engine.py`` loads torch."""
