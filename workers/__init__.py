"""What works in the background: Celery tasks, the supervisor of training runs, the sampler process, filling the queue.

Importing this package loads nothing heavy; torch is loaded by the sampler process and by training processes alone.
"""
