"""One forward step of the model under the sampling engine: layers, attention, caches, products."""
