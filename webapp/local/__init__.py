"""Embedded servers and the ``up`` supervisor: the whole of Steersman on one machine, nothing installed by hand."""
