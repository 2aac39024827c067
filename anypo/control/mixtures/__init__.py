"""Mixtures: in which proportions the tasks of a mixture are met."""
